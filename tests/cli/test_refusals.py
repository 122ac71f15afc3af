"""What the command line refuses, and what it leaves alone when it is stopped."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

import flowrank
from flowrank import Uniform, WeightSVD
from tests.cli.calls import SMALL, is_as_before, run
from tests.test_files import tree


def bad_series(name: str, frame: pd.DataFrame, path: Path) -> None:
    """Write a file of series with one fault."""
    nan, first = np.nan, frame["item_id"] == "a"
    frames = {
        "all missing": lambda: frame.assign(target=nan),
        "constant": lambda: frame.assign(target=3.0),
        "too short": lambda: frame.groupby("item_id").head(3),
        "infinite": lambda: frame.assign(target=frame["target"].where(frame.index != 100, np.inf)),
        "unsorted": lambda: pd.concat([frame[~first], frame[first].iloc[::-1]]),
        "duplicates": lambda: pd.concat([frame.head(1), frame]),
        "no target": lambda: frame.drop(columns="target"),
        "no ids": lambda: frame.drop(columns="item_id"),
        "no times": lambda: frame.drop(columns="timestamp"),
        "words": lambda: frame.assign(target=frame["target"].astype(str).where(frame.index != 100, "many")),
        "irregular": lambda: frame.drop(index=[5, 6, 30]),
        "header only": lambda: frame.head(0),
    }
    if name in frames:
        frames[name]().to_csv(path, index=False)
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100))
    elif name == "JSON":
        path.write_text('{"item_id": "a",\n "target": [1, 2]}\n')
    elif name == "half a Parquet file":
        frame.to_parquet(path)
        path.write_bytes(path.read_bytes()[:500])
    else:
        assert name == "not there"


CALIBRATION = {
    "all missing": "series: .*all missing",
    "constant": "series: .*constant",
    "too short": "series: .*too short",
}
ANYWHERE = {
    "infinite": "finite values in 'target'.*row 100",
    "unsorted": "increasing time stamps in series 'a'",
    "duplicates": "each time stamp once in series 'a'",
    "no target": "'target'",
    "no ids": "'item_id'",
    "no times": "'timestamp'",
    "words": "numbers in 'target'.*'many' at row 100",
    "irregular": "regular time stamps in series 'a'.*--freq",
    "header only": "rows",
    "empty": "empty",
    "picture": "PNG",
    "JSON": "missing: 'item_id'",
    "half a Parquet file": "whole Parquet file",
    "not there": "not there",
}
READERS = {
    "compress": ("compress", "{model}", "out", "--series", "bad.csv", "--overwrite", *SMALL),
    "heal": ("heal", "{model}", "{model}", "out", "--series", "bad.csv", "--overwrite", "--steps", "1"),
    "analyze": ("analyze", "{model}", "--series", "bad.csv", "--output", "results", "--overwrite"),
    "forecast": ("forecast", "{model}", "bad.csv", "--horizon", "3", "--output", "out.csv", "--overwrite"),
    "evaluate": (
        *("evaluate", "{model}", "seasonal-naive", "--data", "bad.csv"),
        *("--prediction-length", "3", "--output", "out.csv", "--overwrite"),
    ),
}


@pytest.fixture
def outputs(here):
    """Outputs of every kind that exist already."""
    (here / "out").mkdir()
    (here / "out" / "config.json").write_text("old")
    (here / "results").mkdir()
    (here / "results" / "analysis.json").write_text("old")
    (here / "results" / "scores.csv").write_text("old")
    (here / "out.csv").write_text("old")
    (here / "out.json").write_text("old")
    return here


def refuses(capsys, folder: Path, arguments: tuple, words: str, status: int = 2) -> None:
    """The command ends with the status, says why in one line, and every file is as it was."""
    before = tree(folder)
    assert run(*arguments) == status
    message = capsys.readouterr().err
    line = next(line for line in message.splitlines() if line.startswith("error "))
    assert re.search(words, line), line
    assert "Traceback" not in message
    assert is_as_before(before, folder)


BAD_MODELS = {
    "not Chronos": "model: expected a model of one of the families",
    "contradiction": "weights of .*as config.json says",
    "no weights": "weights of .*found neither",
    "truncated": "weights of .*whole safetensors file",
    "a tensor is missing": "weights of .*no such tensor",
    "a file": "model: .*is a file",
    "no config": "model: .*config.json",
    "nothing": "model: .*not there",
}


class TestBadInput:
    """Each gets a clear error, and nothing is lost."""

    @pytest.mark.parametrize(
        ("command", "fault"),
        [
            *((command, fault) for command in ("compress", "analyze") for fault in CALIBRATION),
            *((command, fault) for command in READERS for fault in ANYWHERE),
        ],
    )
    def test_series(self, bolt_folder, outputs, long_frame, capsys, command, fault):
        bad_series(fault, long_frame, outputs / "bad.csv")
        arguments = tuple(str(word).format(model=bolt_folder) for word in READERS[command])
        words = {**CALIBRATION, **ANYWHERE}[fault]
        argument = "(data|data set 'bad'): " if command == "evaluate" else "series: "
        refuses(capsys, outputs, arguments, f"{argument}.*{words.removeprefix('series: ')}")

    @pytest.fixture
    def bad_model(self, request, bolt_folder, tmp_path_factory):
        copy = tmp_path_factory.mktemp("bad") / "model"
        if request.param == "not Chronos":
            from transformers import BertConfig

            BertConfig().save_pretrained(copy)
            return copy
        if request.param == "contradiction":
            flowrank.compress(flowrank.load(bolt_folder), WeightSVD(Uniform(0.5))).save_pretrained(copy)
            config = json.loads((copy / "config.json").read_text())
            next(iter(config["flowrank"]["attention"].values()))["ranks"]["q"] += 1
            (copy / "config.json").write_text(json.dumps(config))
            return copy
        shutil.copytree(bolt_folder, copy)
        weights = copy / "model.safetensors"
        if request.param == "no weights":
            weights.unlink()
        elif request.param == "truncated":
            weights.write_bytes(weights.read_bytes()[:3000])
        elif request.param == "a tensor is missing":
            tensors = load_file(weights)
            del tensors["decoder.block.0.layer.1.EncDecAttention.k.weight"]
            save_file(tensors, weights, metadata={"format": "pt"})
        elif request.param == "a file":
            return weights
        elif request.param == "no config":
            (copy / "config.json").unlink()
        else:
            assert request.param == "nothing"
            return copy / "nothing"
        return copy

    @pytest.mark.parametrize("bad_model", BAD_MODELS, indirect=True)
    def test_models(self, bad_model, bolt_folder, outputs, long_frame, capsys, request):
        long_frame.to_csv("bad.csv", index=False)
        words = BAD_MODELS[request.node.callspec.params["bad_model"]]
        calls = [tuple(word.format(model=bad_model) for word in call) for call in READERS.values()]
        bench = ("benchmark", bolt_folder, "--against", bad_model, "--output", "out.json", "--overwrite")
        for call in (*calls, bench):
            refuses(capsys, outputs, call, words)

    @pytest.mark.parametrize("ratio", ["0", "-0.5", "1.01", "nan", "inf"])
    @pytest.mark.parametrize("allocation", ["uniform", "budget", "flow", "epsilon"])
    def test_ratios(self, bolt_folder, outputs, capsys, ratio, allocation):
        call = ("compress", bolt_folder, "out", "--overwrite", "--ratio", ratio, "--allocation", allocation, *SMALL)
        refuses(capsys, outputs, call, r"ratio: .*\(0, 1\]")

    @pytest.mark.parametrize(
        ("command", "options", "words"),
        [
            ("compress", ("--calibration-series", "0"), "--calibration-series: .*≥ 1"),
            ("compress", ("--calibration-points", "0"), "--calibration-points: .*≥ 1"),
            ("compress", ("--freq", "sometimes"), "freq: .*'sometimes'"),
            ("compress", ("--device", "abacus"), "--device: .*'abacus'"),
            ("compress", ("--dtype", "int3"), "dtype: .*'int3'"),
            ("compress", ("--allocation", "flow", "--alpha", "nan"), "alpha"),
            ("compress", ("--target", "sales"), "series: .*'sales'"),
            ("analyze", ("--count", "0"), "count: .*≥ 1"),
            ("analyze", ("--points", "-5"), "points: .*≥ 1"),
            ("analyze", ("--budget", "2"), r"--budget: .*\(0, 1\]"),
            ("analyze", ("--epsilon", "1"), r"epsilons: .*\[0, 1\)"),
            ("forecast", ("--horizon", "0"), "--horizon: .*≥ 1"),
            ("forecast", ("--horizon", "-3"), "--horizon: .*≥ 1"),
            ("forecast", ("--batch-size", "0"), "--batch-size: .*≥ 1"),
            ("forecast", ("--quantile", "1"), r"quantile_levels: .*\(0, 1\)"),
            ("forecast", ("--output", "out.xlsx"), r"output: .*\.csv or \.parquet"),
            ("evaluate", ("--prediction-length", "0"), "--prediction-length: .*≥ 1"),
            ("evaluate", ("--prediction-length", "70"), "data set 'bad': .*series 'b' of 60 values"),
            ("evaluate", ("--max-series", "0"), "--max-series: .*≥ 1"),
            ("evaluate", ("--backtests", "nowhere.csv"), "backtests: .*nowhere.csv"),
            ("evaluate", ("--data", "nowhere"), "data: .*nowhere"),
        ],
    )
    def test_numbers_and_names(self, bolt_folder, outputs, long_frame, capsys, command, options, words):
        long_frame.to_csv("bad.csv", index=False)
        call = tuple(word.format(model=bolt_folder) for word in READERS[command])
        refuses(capsys, outputs, (*call, *options), words)

    @pytest.mark.parametrize("option", ["--engine", "--parent-engine"])
    def test_engines_that_do_not_exist(self, bolt_folder, here, capsys, option):
        call = ("benchmark", bolt_folder, "--against", bolt_folder, "--output", "out.json", option, "steam")
        refuses(capsys, here, call, f"{option}: expected one of exact, stock, .*, found 'steam'")

    def test_outputs_that_exist(self, bolt_folder, outputs, long_frame, capsys):
        long_frame.to_csv("bad.csv", index=False)
        calls = [
            tuple(word.format(model=bolt_folder) for word in call if word != "--overwrite") for call in READERS.values()
        ]
        bench = ("benchmark", bolt_folder, "--against", bolt_folder, "--output", "out.json")
        for call in (*calls, bench, ("demo", "--output", "out")):
            refuses(capsys, outputs, call, "(OUT|--output): expected a path that does not exist.*--overwrite")

    def test_outputs_that_cannot_be(self, bolt_folder, outputs, long_frame, capsys):
        """A folder where a file is, a file where a folder is, a path below a file, the current folder."""
        long_frame.to_csv("bad.csv", index=False)
        swap = {"out": "out.csv", "results": "out.csv", "out.csv": "out"}
        for call in READERS.values():
            words = tuple(swap.get(word, word).format(model=bolt_folder) for word in call)
            refuses(
                capsys, outputs, words, "(OUT|--output): expected a (file to replace|folder to replace|path inside)"
            )
            below = tuple(f"bad.csv/{word}" if word in ("out", "results", "out.csv") else word for word in call)
            below = tuple(word.format(model=bolt_folder) for word in below)
            refuses(capsys, outputs, below, "(OUT|--output): expected a path inside a folder")
        (outputs / "out" / "thesis.txt").write_text("mine")
        refuses(capsys, outputs, ("compress", bolt_folder, "out", "--overwrite", *SMALL), "OUT: .*'thesis.txt'")
        for name in (".", "..", outputs):
            call = ("compress", bolt_folder, name, "--overwrite", *SMALL)
            refuses(capsys, outputs, call, "OUT: .*holds the current folder")


@contextmanager
def room_for(size: int):
    """Files larger than so many bytes cannot be written, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_chain(model: Path) -> list[tuple]:
    """One call of each command that writes, onto outputs that exist."""
    return [
        ("compress", model, "out", "--overwrite", "--method", "weight"),
        ("analyze", model, "--output", "results", "--overwrite", "--count", "3", "--points", "64"),
        ("forecast", model, "series.csv", "--horizon", "99", "--output", "out.csv", "--overwrite"),
        ("forecast", model, "series.csv", "--horizon", "99", "--output", "out.parquet", "--overwrite"),
        (
            *("evaluate", model, "seasonal-naive", "--data", "series.csv", "--prediction-length", "5"),
            *("--output", "out.csv", "--overwrite"),
        ),
        (
            *("benchmark", model, "--against", model, "--output", "out.json", "--overwrite"),
            *("--repeats", "1", "--batch-size", "1", "--context-length", "16"),
        ),
    ]


class TestTrouble:
    """A disk that is full, a user or a system that has enough: the old output stays."""

    @pytest.mark.parametrize("index", range(6))
    def test_a_full_disk(self, bolt_folder, outputs, series, capsys, index):
        (outputs / "out.parquet").write_text("old")
        before = tree(outputs)
        with room_for(100):
            status = run(*full_chain(bolt_folder)[index])
        assert status == 1
        message = capsys.readouterr().err
        assert "error " in message
        assert "File too large" in message
        assert is_as_before(before, outputs)

    @pytest.mark.parametrize("index", range(6))
    @pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
    def test_an_interruption_in_the_middle_of_writing(
        self, bolt_folder, outputs, series, monkeypatch, index, error, status
    ):
        """The last rename, which would put the new output in place, never happens."""
        (outputs / "out.parquet").write_text("old")
        before = tree(outputs)
        rename = os.replace

        def interrupted(source, target):
            if Path(target).name.startswith(("out", "rank_profile")):
                raise error
            rename(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        assert run(*full_chain(bolt_folder)[index]) == status
        monkeypatch.undo()
        assert is_as_before(before, outputs)

    SLOW = """
import signal, sys, time
import pandas, transformers
from flowrank.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored

def slowly(function):
    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        print("HALFWAY", flush=True)
        time.sleep(60)
        return result
    return wrapped

transformers.PreTrainedModel.save_pretrained = slowly(transformers.PreTrainedModel.save_pretrained)
pandas.DataFrame.to_csv = slowly(pandas.DataFrame.to_csv)
sys.exit(main(sys.argv[1:]))
"""

    @pytest.mark.parametrize(
        ("index", "number"),
        [(0, signal.SIGTERM), (2, signal.SIGINT)],
        ids=["compress-SIGTERM", "forecast-SIGINT"],
    )
    def test_signals(self, bolt_folder, outputs, series, number, index):
        call = [sys.executable, "-c", self.SLOW, *map(str, full_chain(bolt_folder)[index]), "--quiet"]
        before = tree(outputs)
        with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            guard = threading.Timer(120, process.kill)
            guard.start()
            assert process.stdout.readline().strip() == "HALFWAY", process.stderr.read()
            assert len(tree(outputs)) > len(before)  # the new output is being written, under another name
            process.send_signal(number)
            _, message = process.communicate()
            guard.cancel()
        assert process.returncode == (143 if number is signal.SIGTERM else 130)
        assert "Traceback" not in message
        assert is_as_before(before, outputs)

    def test_handlers_are_given_back(self, capsys):
        before = signal.getsignal(signal.SIGTERM)
        assert run("models") == 0
        assert signal.getsignal(signal.SIGTERM) is before

    def test_runs_in_any_thread(self):
        found = []
        thread = threading.Thread(target=lambda: found.append(run("models")))
        thread.start()
        thread.join()
        assert found == [0]
