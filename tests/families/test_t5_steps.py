"""Quantiles step by step are those of the stock class's next tokens, and of many drawn first steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowrank
from flowrank.errors import FlowrankError
from flowrank.family import family_of

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def pipeline():
    return flowrank.load("flow-t5-mini")


def series():
    rng = np.random.default_rng(0)
    time = np.arange(90)
    waves = 3 + np.sin(2 * np.pi * time / 12) + 0.1 * rng.standard_normal((3, 90))
    waves[1, 7:12] = np.nan
    return [torch.tensor(waves[0, :80]), torch.tensor(waves[1, :80]), torch.tensor(waves[2, 50:80])], torch.tensor(
        waves[:, 80:]
    )


@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_they_are_those_of_the_stock_class(pipeline, engine):
    """One series and one step at a time, through generate's own arguments, with bins added up in Python."""
    contexts, futures = series()
    pipeline.engine = engine
    try:
        found = family_of(pipeline).step_quantiles([one.float() for one in contexts], futures.float(), LEVELS)
    finally:
        pipeline.engine = "exact"
    model, tokenizer, config = pipeline.inner_model, pipeline.tokenizer, pipeline.model.config
    width = float(tokenizer.centers[1] - tokenizer.centers[0])
    for row, (context, future) in enumerate(zip(contexts, futures.float(), strict=True)):
        ids, mask, scale = tokenizer.context_input_transform(context.float()[None])
        for step in (0, 1, 6):
            told, _, _ = tokenizer._input_transform(future[None, :step], scale)
            start = torch.zeros(1, 1, dtype=torch.long)
            with torch.no_grad():
                logits = model(
                    input_ids=ids, attention_mask=mask, decoder_input_ids=torch.cat([start, told], dim=1)
                ).logits[0, -1]
            logits[config.eos_token_id] = -torch.inf
            kept = set(logits.topk(config.top_k).indices.tolist())
            weights = {token: float(logits[token].double().exp()) for token in sorted(kept)}
            total, below, expected = sum(weights.values()), 0.0, []
            for level in LEVELS:
                below = 0.0
                for token, weight in weights.items():
                    if (below + weight) / total >= level:
                        share = (level - below / total) / (weight / total)
                        place = max(0, token - config.n_special_tokens - 1)
                        expected.append(float(tokenizer.centers[place]) + (share - 0.5) * width)
                        break
                    below += weight
            np.testing.assert_allclose(found[row, step], np.array(expected) * float(scale), rtol=2e-4)


def test_they_are_those_of_drawn_first_steps(pipeline):
    contexts, futures = series()
    found = family_of(pipeline).step_quantiles([contexts[0].float()], futures[:1].float(), LEVELS)[0, 0]
    drawn = pipeline.predict(contexts[0].float(), prediction_length=1, num_samples=4000, seed=0)[0, :, 0]
    step = family_of(pipeline).input_step * float(contexts[0].abs().mean())
    np.testing.assert_allclose(found, np.quantile(drawn, LEVELS), atol=1.5 * step)


def test_models_without_paths_have_none():
    with pytest.raises(FlowrankError, match="step by step"):
        family_of(flowrank.load("flow-bolt-mini")).step_quantiles([torch.ones(8)], torch.ones(1, 2), LEVELS)
