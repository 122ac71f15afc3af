"""Recipes from YAML: our own keys, and those of chronos-forecasting and of the authors of the schedule."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from flowrank import FlowOfRanks, Uniform
from flowrank.errors import FlowrankError
from flowrank.families.chronos_t5.training import settings_of
from flowrank.family import SIZES
from flowrank.pretraining import Data, Recipe, Widths
from flowrank.pretraining.config import read_recipe, read_settings, recipe_of, to_yaml

THEIRS = """
training_data_paths:
- "mixed.parquet"
- "gp.parquet"
probability: [0.9, 0.1]
context_length: 512
prediction_length: 64
min_past: 60
max_steps: 200_000
save_steps: 100_000
log_steps: 500
per_device_train_batch_size: 8
learning_rate: 0.001
optim: adamw_torch_fused
num_samples: 20
shuffle_buffer_length: 100_000
gradient_accumulation_steps: 1
model_id: google/t5-efficient-small
model_type: seq2seq
random_init: true
tie_embeddings: true
output_dir: ./output/
tf32: true
torch_compile: true
tokenizer_class: "MeanScaleUniformBins"
tokenizer_kwargs:
  low_limit: -15.0
  high_limit: 15.0
n_tokens: 4096
lr_scheduler_type: linear
warmup_ratio: 0.0
dataloader_num_workers: 1
max_missing_prop: 0.9
use_eos_token: true
"""
NARROW = """
min_future: 64
base_tilde_d: 7
beta: 0.40
use_pretrain_tokenizer: false
pretrain_tokenizer_path: "PLACEHOLDER"
"""


@pytest.fixture
def written(tmp_path):
    """Write a config and give its path."""

    def write(text: str):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def with_line(text: str, line: str) -> str:
    """Put a line in the place of that with the same key, or at the end; '-key' takes it out."""
    key = line.removeprefix("-").split(":")[0]
    kept = [old for old in text.splitlines() if not old.startswith(f"{key}:")]
    if key == "tokenizer_kwargs":
        kept = [old for old in kept if not old.startswith("  ")]
    return "\n".join(kept if line.startswith("-") else [*kept, line]) + "\n"


class TestOwnKeys:
    @pytest.mark.parametrize(
        "recipe",
        [
            Recipe(max_steps=10),
            Recipe(minutes=1.5, family="t5", schedule=FlowOfRanks(d0=3, alpha=0.3, rounding="power_of_two")),
            Recipe(max_steps=1, schedule=Widths((4, 4, 4, 4, 8, 8, 8, 8)), lengths=(32,), learning_rate=1e-5),
            Recipe(max_steps=1, schedule=Uniform(0.5), training_data_paths=("ä: b.csv",), probability=(0.5,)),
            Recipe(max_steps=1, shares={"calendar": 1.0}, quantiles=(0.5,), num_decoder_layers=2),
        ],
        ids=["defaults", "flow", "widths", "data", "shares"],
    )
    def test_written_and_read_back(self, written, recipe):
        path = written(to_yaml(recipe))
        assert read_recipe(path) == recipe
        assert read_settings(path)[1] == []
        assert path.read_text(encoding="utf-8").startswith(f"family: {recipe.family}\nd_model: 256\n")

    def test_values_as_people_write_them(self, written):
        text = (
            "max_steps: 1_000\nlearning_rate: 1e-3\ntraining_data_paths: one.csv\nlengths: 64\nseed:\nweight_decay: 1"
        )
        recipe = read_recipe(written(text))
        assert (recipe.max_steps, recipe.learning_rate, recipe.weight_decay, recipe.seed) == (1000, 1e-3, 1, 0)
        assert recipe.training_data_paths == ("one.csv",)
        assert recipe.lengths == (64,)

    def test_overrides_go_before_the_file(self, written):
        path = written("max_steps: 5\nd_model: 64\nschedule: {name: Uniform, ratio: 0.5}")
        recipe = read_recipe(path, d_model=32, schedule=None, minutes=2)
        assert (recipe.max_steps, recipe.d_model, recipe.schedule, recipe.minutes) == (5, 32, None, 2)

    @pytest.mark.parametrize(
        ("settings", "overrides", "lengths"),
        [
            ({}, {}, Data.lengths),
            ({"context_length": 128}, {}, (32, 64, 96, 128)),
            ({"context_length": 1000}, {}, (*Data.lengths, 1000)),
            ({"context_length": 16}, {}, (16,)),
            ({"lengths": [50, 90]}, {"context_length": 80}, (50, 80)),
            ({"context_length": 512}, {"lengths": (70,)}, (70,)),
            ({"context_length": 512, "lengths": [70]}, {}, (70,)),
        ],
    )
    def test_context_lengths_follow_the_longest(self, settings, overrides, lengths):
        assert recipe_of(settings, max_steps=1, **overrides).lengths == lengths

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("d_modle: 64", "'d_modle'; did you mean 'd_model'"),
            ("d_model: wide", "d_model: .*'wide'"),
            ("learning_rate: fast", "learning_rate: expected a number, found 'fast'"),
            ("torch_compile: 'no'", "torch_compile: expected true or false"),
            ("token_embedding: 7", "token_embedding: expected text"),
            ("training_data_paths: [1]", "training_data_paths: expected text"),
            ("schedule: {name: Steep}", "schedule: "),
            ("shares: {weather: 1}", "shares: "),
            ("family: gpt", "family: "),
            ("d_model 64", "config: .*form key: value"),
            ("1: 2", "config: .*form key: value"),
            ("", "config: .*form key: value"),
            ("a: [1", "config: expected YAML, found .*line 2: expected ',' or ']'"),
            ("\x00", "config: expected YAML"),
            ("!!python/object/apply:os.getcwd []", "config: expected YAML"),
        ],
    )
    def test_what_is_refused(self, written, text, words):
        with pytest.raises(FlowrankError, match=words):
            read_recipe(written(text + "\n"), max_steps=1)

    def test_files_that_are_not_there(self, tmp_path):
        with pytest.raises(FlowrankError, match=r"config: expected a YAML file, found .*not there"):
            read_recipe(tmp_path / "no.yaml")
        with pytest.raises(FlowrankError, match=r"config: expected a YAML file, found .*a folder"):
            read_recipe(tmp_path)

    def test_without_pyyaml(self, written, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(FlowrankError, match=r'pip install "flowrank\[pretrain\]"'):
            read_recipe(written("max_steps: 1"))


class TestTheirKeys:
    def test_a_whole_config(self, written, caplog):
        recipe = read_recipe(written(THEIRS))
        expected = Recipe(
            family="t5",
            d_model=512,
            d_kv=64,
            d_ff=2048,
            num_heads=8,
            num_layers=6,
            dropout_rate=0.1,
            initializer_factor=0.05,
            output_scale=1.0,
            training_data_paths=("mixed.parquet", "gp.parquet"),
            probability=(0.9, 0.1),
            lengths=(64, 96, 128, 192, 256, 384, 512),
            max_steps=200_000,
            save_steps=100_000,
            log_steps=500,
            per_device_train_batch_size=8,
            optim="adamw",
            learning_rate=1e-3,
            lr_scheduler_type="linear",
            warmup_ratio=0.0,
            torch_compile=True,
            dataloader_num_workers=1,
        )
        assert recipe == expected
        told = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
        ignored = ("shuffle_buffer_length", "tf32", "output_dir")
        assert [note.split()[0] for note in told] == [*ignored, "min_past=60:"]
        assert all(record.levelname == "WARNING" for record in caplog.records)

    def test_what_they_leave_out_has_their_default(self, written):
        settings, notes = read_settings(written("tokenizer_class: MeanScaleUniformBins"))
        recipe = recipe_of(settings)
        assert (recipe.family, recipe.optim, recipe.lr_scheduler_type) == ("t5", "adamw", "linear")
        assert (recipe.d_model, recipe.num_layers) == (256, 4)
        assert (recipe.max_steps, recipe.save_steps, recipe.log_steps) == (200_000, 50_000, 500)
        assert (recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps) == (32, 2)
        assert recipe.warmup_ratio == 0
        assert [note.split()[0] for note in notes] == ["min_past=64:", "random_init", "tie_embeddings"]

    @pytest.mark.parametrize(
        ("size", "published"),
        [("tiny", 8.39e6), ("mini", 20.5e6), ("small", 46.2e6), ("base", 201e6), ("large", 709e6)],
    )
    def test_shapes_have_the_published_number_of_parameters(self, written, size, published):
        recipe = read_recipe(written(with_line(THEIRS, f"model_id: google/t5-efficient-{size}")))
        shape = {name: getattr(recipe, name) for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")}
        with torch.device("meta"):
            model = T5ForConditionalGeneration(T5Config(**shape, vocab_size=recipe.n_tokens))
        assert model.num_parameters() == pytest.approx(published, rel=5e-3)
        assert set(SIZES) == {"tiny", "mini", "small", "base", "large"}

    def test_the_authors_schedule(self, written):
        settings, notes = read_settings(written(with_line(THEIRS, "model_id: google/t5-efficient-base") + NARROW))
        assert [note.split()[0] for note in notes[3:]] == ["min_future", "min_past=60:"]
        recipe = recipe_of(settings)
        assert recipe.schedule == FlowOfRanks(d0=7, alpha=0.4, rounding="power_of_two")
        widths = [recipe.schedule.width(layer) for layer in range(24)]
        assert widths == [2 ** round(math.log2(7 * (layer + 1) ** 0.4)) for layer in range(24)]
        assert sorted(set(widths)) == [8, 16, 32]

    @pytest.mark.parametrize(
        ("text", "schedule"),
        [
            ("base_tilde_d: 5", FlowOfRanks(d0=5, alpha=0, rounding="power_of_two")),
            ("model_id: google/t5-efficient-tiny\nbeta: 0.5", FlowOfRanks(d0=8, alpha=0.5, rounding="power_of_two")),
        ],
    )
    def test_half_of_a_schedule(self, written, text, schedule):
        assert read_recipe(written(text)).schedule == schedule

    @pytest.mark.parametrize(
        ("line", "changed"),
        [
            ("family: bolt", {"family": "bolt", "initializer_factor": 1.0, "output_scale": 0.1, "dropout_rate": 0.0}),
            ("optim: muon", {"optim": "muon"}),
            ("optim: adamw_torch", {"optim": "adamw"}),
            ("d_ff: 100", {"d_ff": 100, "d_model": 512}),
            ("dropout_rate: 0.0", {"dropout_rate": 0.0}),
            ("lengths: [100]", {"lengths": (100,)}),
            ("min_past: 300", {"lengths": (384, 512)}),
            ("min_past: 600", {"lengths": (512,)}),
            ("context_length: 200", {"context_length": 200, "lengths": (64, 96, 128, 192, 200)}),
            ("probability: [9, 1]", {"probability": (0.9, 0.1)}),
            ("-probability", {"probability": ()}),
            ("tokenizer_kwargs: {low_limit: -10, high_limit: 10}", {"tokenizer_limit": 10.0}),
            ("""tokenizer_kwargs: "{'low_limit': -9.0, 'high_limit': 9.0}" """, {"tokenizer_limit": 9.0}),
            ("probability: '[0.5, 0.5]'", {"probability": (0.5, 0.5)}),
            ("lr_scheduler_type: cosine", {"lr_scheduler_type": "cosine"}),
            ("lr_scheduler_type: constant", {"lr_scheduler_type": "constant", "warmup_ratio": 0.0}),
            ("lr_scheduler_type: constant_with_warmup", {"lr_scheduler_type": "constant"}),
            ("model_id: amazon/chronos-t5-mini", {"d_model": 384, "initial_model": None}),
            ("max_steps: null\nminutes: 3", {"max_steps": None, "minutes": 3}),
            ("seed: null", {"seed": 0}),
            ("use_pretrain_tokenizer: true\npretrain_tokenizer_path: donor", {"token_embedding": "donor"}),
        ],
    )
    def test_single_keys(self, written, line, changed):
        recipe = read_recipe(written(with_line(THEIRS, line)))
        assert {name: getattr(recipe, name) for name in changed} == changed

    def test_a_chronos_model_to_go_on_with(self, written):
        text = with_line(with_line(THEIRS, "random_init: false"), "model_id: amazon/chronos-t5-small")
        assert read_recipe(written(text)).initial_model == "amazon/chronos-t5-small"

    def test_a_folder_to_go_on_with(self, written, tmp_path):
        text = with_line(with_line(THEIRS, "random_init: false"), f"model_id: {tmp_path}")
        assert read_recipe(written(text)).initial_model == str(tmp_path)

    def test_how_forecasts_are_sampled_is_not_trained(self, written):
        settings, notes = read_settings(written(THEIRS + "temperature: 1.0\ntop_k: 10"))
        assert not {"temperature", "top_k", "top_p", "num_samples"} & set(settings)
        assert "top_k has no effect: the model's own value is 204; choose another to forecast" in notes
        assert not any("temperature" in note or "num_samples" in note for note in notes)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("model_type: causal", "model_type: expected 'seq2seq', found 'causal'"),
            ("tokenizer_class: Words", "tokenizer_class: expected 'MeanScaleUniformBins', found 'Words'"),
            ("tie_embeddings: false", "tie_embeddings: expected true.*found False"),
            ("random_init: false", "random_init: expected true.*'google/t5-efficient-small', a language model"),
            ("random_init: maybe", "random_init: expected true or false"),
            ("model_id: google/t5-efficient-small-nl36", "model_id: .*nl36"),
            ("model_id: openai-community/gpt2", "model_id: .*gpt2"),
            ("tokenizer_kwargs: {low_limit: -10, high_limit: 15}", "tokenizer_kwargs: .*as far from 0"),
            ("tokenizer_kwargs: {high_limit: 15}", "tokenizer_kwargs: .*as far from 0"),
            ("tokenizer_kwargs: 15", "tokenizer_kwargs: .*as far from 0"),
            ("tokenizer_kwargs: {low_limit: 1, high_limit: -1}", "tokenizer_limit: expected a positive number"),
            ("n_special_tokens: 3", "n_special_tokens: expected 2, found 3"),
            ("pad_token_id: 5", "pad_token_id: expected 0"),
            ("optim: adafactor", "optim: expected one of"),
            ("lr_scheduler_type: polynomial", "lr_scheduler_type: expected one of"),
            ("base_tilde_d: 0", "d0: expected a positive width"),
            ("base_tilde_d: 3\nschedule: {name: Uniform, ratio: 0.5}", "schedule: .*not both"),
            ("use_pretrain_tokenizer: true", "pretrain_tokenizer_path: expected a model"),
            ("min_pasts: 3", "'min_pasts'"),
        ],
    )
    def test_what_cannot_be_honoured(self, written, line, words):
        with pytest.raises(FlowrankError, match=words):
            read_recipe(written(with_line(THEIRS, line)))

    def test_no_schedule_on_the_weights_of_another_model(self, written):
        text = with_line(with_line(THEIRS, "random_init: false"), "model_id: amazon/chronos-t5-base")
        with pytest.raises(FlowrankError, match="base_tilde_d: expected random_init: true"):
            read_recipe(written(text + NARROW))

    def test_keys_of_theirs_in_a_recipe_of_ours(self, written):
        settings, notes = read_settings(written("max_steps: 3\ntf32: true\nmin_past: 100"))
        assert recipe_of(settings) == Recipe(max_steps=3, lengths=(128, 192, 256, 384, 512))
        assert [note.split()[0] for note in notes] == ["tf32", "min_past=100:"]


def test_limits_reach_the_tokenizer():
    settings = settings_of(Recipe(family="t5", max_steps=1, tokenizer_limit=4.0))
    assert settings["tokenizer_kwargs"] == {"low_limit": -4.0, "high_limit": 4.0}
    with pytest.raises(FlowrankError, match="tokenizer_limit: expected a positive number"):
        Recipe(max_steps=1, tokenizer_limit=0)
