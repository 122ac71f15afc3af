from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from flowrank import FlowrankError
from flowrank.engine.sampling import Sampling, _largest
from flowrank.graphs.noise import series_keys, uniforms


def transformers_probabilities(logits, temperature, top_k, top_p, forbidden):
    """What transformers' own processors leave, in the order in which `generate` applies them."""
    steps = LogitsProcessorList([MinNewTokensLengthLogitsProcessor(1, 5, forbidden, device="cpu")])
    steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    return steps(torch.ones(len(logits), 1, dtype=torch.long), logits.clone()).softmax(dim=-1)


def probabilities(sampling, logits):
    scores, tokens = sampling.candidates(logits.clone())
    found = scores.softmax(dim=-1)
    return found if tokens is None else torch.zeros_like(logits).scatter_(1, tokens, found)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.sampled_from([7, 64, 2048]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 50, 5000]),
    top_p=st.sampled_from([0.0, 0.05, 0.7, 1.0]),
    ties=st.booleans(),
)
@example(seed=293467, vocabulary=2048, temperature=1.0, top_k=0, top_p=0.7, ties=True)
def test_candidates_are_those_of_transformers(seed, vocabulary, temperature, top_k, top_p, ties):
    logits = 3 * torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed))
    if ties:
        logits = logits.round()
    sampling = Sampling(temperature, top_k, top_p, forbidden=1)
    expected = transformers_probabilities(logits, temperature, top_k, top_p, forbidden=1)
    found = probabilities(sampling, logits)
    if ties and top_p < 1:
        # Which of several equal tokens the nucleus keeps is left open by transformers' own sort; and where their mass
        # ends at top_p but for rounding, so is whether the last of them is in.
        expected, found = expected.sort(dim=1).values, found.sort(dim=1).values
        more = (found > 0).sum(dim=1) - (expected > 0).sum(dim=1)
        assert more.abs().max() <= 1
        last = torch.where(found > 0, found, 1.0).amin(dim=1)
        assert ((found - expected).abs().sum(dim=1)[more != 0] <= 2.1 * last[more != 0]).all()
        expected, found = expected[more == 0], found[more == 0]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@given(st.integers(0, 10**6), st.sampled_from([1, 3, 20, 51]), st.booleans())
def test_the_search_by_groups_finds_the_largest(seed, count, ties):
    rows = torch.randn(3, 4096, generator=torch.Generator().manual_seed(seed))
    rows = rows.mul(20).round() if ties else rows
    values, places = _largest(rows, count)
    assert torch.equal(values.sort(descending=True).values, rows.topk(count).values)
    assert all(len(set(row)) == count for row in places.tolist())
    assert torch.equal(rows.gather(1, places), values)


def test_a_small_change_of_logits_changes_few_draws_a_little():
    values = torch.arange(1024.0)
    logits = -(((values - 500) / 15) ** 2)[None].repeat(2, 1)
    logits[1] = -(((values - 501) / 15) ** 2)
    noise = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    drawn = Sampling(top_k=50).draw(logits, noise).double()
    assert (drawn[1] - drawn[0] - 1).abs().mean() < 0.1  # independent draws would differ by 12


def test_draws_follow_the_distribution():
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(0.8, top_k=6, forbidden=1)
    draws = sampling.draw(logits.clone(), torch.rand(2, 50_000, generator=torch.Generator().manual_seed(1)))
    counted = torch.stack([row.bincount(minlength=40) for row in draws]) / draws.shape[1]
    expected = transformers_probabilities(logits, 0.8, 6, 1.0, forbidden=1)
    assert (counted - expected).abs().max() < 0.01
    assert not counted[expected == 0].any()


def test_the_ends_of_the_unit_interval_draw_what_may_be_drawn():
    logits = torch.tensor([[0.0, 9.0, 1.0, -torch.inf]])
    drawn = Sampling(forbidden=1).draw(logits, torch.tensor([[0.0, 1 - 2**-24]]))
    assert drawn.tolist() == [[0, 2]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(2, 8)
    logits[1, 3] = value
    with pytest.raises(FlowrankError, match="finite logits"):
        Sampling(top_k=3).draw(logits, torch.rand(2, 1))


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": -1}, {"top_k": 2.5}, {"top_p": -0.1}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(FlowrankError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_noise_belongs_to_a_series_a_seed_and_a_block():
    nan = np.nan
    batch = np.array([[nan, nan, 1.0, nan, 2.0], [5.0, 4.0, 3.0, 2.0, 1.0], [nan] * 5])
    keys = series_keys(batch, 3, 0)
    assert keys[0] == series_keys(np.array([[1.0, nan, 2.0]]), 3, 0)[0]
    assert keys[2] == series_keys(np.array([[nan]]), 3, 0)[0]
    others = [series_keys(batch, 4, 0)[0], series_keys(batch, 3, 1)[0], series_keys(4 * batch, 3, 0)[0]]
    assert len({*keys, *others}) == 6
    together, alone = uniforms(keys, 4, 2), uniforms(keys[1:2], 4, 2)
    assert np.array_equal(together[1], alone[0])
    assert not np.array_equal(together[0], together[1])
    assert 0 <= float(together.min()) <= float(together.max()) < 1
