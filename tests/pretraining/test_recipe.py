"""Recipes survive as plain values, and say at once what is wrong with them."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowrank
from flowrank.compression import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.pretraining import Data, ModelShape, Optimisation, Recipe, Run, Start, Widths
from flowrank.pretraining.recipe import GROUPS, SETTINGS
from flowrank.synthetic.mixture import FAMILIES

CHRONOS_KEYS = {
    *("training_data_paths", "probability", "context_length", "prediction_length", "max_steps", "save_steps"),
    *("log_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "optim", "seed"),
    *("max_missing_prop", "lr_scheduler_type", "warmup_ratio", "n_tokens", "use_eos_token", "torch_compile"),
    "dataloader_num_workers",
}
"""Of chronos-forecasting's scripts/training/configs."""


@given(
    family=st.sampled_from(["bolt", "t5"]),
    num_decoder_layers=st.none() | st.integers(1, 9),
    schedule=st.none()
    | st.builds(Uniform, st.floats(0.1, 1))
    | st.builds(FlowOfRanks, d0=st.floats(1, 9), alpha=st.floats(0, 1), rounding=st.sampled_from(["ceil"]))
    | st.builds(Widths, st.lists(st.integers(1, 64), min_size=1).map(tuple)),
    training_data_paths=st.lists(st.text(), max_size=3).map(tuple),
    lengths=st.lists(st.integers(4, 512), min_size=1, max_size=5).map(tuple),
    shares=st.dictionaries(st.sampled_from(sorted(FAMILIES)), st.floats(0.1, 3), min_size=1),
    minutes=st.none() | st.floats(0.1, 1e4),
    quantiles=st.sets(st.floats(0.1, 0.9), min_size=1).map(lambda levels: tuple(sorted(levels))),
    easy_share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_through_json_and_back(**values):
    recipe = Recipe(max_steps=10, **values)
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(plain) == recipe
    assert list(plain) == [one.name for group in GROUPS.values() for one in fields(group)]


def test_from_some_of_the_keys():
    assert Recipe.from_dict({"max_steps": 5, "lengths": [32, 64]}) == Recipe(max_steps=5, lengths=(32, 64))
    schedule = {"name": "FlowOfRanks", "d0": 3, "alpha": 0.27}
    assert Recipe.from_dict({"max_steps": 5, "schedule": schedule}).schedule == FlowOfRanks(d0=3, alpha=0.27)


def test_names_are_those_of_chronos_and_documented():
    assert set(SETTINGS) >= CHRONOS_KEYS
    for group in GROUPS.values():
        documented = inspect.getdoc(group) or ""
        assert all(one.name in documented for one in fields(group))


def test_unknown_keys_are_refused_with_the_nearest_one():
    with pytest.raises(FlowrankError, match="did you mean 'learning_rate'"):
        Recipe.from_dict({"max_steps": 5, "learning_rates": 1e-3})
    with pytest.raises(FlowrankError, match="'zzz'"):
        Recipe.from_dict({"max_steps": 5, "zzz": 1})


@pytest.mark.parametrize("raw", [{"lengths": 32}, {"probability": 0.5}, {"quantiles": 0.5, "lengths": 4}])
def test_values_of_the_wrong_kind(raw):
    with pytest.raises(FlowrankError, match="recipe"):
        Recipe.from_dict({"max_steps": 5, **raw})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, bad) for name in ("d_model", "d_kv", "num_heads", "eval_series") for bad in (0, -1, 1.5, True, "8")),
        *((name, bad) for name in ("save_steps", "log_steps", "per_device_train_batch_size") for bad in (0, None)),
        *((name, bad) for name in ("num_decoder_layers", "max_steps") for bad in (0, 2.5, "3")),
        *((name, "sgd") for name in ("family", "optim", "lr_scheduler_type", "precision")),
        *((name, bad) for name in ("easy_share", "max_missing_prop", "cooldown_ratio") for bad in (-0.1, 1.1, "1")),
        *((name, bad) for name in ("muon_learning_rate", "output_scale", "max_grad_norm") for bad in (0, -1, None)),
        *(("learning_rate", bad) for bad in (0, -1, "fast")),
        *((name, bad) for name in ("seed", "easy_steps", "dataloader_num_workers") for bad in (-1, 0.5, True, None)),
        *(("minutes", bad) for bad in (0, -5, "10", float("nan"))),
        *(("horizons", bad) for bad in ((0,), (65,), (12.0,), (True,), ("12",))),
        *(("lengths", bad) for bad in ((), (3,), (513,), (32.0,), (True,), ("32",))),
        *(("n_tokens", bad) for bad in (7, 8.0)),
        *(("schedule", bad) for bad in (0.5, "Uniform")),
        *(("probability", bad) for bad in ((0.5,), (0.6, 0.6), (-0.1, 0.5), (None, 0.5), (0.1, 0.1, 0.1))),
        *(("quantiles", bad) for bad in ((), (0.0, 0.5), (10, 50), (0.5, 0.5), (0.9, 0.1), ("0.5",))),
        ("seed", 2**32),
        ("weight_decay", -0.1),
        ("shares", {"sines": 1.0}),
        ("token_embedding", "amazon/chronos-t5-tiny"),
    ],
)
def test_bad_values(name, bad):
    paths = {"training_data_paths": ("a.csv", "b.csv")} if name == "probability" else {}
    sound = Recipe(max_steps=5, minutes=5.0, **paths)
    with pytest.raises(FlowrankError, match=name):
        replace(sound, **{name: bad})


def test_something_ends_a_training():
    with pytest.raises(FlowrankError, match="max_steps"):
        Recipe()
    assert Recipe(minutes=1).max_steps is None
    assert Recipe(max_steps=1).minutes is None


def test_bolt_has_no_token_embedding_to_freeze():
    with pytest.raises(FlowrankError, match="token_embedding"):
        Recipe(max_steps=1, freeze_token_embedding=True)
    assert Recipe(max_steps=1, family="t5", freeze_token_embedding=True).freeze_token_embedding


def test_shares_of_files():
    paths = ("a.csv", "b.csv", "c.csv", "d.csv")
    assert Recipe(max_steps=1).data_shares() == ()
    assert Recipe(max_steps=1, training_data_paths=paths).data_shares() == (0.25,) * 4
    some = Recipe(max_steps=1, training_data_paths=paths[:2], probability=(0.5, 0.25))
    assert some.data_shares() == (0.5, 0.25)


def test_decoder_layers():
    assert Recipe(max_steps=1, num_layers=6).decoder_layers == 6
    assert Recipe(max_steps=1, num_layers=6, num_decoder_layers=1).decoder_layers == 1


class TestGroups:
    """A recipe is five values, and reads and is written as one flat list of settings."""

    def test_every_setting_is_in_one_group(self):
        names = [one.name for group in GROUPS.values() for one in fields(group)]
        assert len(names) == len(set(names)) == len(SETTINGS) == 55
        assert [one.name for one in fields(Recipe)] == list(GROUPS)
        assert not set(names) & set(GROUPS)

    def test_groups_and_single_settings_say_the_same(self):
        grouped = Recipe(
            model=ModelShape(family="t5", d_model=64),
            start=Start(token_embedding="donor"),
            data=Data(lengths=(64,)),
            optimisation=Optimisation(max_steps=9, optim="adamw"),
            run=Run(seed=3),
        )
        flat = Recipe(
            family="t5", d_model=64, token_embedding="donor", lengths=(64,), max_steps=9, optim="adamw", seed=3
        )
        assert grouped == flat
        assert hash(grouped.model) == hash(flat.model)

    def test_settings_go_before_those_of_their_group(self):
        recipe = Recipe(model=ModelShape(d_model=64, d_ff=32), d_model=48, max_steps=1)
        assert (recipe.model.d_model, recipe.model.d_ff) == (48, 32)

    def test_reads_by_name(self):
        recipe = Recipe(max_steps=7, num_layers=6, training_data_paths=("a.csv",))
        for name, group in SETTINGS.items():
            assert getattr(recipe, name) == getattr(getattr(recipe, group), name)
        assert recipe.data_shares() == recipe.data.data_shares() == (1.0,)
        with pytest.raises(AttributeError, match="no attribute 'd_modle'"):
            _ = recipe.d_modle
        with pytest.raises(AttributeError):
            _ = recipe.__no_such_thing__

    def test_replacing_groups_and_settings(self):
        recipe = Recipe(max_steps=7, seed=3)
        assert replace(recipe, seed=4).run == Run(seed=4)
        assert replace(recipe, seed=4).optimisation == recipe.optimisation
        assert replace(recipe, run=Run(log_steps=2), seed=5).run == Run(log_steps=2, seed=5)

    def test_frozen_and_copied(self):
        recipe = Recipe(max_steps=7, schedule=Uniform(0.5))
        for name in ("d_model", "model", "new"):
            with pytest.raises(FrozenInstanceError):
                setattr(recipe, name, 1)
        for again in (copy.copy(recipe), copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
            assert again == recipe

    def test_what_no_group_knows_is_refused(self):
        with pytest.raises(FlowrankError, match="did you mean 'd_model'"):
            Recipe(d_modle=64, max_steps=1)
        with pytest.raises(FlowrankError, match="run: expected a value of Run, found 7"):
            Recipe(max_steps=1, run=7)

    @pytest.mark.parametrize(
        ("group", "values"),
        [
            (ModelShape, {"d_model": 0}),
            (Start, {"initial_model": "a", "grown_from": "b"}),
            (Data, {"lengths": (3,)}),
            (Optimisation, {}),
            (Run, {"seed": -1}),
        ],
    )
    def test_groups_refuse_by_themselves(self, group, values):
        with pytest.raises(FlowrankError):
            group(**values)

    @pytest.mark.parametrize("family", ["bolt", "t5"])
    def test_sizes_are_those_of_the_published_models(self, family):
        base = ModelShape.of_size("base", family=family)
        assert (base.family, base.d_model, base.d_ff, base.num_heads, base.num_layers) == (family, 768, 3072, 12, 12)
        assert ModelShape.of_size("tiny", d_kv=8).d_kv == 8
        with pytest.raises(FlowrankError, match=r"size: expected one of tiny, .*found 'huge'"):
            ModelShape.of_size("huge")

    @pytest.mark.parametrize("name", flowrank.embedded_models())
    def test_recipes_of_the_embedded_models_are_read(self, name):
        told = flowrank.load(name).recipe["pretraining"]
        raw = told["recipe"]
        assert Recipe.from_dict(raw).to_dict() | raw == Recipe.from_dict(raw).to_dict()
