"""Help shows a newcomer the essential options, and everything to whoever asks for it; no option is for show."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

import flowrank
from flowrank import distributed
from flowrank.cli import compression
from flowrank.cli.commands import app
from tests.cli.calls import run

COMMANDS = ("compress", "pretrain", "heal", "quantize", "analyze", "evaluate", "benchmark", "forecast", "prove")
ALWAYS = {"--help", "--help-all"}


@pytest.fixture
def panels(capsys, monkeypatch):
    """Options in each panel of a command's help, by its title."""
    monkeypatch.setenv("COLUMNS", "200")

    def read(command: str, option: str) -> dict[str, list[str]]:
        capsys.readouterr()
        assert run(command, option) == 0
        found: dict[str, list[str]] = {}
        for line in capsys.readouterr().out.splitlines():
            title, name = re.match(r"╭─ (.*?) ─*╮", line), re.match(r"│ (?:\*| )? *(--[\w-]+) ", line)
            if title:
                found[title[1]] = []
            elif name:
                found[list(found)[-1]].append(name[1])
        found.pop("Arguments", None)
        return found

    return read


def options_of(command: str) -> set[str]:
    """The long options that the command parses."""
    commands = typer.main.get_command(app)
    with commands.make_context("flowrank", [command]) as ctx:
        found = commands.resolve_command(ctx, [command])[1]
    return {name for one in found.params for name in one.opts if name.startswith("--")} | {"--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_is_short_and_nothing_is_lost(panels, command):
    first, whole = panels(command, "--help"), panels(command, "--help-all" if command != "quantize" else "--help")
    assert list(first) == ["Options"]
    assert 2 < len(first["Options"]) <= 9
    assert first["Options"] == whole["Options"] == whole[next(iter(whole))]
    listed = [name for names in whole.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == options_of(command)


@pytest.mark.parametrize("command", ["compress", "pretrain"])
def test_help_says_how_many_more_there_are(panels, capsys, command):
    first, whole = panels(command, "--help"), panels(command, "--help-all")
    assert run(command, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    more = sum(map(len, whole.values())) - len(first["Options"])
    assert f"{more} more options with flowrank {command} --help-all: " in printed
    for panel in set(whole) - {"Options"}:
        assert panel in printed


def test_essential_options(panels):
    named = {"--ratio", "--max-loss", "--method", "--unit", "--series", "--overwrite", "--quiet"}
    assert set(panels("compress", "--help")["Options"]) == named | ALWAYS
    named = {"--family", "--size", "--training-data-paths", "--max-steps", "--minutes", "--config", "--device"}
    assert set(panels("pretrain", "--help")["Options"]) == named | ALWAYS


COMPRESS = {  # option: an argument beside its default, with the options that it needs
    "--ratio": "0.4",
    "--method": "weight",
    "--allocation": "uniform",
    "--alpha": "0.1 --allocation flow",
    "--per-head": "",
    "--univariate": "",
    "--rounds": "3 --method whole",
    "--unit": "cache --method whole",
    "--max-loss": "2%",
    "--metric": "MASE --max-loss 1%",
    "--heal-steps": "5 --max-loss 1%",
    "--horizon": "7 --max-loss 1%",
    "--validation-series": "9 --max-loss 1%",
    "--also-synthetic": "--max-loss 1% --series some.csv",
    "--work": "elsewhere --max-loss 1%",
    "--seeds": "0,1 --max-loss 1%",
    "--on": "ray --max-loss 1%,2%",
    "--workers": "2 --max-loss 1%,2% --on ray",
    "--threads": "2 --max-loss 1%,2%",
    "--gpus": "1 --max-loss 1%,2% --on ray",
    "--series": "some.csv",
    "--calibration-series": "77",
    "--calibration-points": "88",
    "--seed": "99",
    "--device": "meta",
    "--dtype": "bfloat16",
    "--id-column": "id",
    "--timestamp-column": "when",
    "--target": "sales",
    "--freq": "D",
    "--date-format": "%d.%m.%Y",
    "--day-first": "",
    "--utc": "",
    "--decimal": ",",
    "--thousands": ".",
    "--wide": "",
    "--encoding": "latin-1",
    "--sheet": "Sales",
    "--overwrite": "",
    "--quiet": "",
}


@pytest.fixture
def asked(here, monkeypatch):
    """What a call of `compress` asks of the library."""

    def ask(*options: str) -> list[object]:
        told: list[object] = []

        def call(name: str):
            def called(*args: object, **kwargs: object) -> SimpleNamespace:
                plain = {key: value for key, value in kwargs.items() if key != "on_stage"}
                told.append((name, args, plain))
                return SimpleNamespace(recipe=None, save_pretrained=call("save"), to_dict=lambda kind: [])

            return called

        monkeypatch.setattr(flowrank, "load", call("load"))
        monkeypatch.setattr(flowrank, "compress", lambda parent, *a, **k: call("compress")(*a, **k))
        monkeypatch.setattr(flowrank, "smallest", lambda parent, *a, **k: call("smallest")(*a, **k))
        monkeypatch.setattr(distributed, "searches", call("searches"))
        monkeypatch.setattr(compression, "refuse_existing", call("refuse_existing"))
        monkeypatch.setattr(compression, "_print", lambda recipe, title: None)
        monkeypatch.setattr(compression.shutil, "rmtree", call("rmtree"))
        assert run("compress", "flow-bolt", "out", *options) == 0
        return told

    return ask


def test_every_option_of_compress_changes_what_is_asked_of_the_library(asked):
    tested = options_of("compress") - ALWAYS
    assert tested == set(COMPRESS)
    for option, words in COMPRESS.items():
        value, needed = words.split(" ")[:1] if words and not words.startswith("--") else [], words.split(" ")
        needed = [word for word in needed[len(value) :] if word]
        assert asked(option, *value, *needed) != asked(*needed), option


def test_options_reach_the_library_as_they_were_given(asked):
    told = {name: (args, kwargs) for name, args, kwargs in asked("--max-loss", "2%", "--heal-steps", "5")}
    tolerance, settings = told["smallest"][0][0], told["smallest"][1]
    assert tolerance == flowrank.Tolerance(0.02)
    assert (settings["steps"], settings["folder"]) == (5, Path("out.search"))
    assert not {"horizon", "validation_series", "calibration_series", "also_synthetic"} & set(settings)


def test_functions_of_the_command_line_are_short():
    for path in Path(inspect.getfile(compression)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"
                assert len(node.args.args) <= 12, f"{path.name}: {node.name}"
