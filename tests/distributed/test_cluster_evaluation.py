"""Models on data sets as tasks of a cluster: the scores of one process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest

import flowrank
from flowrank import FlowrankError
from flowrank.cli.program import main
from flowrank.distributed import evaluate, evaluation
from flowrank.errors import SkippedWarning
from flowrank.evaluation import Backtest
from flowrank.forecasting import Skipped
from tests.distributed.conftest import MODEL, dies_once

NAIVE = "seasonal-naive"
TESTS = [Backtest("arrays", -8, 4, 2, suite="mine")]


@pytest.fixture
def sources(tmp_path):
    """A list, a data frame and a file; in the frame and the list a series is bad."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n).cumsum() + 9 for n in (40, 3, 60)]
    times = pd.date_range("2020-01-01", periods=30, freq="D")
    frames = [pd.DataFrame({"item_id": i, "timestamp": times, "target": rng.normal(size=30) + 5}) for i in range(3)]
    frames[1].loc[4, "target"] = np.inf
    frame = pd.concat(frames, ignore_index=True)
    frame[frame["item_id"] != 1].to_csv(tmp_path / "file.csv", index=False)
    return {"file": tmp_path / "file.csv", "arrays": arrays, "frame": frame}


def scores_of(table):
    return table.drop(columns="seconds")


@dataclass
class Dying(evaluation._Work):
    """Kills its process before its third task, once."""

    mark: str = ""
    count: int = 0

    def __call__(self, task):
        self.count += 1
        if self.count == 3:
            dies_once(self.mark)
        return super().__call__(task)


def test_it_is_what_one_process_gives_though_a_worker_is_killed(
    cluster, sources, bolt_folder, tmp_path, monkeypatch, one_thread
):
    mark = tmp_path / "mark"
    monkeypatch.setattr(evaluation, "_Work", partial(Dying, mark=str(mark)))
    names = {"mini": MODEL, NAIVE: NAIVE, "tiny": bolt_folder}
    told: list[Skipped] = []
    options = {"prediction_length": 5, "skip_bad": True, "batch_size": 2}
    mine = evaluate(names, sources, TESTS, workers=2, skipped=told, **options)
    assert mark.exists()
    known: list[Skipped] = []
    models = {name: one if one == NAIVE else flowrank.load(one) for name, one in names.items()}
    expected = flowrank.evaluate(models, sources, TESTS, skipped=known, **options)
    pd.testing.assert_frame_equal(scores_of(mine), scores_of(expected), check_exact=True)
    assert told == known
    assert [(one.dataset, one.item_id) for one in told] == [("arrays", "1"), ("frame", 1)]


def test_the_command_line(cluster, sources, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    call = ["evaluate", MODEL, NAIVE, "--data", "file.csv", "--prediction-length", "3", "--quiet"]
    assert main([*call, "--output", "there.csv", "--on", "ray", "--workers", "1"]) == 0
    assert main([*call, "--output", "here.csv"]) == 0
    there, here = (scores_of(pd.read_csv(name)) for name in ("there.csv", "here.csv"))
    pd.testing.assert_frame_equal(there, here, check_exact=True)


def test_what_a_worker_refuses_names_the_model_and_the_data_set(cluster, sources):
    told = r"data set 'arrays': .* found with model 'seasonal-naive' on data set 'arrays': series .* of 3 values"
    with pytest.raises(FlowrankError, match=told):
        evaluate([NAIVE], {"arrays": sources["arrays"]}, TESTS)


def test_series_that_were_left_out_are_warned_of(sources):
    with pytest.warns(SkippedWarning, match="1 series left out, e.g. '1'"):
        evaluate([NAIVE], {"arrays": sources["arrays"]}, TESTS, on=None, skip_bad=True)


def test_what_cannot_be_sent_is_refused(sources):
    pytest.importorskip("ray")
    with pytest.raises(FlowrankError, match=r"models: expected names or folders .* save it"):
        evaluate({"mini": flowrank.load(MODEL)}, sources, TESTS)
    with pytest.raises(FlowrankError, match=r"data set 'some': expected a path, .* found generator"):
        evaluate([NAIVE], {"some": (one for one in sources["arrays"])}, prediction_length=2)
    with pytest.raises(FlowrankError, match="models: expected at least one model"):
        evaluate([], sources, TESTS)
    with pytest.raises(FlowrankError, match="backtests: expected a backtest for each"):
        evaluate([NAIVE], sources, TESTS)
    with pytest.raises(FlowrankError, match="workers: expected a whole number"):
        evaluate([NAIVE], sources, TESTS, workers=0)
    with pytest.raises(TypeError, match="colour"):
        evaluate([NAIVE], sources, prediction_length=2, colour="red")
