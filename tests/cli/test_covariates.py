"""``flowrank forecast`` with several targets and covariates."""

from __future__ import annotations

import pandas as pd
import pytest

import flowrank
from flowrank.cli.options import names_of
from flowrank.errors import FlowrankError
from tests.cli.calls import quietly, run
from tests.test_groups import HORIZON, assert_same, in_order_of_time, tables, with_categories


@pytest.fixture
def truth(chronos2_folder):
    """What chronos-forecasting gives for the tables that `written` writes."""
    from chronos import Chronos2Pipeline

    history, future = with_categories(*tables())
    return Chronos2Pipeline.from_pretrained(chronos2_folder).predict_df(
        history, future_df=future, target=["sold", "returned"], prediction_length=HORIZON
    )


@pytest.fixture
def written(here):
    """A function that writes the tables as files of a kind."""

    def write(kind):
        for name, frame in zip(("series", "next"), with_categories(*tables()), strict=True):
            frame = in_order_of_time(frame)
            path = here / f"{name}.{kind}"
            frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
        return here / f"series.{kind}", here / f"next.{kind}"

    return write


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("targets", [["--target", "sold,returned"], ["--target", "sold", "--target", "returned"]])
def test_from_file_to_file(chronos2_folder, truth, written, here, kind, targets):
    series, known = written(kind)
    output = here / f"out.{kind}"
    options = [*targets, "--past-covariates", "wind", "--future", known]
    assert quietly("forecast", chronos2_folder, series, "--horizon", HORIZON, "--output", output, *options) == 0
    found = pd.read_csv(output, parse_dates=["timestamp"]) if kind == "csv" else pd.read_parquet(output)
    assert_same(found, truth)


def test_cross_learning_is_that_of_the_library(chronos2_folder, written, here):
    series, _ = written("csv")
    options = ["--target", "sold", "--cross-learning", "--batch-size", 2]
    assert quietly("forecast", chronos2_folder, series, "--horizon", 3, "--output", here / "out.csv", *options) == 0
    found = pd.read_csv(here / "out.csv", parse_dates=["timestamp"])
    model = flowrank.load(chronos2_folder)
    truth = flowrank.forecast(model, series, horizon=3, target="sold", cross_learning=True, batch_size=2)
    pd.testing.assert_frame_equal(found, truth, check_dtype=False)


def test_refusals_leave_nothing_behind(chronos2_folder, bolt_folder, written, here, capsys):
    series, known = written("csv")
    output = here / "out.csv"
    call = ("--horizon", HORIZON, "--output", output, "--quiet")
    assert run("forecast", bolt_folder, series, *call, "--target", "sold,returned") != 0
    assert "reads series one by one, for targets 'sold', 'returned'" in capsys.readouterr().err
    assert run("forecast", chronos2_folder, series, *call, "--target", "sold,,returned") != 0
    assert "--target: expected names of columns with commas between" in capsys.readouterr().err
    pd.read_csv(known).iloc[1:].to_csv(known, index=False)
    assert run("forecast", chronos2_folder, series, *call, "--target", "sold", "--future", known) != 0
    assert "a row may not be missing" in capsys.readouterr().err
    assert not output.exists()
    options = ["--target", "sold", "--future", known, "--skip-bad"]
    assert run("forecast", chronos2_folder, series, *call, *options) == 0
    assert len(pd.read_csv(output)) == 2 * HORIZON
    assert len(pd.read_csv(here / "out.skipped.csv")) == 1


def test_names_in_options():
    assert names_of(["a, b", "c"], "--target") == ["a", "b", "c"]
    assert names_of(['"net, total"'], "--target") == ["net, total"]
    for bad in ([""], ["a,"], ["a", ""]):
        with pytest.raises(FlowrankError, match="--target"):
            names_of(bad, "--target")
