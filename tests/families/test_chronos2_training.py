"""Batches, losses and beginnings of Chronos-2, against the stock class and its documentation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from chronos.chronos2.model import Chronos2Model

from flowrank.errors import FlowrankError
from flowrank.families.chronos2.growth import take_from_encoder
from flowrank.families.chronos2.training import QUANTILES, Chronos2Training, normalised_quantiles
from flowrank.family.objectives import quantile_objective
from flowrank.pipelines import load
from flowrank.pretraining import Recipe, Widths
from flowrank.pretraining.architecture import build
from flowrank.pretraining.store import SeriesStore
from flowrank.pretraining.windows import VALIDATION, Windows

TRAINING = Chronos2Training()
TINY = {
    "family": "chronos2",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 2,
    "context_length": 64,
    "prediction_length": 24,
    "input_patch_size": 8,
    "lengths": (24, 64),
    "max_steps": 6,
    "per_device_train_batch_size": 24,
    "precision": "float32",
}


def recipe(**changes) -> Recipe:
    return Recipe(**{**TINY, **changes})


def model(**changes) -> Chronos2Model:
    torch.manual_seed(0)
    made = Chronos2Model(TRAINING.config(recipe(**changes)))
    TRAINING.initialise(made, recipe(**changes))
    return made.eval()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(
        torch.equal(one[name].nan_to_num(-9e9), other[name].nan_to_num(-9e9)) for name in one
    )


def test_levels_of_the_published_model():
    assert (0.01, *np.round(np.arange(0.05, 0.96, 0.05), 2).tolist(), 0.99) == QUANTILES
    assert recipe().quantiles == QUANTILES
    assert recipe(quantiles=(0.1, 0.5)).quantiles == (0.1, 0.5)
    assert len(Recipe(max_steps=1).quantiles) == 9


def test_config_is_read_back():
    config = TRAINING.config(recipe())
    assert config.chronos_config["max_output_patches"] == 3
    assert config.chronos_pipeline_class == "Chronos2Pipeline"
    fields = TRAINING.fields(config)
    assert all(fields[name] == getattr(recipe(), name) for name in fields)
    with pytest.raises(FlowrankError, match="d_kv"):
        TRAINING.config(recipe(d_kv=7))


def test_horizons_are_whole_patches():
    assert TRAINING.target_lengths(recipe()) == (8, 16, 24)
    assert TRAINING.target_lengths(recipe(horizons=(5,))) == (5,)
    windows = Windows(recipe(), batches=40)
    assert {windows.batch(number)["future_target"].shape[1] for number in range(40)} == {8, 16, 24}


def test_batches_are_of_whole_groups():
    windows = Windows(recipe(), batches=20)
    sizes = []
    for number in range(20):
        batch = windows.batch(number)
        assert len(batch["context"]) == 24
        assert batch["group_ids"][0] == 0
        assert all(after - before in (0, 1) for before, after in pairwise(batch["group_ids"].tolist()))
        known = ~batch["future_covariates"].isnan()
        assert not (known & ~batch["future_target"].isnan()).any()
        assert (~batch["future_target"].isnan()).any(dim=1).any()
        sizes += torch.bincount(batch["group_ids"])[:-1].tolist()
        seen = batch["context"].abs().nanmean(dim=1)
        assert torch.allclose(seen[seen > 0], torch.ones(()), atol=1e-4)
    assert 1.8 < np.mean(sizes) < 3.5
    assert max(sizes) > 5


def test_batch_depends_on_recipe_and_number_only():
    one, other = Windows(recipe(), batches=6), Windows(recipe(max_steps=99, d_model=32), batches=100)
    assert same(one.batch(5), other.batch(5))
    assert not same(one.batch(0), one.batch(24))
    assert not same(one.batch(0), Windows(recipe(), batches=1, stream=VALIDATION).batch(0))
    examples = one.__getitems__(range(24, 48))
    batch = one.batch(1)
    assert all(torch.equal(torch.stack([e["group_ids"] for e in examples]), batch["group_ids"]) for _ in "1")


def test_real_series_are_groups_of_one():
    class Clock(SeriesStore):
        def __init__(self):
            pass

        def windows(self, rng, rows, length):
            return 10 + np.tile(np.arange(length) % 2, (rows, 1)).astype(float)

    made = recipe(training_data_paths=("x",), probability=(1.0,), shares={"calendar": 1.0})
    batch = Windows(made, batches=1, stores=[Clock()]).batch(0)
    assert batch["group_ids"].tolist() == list(range(24))
    assert batch["future_covariates"].isnan().all()


def test_the_stock_loss_takes_a_batch():
    batch = Windows(recipe(), batches=1).batch(0)
    output = model()(**TRAINING.inputs(recipe(), batch))
    assert output.quantile_preds.shape == (24, 21, batch["future_target"].shape[1])
    assert torch.isfinite(output.loss)


def test_a_known_future_changes_its_own_group_only():
    made, batch = model(), None
    windows = Windows(recipe(lengths=(64,)), batches=9)
    for number in range(9):
        batch = windows.batch(number)
        known = ~batch["future_covariates"].isnan().all(dim=1)
        if known.any():
            break
    row = int(known.nonzero()[0])
    before = made(**TRAINING.inputs(recipe(), batch)).quantile_preds
    batch["future_covariates"][row] += 3
    after = made(**TRAINING.inputs(recipe(), batch)).quantile_preds
    changed = (before != after).flatten(1).any(dim=1)
    assert torch.equal(changed, batch["group_ids"] == batch["group_ids"][row])


def test_normalised_quantiles_are_those_of_the_stock_class():
    made = model()
    batch = Windows(recipe(), batches=1).batch(0)
    quantiles, units = normalised_quantiles(made, batch)
    stock = made(**TRAINING.inputs(recipe(), batch)).quantile_preds
    by_hand = torch.sinh(quantiles) * units[1][..., None] + units[0][..., None]
    torch.testing.assert_close(by_hand, stock, rtol=1e-4, atol=1e-4)


def test_objective_counts_what_is_not_known_ahead():
    parent = model()
    torch.manual_seed(1)
    child = Chronos2Model(TRAINING.config(recipe())).eval()
    batch = Windows(recipe(), batches=9).batch(3)
    loss = TRAINING.objective(parent, distillation=0.7, truth=0.3)(child, batch)
    with torch.no_grad():
        rows = [n for n in range(24) if bool(batch["future_covariates"][n].isnan().all())]
        (taught, (loc, scale)), (found, _) = (normalised_quantiles(one, batch) for one in (parent, child))
        target = torch.arcsinh((batch["future_target"] - loc) / scale)
        expected = quantile_objective(
            found[rows], taught[rows], target[rows], torch.tensor(QUANTILES), distillation=0.7, truth=0.3
        )
    assert 0 < len(rows) < 24
    torch.testing.assert_close(loss.detach(), expected)
    assert loss.requires_grad


def test_a_beginning_from_a_bolt():
    """The first layer's feed-forward branch and values are the Bolt's, its patches are read alike, groups not yet."""
    bolt = load("flow-bolt-mini").inner_model
    shape = {name: getattr(bolt.config, name) for name in ("d_model", "d_kv", "d_ff", "num_heads")}
    sizes = {**shape, "num_layers": 5, "input_patch_size": 16, "prediction_length": 64}
    made = model(**sizes)
    untouched = {name: one.detach().clone() for name, one in made.named_parameters()}
    taken = take_from_encoder(made, bolt)
    block, other = made.encoder.block[0].layer, bolt.encoder.block[0].layer
    hidden = torch.randn(2, 7, 128)
    torch.testing.assert_close(block[2].mlp(hidden), other[1].DenseReluDense(hidden))
    torch.testing.assert_close(block[0].self_attention.v(hidden), other[0].SelfAttention.v(hidden))
    patches = torch.randn(2, 7, 32)
    timed = torch.cat([torch.randn(2, 7, 16), patches], dim=-1)
    torch.testing.assert_close(made.input_patch_embedding(timed), bolt.input_patch_embedding(patches))
    assert not block[1].self_attention.o.weight.any()
    changed = {name for name, one in made.named_parameters() if not torch.equal(one, untouched[name])}
    groups = {f"encoder.block.{n}.layer.1.self_attention.o.weight" for n in range(4)}
    assert changed == set(taken) | groups
    assert not any(name.startswith("encoder.block.4") for name in changed)
    assert not any(".q." in name for name in take_from_encoder(model(**sizes), bolt, queries=False))


@pytest.mark.parametrize("donor", ["flow-bolt-mini", "flow-t5-mini", None])
def test_what_does_not_fit_is_refused(donor):
    """A Bolt of other widths, a model without patches, and a model of the same class."""
    made = model(**({} if donor == "flow-bolt-mini" else {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 512}))
    before = {name: one.detach().clone() for name, one in made.named_parameters()}
    other = load(donor).inner_model if donor else model(d_model=128, d_kv=32, num_heads=4, d_ff=512)
    with pytest.raises(FlowrankError, match="grown_from"):
        take_from_encoder(made, other)
    assert all(torch.equal(one, before[name]) for name, one in made.named_parameters())


def test_bfloat16_gives_finite_gradients_where_a_token_has_none_to_attend_to():
    """Rows that begin late are alone with empty patches; masks that bfloat16 rounds to minus infinity make them NaN."""
    made = model().train()
    for block in made.encoder.block:
        block.layer[0].self_attention.config._attn_implementation = "eager"
    batch = {
        "context": torch.full((3, 64), torch.nan),
        "group_ids": torch.tensor([0, 0, 1]),
        "future_covariates": torch.full((3, 8), torch.nan),
        "future_target": torch.randn(3, 8),
    }
    batch["context"][:, 50:] = torch.randn(3, 14)
    exact = made(**TRAINING.inputs(recipe(), batch)).loss
    with TRAINING.prepared(made):
        torch.testing.assert_close(made(**TRAINING.inputs(recipe(), batch)).loss, exact)
        with torch.autocast("cpu", torch.bfloat16):
            loss = made(**TRAINING.inputs(recipe(), batch)).loss
        loss.backward()
    torch.testing.assert_close(loss.float(), exact, rtol=0.1, atol=0.1)
    assert all(torch.isfinite(one.grad).all() for one in made.parameters() if one.grad is not None)
    assert not any(block._forward_pre_hooks for block in made.encoder.block)


def test_initial_spread_of_every_matrix():
    """T5's, 1 / √(features read), less for queries and for what forecasts are read off, the recipe's for patches."""
    sizes = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "patch_spread": 0.7, "initializer_factor": 0.5}
    drawn = recipe(**sizes)
    spreads = {
        "q.": (128 * 32) ** -0.5,
        "wo": 256**-0.5,
        "input_patch": 0.7,
        "output_patch_embedding.output": 0.1 * 256**-0.5,
        "output_patch_embedding.residual": 0.1 * 128**-0.5,
        "shared": 1.0,
    }
    for name, weight in model(**sizes).named_parameters():
        if weight.ndim == 1:
            assert float(weight.detach().abs().max()) == (0.0 if "bias" in name else 0.5)
            continue
        std = next((spread for part, spread in spreads.items() if part in name), 128**-0.5)
        assert float(weight.detach().std()) == pytest.approx(0.5 * std, rel=5 / (2 * weight.numel()) ** 0.5), name
    narrow = build(replace(drawn, schedule=Widths((4, 8)))).inner_model
    for number, width in enumerate((4, 8)):
        for place in (0, 1):
            layer = narrow.encoder.block[number].layer[place].self_attention
            for name, std in (("q", (128 * width) ** -0.5), ("k", 128**-0.5), ("o", (4 * width) ** -0.5)):
                weight = getattr(layer, name).weight.detach()
                assert float(weight.std()) == pytest.approx(0.5 * std, rel=5 / (2 * weight.numel()) ** 0.5), name
