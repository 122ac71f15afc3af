"""`flowrank pretrain` and `flowrank datasheet`: the file, the flags, what is printed and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chronos import BaseChronosPipeline

import flowrank
from flowrank import FlowOfRanks, Uniform
from flowrank.cli.recipe_flags import PANELS, RANKS, described, recipe_flags
from flowrank.family import SIZES
from flowrank.pretraining import Recipe, Widths, pretrain
from flowrank.pretraining.budget import Clock
from flowrank.pretraining.config import read_recipe
from flowrank.pretraining.journal import read_log
from flowrank.pretraining.recipe import GROUPS, SETTINGS
from tests.cli.calls import is_as_before, quietly, run
from tests.layers import attention_parameters
from tests.test_files import tree

TINY = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_heads": 2,
    "num_layers": 1,
    "context_length": 32,
    "prediction_length": 8,
    "input_patch_size": 8,
    "n_tokens": 64,
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "save_steps": 2,
    "log_steps": 1,
    "eval_steps": 1,
    "eval_series": 4,
    "precision": "float32",
}


def flags(**settings: object) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def trains(*arguments: object) -> int:
    return quietly("pretrain", *arguments, "--device", "cpu")


@pytest.fixture
def shown(here, capsys):
    """The recipe that a call means."""

    def show(*arguments: object) -> Recipe:
        capsys.readouterr()
        assert run("pretrain", "out", *arguments, "--show") == 0
        assert list(here.glob("out")) == []
        (here / "shown.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
        return read_recipe(here / "shown.yaml")

    return show


def losses(folder: str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_log(Path(folder, "log.jsonl")) if "loss" in line]


class TestTraining:
    def test_it_is_what_the_library_trains(self, here, capsys):
        assert trains("out", *flags(**TINY), *flags(schedule="widths", widths="2,4")) == 0
        recipe = Recipe(**TINY, lengths=(32,), schedule=Widths((2, 4)))
        expected = pretrain(recipe, "expected", progress=False, device="cpu")
        assert losses("out") == losses("expected")
        opened = BaseChronosPipeline.from_pretrained("out")
        assert flowrank.load("./out").recipe["pretraining"]["recipe"] == recipe.to_dict()
        printed = capsys.readouterr().out
        counts = (opened.inner_model.num_parameters(), attention_parameters(expected.inner_model))
        validation = [line["eval_loss"] for line in read_log(Path("out/log.jsonl")) if "eval_loss" in line][-1]
        rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.splitlines() if "│" in line}
        assert rows["parameters"] == f"{counts[0]:,}"
        assert rows["attention parameters"] == f"{counts[1]:,}"
        assert rows["series seen"] == "8"
        assert rows["last validation loss"] == f"{validation:.4f}"
        assert rows["where"] == "out"
        assert re.fullmatch(r"\d+\.\d\d", rows["minutes"])

    def test_the_same_command_goes_on_after_an_interruption(self, here, monkeypatch):
        call = flags(**{**TINY, "max_steps": 4, "eval_steps": 10})
        assert trains("whole", *call) == 0
        step = Clock.on_step_end

        def interrupted(self, args, state, control, **kwargs):
            step(self, args, state, control, **kwargs)
            if state.global_step == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(Clock, "on_step_end", interrupted)
        assert trains("out", *call) == 130
        monkeypatch.undo()
        monkeypatch.chdir(here)
        assert not Path("out/config.json").exists()
        assert trains("out", *call) == 0
        assert losses("out") == losses("whole")

    def test_a_run_that_ends_early_goes_on_by_the_same_command(self, here, capsys):
        call = flags(**{**TINY, "max_steps": 3, "eval_steps": 2})
        assert trains("whole", *call) == 0
        for step in (1, 2):
            capsys.readouterr()
            assert trains("out", *call, "--stop-after", "1e-9") == 0
            printed = capsys.readouterr().out
            assert f"{step} steps" in printed
            assert "the same command goes on" in printed
            assert not Path("out/config.json").exists()
        assert trains("out", *call) == 0
        assert losses("out") == losses("whole")
        assert Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()

    def test_a_config_of_the_authors_with_flags_over_it(self, here, capsys):
        Path("theirs.yaml").write_text(
            "model_id: google/t5-efficient-base\nrandom_init: true\ntie_embeddings: true\nmodel_type: seq2seq\n"
            "tokenizer_class: MeanScaleUniformBins\ntokenizer_kwargs: {low_limit: -12.0, high_limit: 12.0}\n"
            "base_tilde_d: 3\nbeta: 0.27\ntf32: true\nmax_steps: 200_000\noptim: adamw_torch_fused\n"
        )
        assert trains("out", "--config", "theirs.yaml", *flags(**TINY)) == 0
        told = capsys.readouterr().err
        assert "note: tf32 has no effect: precision says how to compute" in told
        assert "min_past=64" in told
        config = json.loads(Path("out/config.json").read_text())
        assert config["chronos_config"]["tokenizer_kwargs"] == {"low_limit": -12.0, "high_limit": 12.0}
        assert {shape["d_qk"][0] for shape in config["flowrank"]["attention"].values()} == {4}
        assert flowrank.load("./out").recipe["pretraining"]["recipe"]["optim"] == "adamw"

    def test_progress_unless_quiet(self, here, capsys):
        call = ("out", *flags(**TINY), "--device", "cpu")
        assert run("pretrain", *call) == 0
        assert "pretraining, step 2" in capsys.readouterr().out
        assert quietly("pretrain", *call) == 0
        assert "pretraining, step" not in capsys.readouterr().out

    def test_one_process_of_several_speaks(self, shown, capsys, monkeypatch):
        Path("c.yaml").write_text("max_steps: 1\ntf32: true")
        shown("--config", "c.yaml")
        assert run("pretrain", "out", "--config", "c.yaml", "--show") == 0
        assert "tf32" in capsys.readouterr().err
        monkeypatch.setenv("RANK", "1")
        assert run("pretrain", "out", "--config", "c.yaml", "--show") == 0
        assert "tf32" not in capsys.readouterr().err


class TestFlags:
    def test_every_field_has_one(self, shown):
        """All flags at once, each with its field's default, mean the default recipe."""
        given = {}
        for name, value in Recipe(max_steps=3).to_dict().items():
            if isinstance(value, dict):
                given[name] = ",".join(f"{family}={share}" for family, share in value.items())
            elif value is not None and value != []:
                given[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value).lower()
        assert set(Recipe(max_steps=1).to_dict()) - set(given) <= {
            *("minutes", "schedule", "num_decoder_layers", "learning_rate"),  # None, or a rule that follows the others
            *("initial_model", "grown_from", "token_embedding", "training_data_paths", "probability", "horizons"),
        }
        assert shown(*flags(**given)) == Recipe(max_steps=3)

    @pytest.mark.parametrize(
        ("arguments", "changed"),
        [
            (("--family", "t5"), {"family": "t5"}),
            (("--num-decoder-layers", "2"), {"num_decoder_layers": 2}),
            (("--horizons", "12,64"), {"horizons": (12, 64)}),
            (("--minutes", "1.5"), {"minutes": 1.5}),
            (("--initial-model", "seed-bolt"), {"initial_model": "seed-bolt"}),
            (("--grown-from", "seed-bolt"), {"grown_from": "seed-bolt"}),
            (("--learning-rate", "0.003"), {"learning_rate": 0.003}),
            (("--torch-compile", "true"), {"torch_compile": True}),
            (("--use-eos-token", "false"), {"use_eos_token": False}),
            (("--training-data-paths", "a.csv, b.csv", "--probability", "0.5,0.2"), {"probability": (0.5, 0.2)}),
            (("--shares", "structural=0.3,kernel_synth=0.2"), {"shares": {"structural": 0.3, "kernel_synth": 0.2}}),
            (("--lengths", "16,32"), {"lengths": (16, 32)}),
            (("--context-length", "64"), {"context_length": 64, "lengths": (32, 64)}),
            (("--schedule", "flow", "--d0", "3"), {"schedule": FlowOfRanks(d0=3.0)}),
            (
                ("--schedule", "flow", "--ratio", "0.2", "--alpha", "0.5", "--rounding", "power_of_two"),
                {"schedule": FlowOfRanks(ratio=0.2, alpha=0.5, rounding="power_of_two")},
            ),
            (("--schedule", "uniform", "--ratio", "0.25"), {"schedule": Uniform(0.25)}),
            (("--schedule", "widths", "--widths", "4,4,8"), {"schedule": Widths((4, 4, 8))}),
            (("--schedule", "none"), {"schedule": None}),
        ],
    )
    def test_single_flags(self, shown, arguments, changed):
        recipe = shown("--max-steps", "3", *arguments)
        assert {name: getattr(recipe, name) for name in changed} == changed

    @pytest.mark.parametrize(
        ("arguments", "schedule"),
        [
            ((), FlowOfRanks(d0=3, alpha=0.4)),
            (("--alpha", "0.1"), FlowOfRanks(d0=3, alpha=0.1)),
            (("--ratio", "0.5"), FlowOfRanks(ratio=0.5, alpha=0.4)),
            (("--schedule", "flow", "--d0", "5"), FlowOfRanks(d0=5, alpha=0.4)),
            (("--schedule", "uniform", "--ratio", "0.5"), Uniform(0.5)),
            (("--schedule", "none"), None),
        ],
    )
    def test_flags_change_the_schedule_of_a_config(self, shown, arguments, schedule):
        Path("c.yaml").write_text("max_steps: 1\nd_model: 64\nschedule: {name: FlowOfRanks, d0: 3, alpha: 0.4}")
        recipe = shown("--config", "c.yaml", *arguments, "--seed", "7")
        assert recipe == Recipe(max_steps=1, d_model=64, schedule=schedule, seed=7)

    def test_help_names_every_field_within_100_columns(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        assert run("pretrain", "--help-all") == 0
        told = capsys.readouterr().out
        for name in (*SETTINGS, "size", "config", "show", "device", "quiet", "d0", "alpha", "ratio", "widths"):
            assert f"--{name.replace('_', '-')} " in told, name
        for panel in (*PANELS.values(), RANKS):
            assert f"─ {panel} ─" in told
        assert max(map(len, told.splitlines())) <= 101
        assert "`" not in told

    def test_every_flag_says_what_it_is(self):
        for group in GROUPS.values():
            assert set(described(group)) == set(group.__dataclass_fields__)
        assert all(len(flag.annotation.__metadata__[0].help) > 10 for flag in recipe_flags())

    def test_parts_of_a_description_go_to_their_names(self):
        told = {name: text for group in GROUPS.values() for name, text in described(group).items()}
        assert told["d_kv"] == "Width of each attention head."
        assert told["input_patch_size"] == "Bolt, Chronos-2: values in one patch."
        assert told["quantiles"].startswith("Bolt, Chronos-2: quantile levels that it forecasts")
        assert told["log_steps"] == "Steps between log lines."

    @pytest.mark.parametrize("size", SIZES)
    def test_sizes(self, shown, size):
        recipe = shown("--max-steps", "3", "--size", size)
        assert recipe == Recipe(max_steps=3, **SIZES[size])

    def test_single_settings_go_before_a_size_and_a_size_before_a_config(self, shown):
        Path("c.yaml").write_text("max_steps: 1\nd_model: 48\nd_ff: 48\nprediction_length: 12")
        recipe = shown("--config", "c.yaml", "--size", "small", "--d-ff", "96")
        expected = Recipe(max_steps=1, prediction_length=12, **{**SIZES["small"], "d_ff": 96})
        assert recipe == expected

    def test_help_of_all_commands_without_torch(self):
        script = (
            "import sys; from flowrank.cli import main; code = main(['--help']);"
            "assert 'torch' not in sys.modules; sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert "pretrain" in done.stdout
        assert "datasheet" in done.stdout


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "--max-steps: expected a number of steps"),
            (("--max-steps", "0"), "--max-steps: .*≥ 1, found 0; pass e.g. --max-steps=24"),
            (("--max-steps", "1", "--d-model", "-4"), "--d-model: .*≥ 1"),
            (("--max-steps", "1", "--learning-rate", "0"), "--learning-rate: expected a positive"),
            (("--max-steps", "1", "--lengths", "8,x"), "--lengths: expected whole numbers, .*'8,x'"),
            (("--max-steps", "1", "--quantiles", "0.5;0.6"), "--quantiles: expected numbers, .*'0.5;0.6'"),
            (("--max-steps", "1", "--shares", "structural"), "--shares: expected NAME=SHARE"),
            (("--max-steps", "1", "--shares", "weather=1"), "--shares: .*'weather'"),
            (("--max-steps", "1", "--probability", "1"), "--probability: "),
            (("--max-steps", "1", "--d0", "3"), "--d0: expected --schedule flow with it, found no --schedule"),
            (("--max-steps", "1", "--ratio", "0.3"), "--ratio: expected --schedule flow or uniform with it"),
            (("--max-steps", "1", "--schedule", "flow", "--widths", "3"), "--widths: expected --schedule widths"),
            (("--max-steps", "1", "--schedule", "flow"), "--schedule: expected --d0 or --ratio"),
            (("--max-steps", "1", "--schedule", "uniform"), "--schedule: expected --ratio with --schedule uniform"),
            (("--max-steps", "1", "--schedule", "uniform", "--ratio", "2"), r"--ratio: .*\(0, 1\]"),
            (("--max-steps", "1", "--schedule", "widths"), "--schedule: expected --widths with --schedule widths"),
            (("--max-steps", "1", "--schedule", "widths", "--widths", "0"), "--widths: "),
            (("--max-steps", "1", "--schedule", "widths", "--widths", "3"), "--widths: expected 8 widths"),
            (("--max-steps", "1", "--stop-after", "0"), "--stop-after: expected a positive number of minutes"),
            (("--config", "nowhere.yaml"), "--config: expected a YAML file, found 'nowhere.yaml', which is not there"),
            (("--config", "odd.yaml", "--alpha", "0.3"), "--schedule: expected a name out of .*'steep'"),
            (("--config", "causal.yaml"), "model_type: expected 'seq2seq', found 'causal'"),
        ],
    )
    def test_values(self, here, capsys, arguments, words):
        Path("odd.yaml").write_text("max_steps: 1\nschedule: steep\n")
        Path("causal.yaml").write_text("model_id: openai-community/gpt2\nmodel_type: causal\n")
        before = tree(here)
        assert trains("out", *arguments) == 2
        message = capsys.readouterr().err
        assert re.search(f"^error {words}", message, re.MULTILINE), message
        assert is_as_before(before, here)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("out", "--family", "gpt"), "--family"),
            (("out", "--schedule", "steep"), "--schedule"),
            (("out", "--device", "abacus"), "--device"),
            (("out", "--torch-compile", "perhaps"), "--torch-compile"),
            (("out", "--d-modle", "3"), "--d-modle"),
            (("--max-steps", "3"), "OUT"),
        ],
    )
    def test_calls_that_make_no_sense(self, here, capsys, arguments, words):
        assert run("pretrain", *arguments) == 2
        assert words in capsys.readouterr().err
        assert list(here.iterdir()) == []

    def test_folders_of_something_else(self, here, capsys):
        (here / "mine").mkdir()
        (here / "mine" / "thesis.tex").write_text("x")
        before = tree(here)
        assert trains("mine", *flags(**TINY)) == 2
        assert "error OUT: expected a new folder" in capsys.readouterr().err
        assert is_as_before(before, here)


class TestDatasheet:
    def test_it_is_that_of_the_library(self, here, capsys):
        from flowrank.synthetic.datasheet import datasheet

        assert run("datasheet", "a.svg", "--count", "4", "--length", "64", "--seed", "3") == 0
        assert "written to a.svg" in capsys.readouterr().out
        datasheet("b.svg", count=4, length=64, seed=3)
        assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()

    def test_refusals(self, here, capsys):
        (here / "old.png").write_text("old")
        for arguments, words in (
            (("old.png",), "OUT: expected a path that does not exist"),
            (("new.txt",), "expected a name that ends in .png"),
            (("new.png", "--count", "0"), "--count: .*≥ 1"),
            (("new.png", "--length", "0"), "--length: .*≥ 1"),
        ):
            assert run("datasheet", *arguments) == 2
            assert re.search(words, capsys.readouterr().err)
        assert {path.name: path.read_text() for path in here.iterdir()} == {"old.png": "old"}
