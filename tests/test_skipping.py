"""Series that cannot be used are left out, each with its reason; and all times of a file are written alike."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from flowrank.errors import FlowrankError, SkippedWarning
from flowrank.evaluation import evaluate
from flowrank.forecasting import forecast, write_forecasts
from flowrank.series import read_series

DAYS = [f"2024-01-0{day}" for day in range(1, 7)]
FAULTY = {  # id: times, values, words of the reason
    "gap": (["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-06"], [1, 2, 3, 4], "1 days 00:00:00 to 3 days"),
    "empty": (DAYS[:3], [None, None, None], "has none"),
    "backwards": (["2024-01-02", "2024-01-01", "2024-01-03"], [1, 2, 3], "after 2024-01-02"),
    "twice": (["2024-01-01", "2024-01-02", "2024-01-02"], [1, 2, 3], "again"),
    "infinite": (DAYS[:3], [1, "inf", 3], "infinite"),
    "word": (DAYS[:3], [1, "x", 3], "'x'"),
    "no date": (["2024-01-01", "soon", "2024-01-03"], [1, 2, 3], "'soon'"),
}


def table(*names: str) -> pd.DataFrame:
    """Good series between those that are named."""
    parts = []
    for number, name in enumerate(names):
        times, values, _ = FAULTY[name]
        parts.append((f"good {number}", DAYS, [1, 2, 3, 4, 5, 6 + number]))
        parts.append((name, times, values))
    parts.append(("last", DAYS, [3, 1, 4, 1, 5, 9]))
    frames = [pd.DataFrame({"item_id": name, "timestamp": times, "target": values}) for name, times, values in parts]
    return pd.concat(frames, ignore_index=True).astype({"target": object})


def write(frame: pd.DataFrame, path):
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_faulty_series_stops_all_or_is_left_out(bolt, name, interleaved):
    frame = table(name)
    if interleaved:
        frame = frame.sort_values(
            "timestamp", key=lambda texts: texts.where(texts != "soon", "2024-01-02"), kind="stable"
        )
        if name == "backwards":
            pytest.skip("sorted")
    with pytest.raises(FlowrankError, match=name):
        forecast(bolt, frame, horizon=2)
    skipped = []
    found = forecast(bolt, frame, horizon=2, skip_bad=True, skipped=skipped)
    assert [one.item_id for one in skipped] == [name]
    assert FAULTY[name][2] in skipped[0].reason
    alone = forecast(bolt, frame[frame["item_id"] != name], horizon=2)
    pd.testing.assert_frame_equal(found, alone)


def test_all_of_them_at_once_from_every_kind_of_source(bolt, tmp_path):
    frame = table(*FAULTY)
    good = [name for name in frame["item_id"].unique() if name not in FAULTY]
    texts = frame.astype({"target": "string"})
    texts.to_parquet(tmp_path / "a.parquet")
    records = [
        {"item_id": name, "timestamp": list(rows["timestamp"]), "target": list(rows["target"])}
        for name, rows in frame.groupby("item_id", sort=False)
    ]
    for source in (frame, write(frame, tmp_path / "a.csv"), tmp_path / "a.parquet", records, lambda: iter(records)):
        for given in (source, read_series(source)):
            skipped = []
            found = forecast(bolt, given, horizon=1, skip_bad=True, skipped=skipped)
            assert list(found["item_id"]) == good
            assert {one.item_id for one in skipped} == set(FAULTY)


def test_other_reasons(bolt):
    skipped = []
    source = [[1.0, 2.0], [-1.0, 2.0], [np.nan], [], ["x"]]
    found = forecast(bolt, source, horizon=1, skip_bad=True, skipped=skipped, non_negative=True)
    assert list(found["item_id"]) == ["0"]
    assert [one.item_id for one in skipped] == ["4", "1", "2", "3"] or {one.item_id for one in skipped} == set("1234")
    mixed = [{"item_id": "a", "target": [1.0]}, {"item_id": "b", "target": [1.0], "start": pd.Period("2024-01", "M")}]
    skipped.clear()
    assert len(forecast(bolt, mixed, horizon=1, skip_bad=True, skipped=skipped)) == 1
    assert "time stamps for all" in skipped[0].reason


def test_none_that_can_be_used_is_an_error(bolt):
    with pytest.raises(FlowrankError, match=r"none of 2, the first of which is '0'.*empty"):
        forecast(bolt, [[], [np.nan]], horizon=1, skip_bad=True)


def test_whoever_asks_for_no_list_is_warned(bolt):
    with pytest.warns(SkippedWarning, match="1 series left out, e.g. '1'"):
        forecast(bolt, [[1.0], []], horizon=1, skip_bad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast(bolt, [[1.0], [2.0]], horizon=1, skip_bad=True)


def test_a_file_lists_them_all(bolt, tmp_path):
    output, listed = tmp_path / "out.parquet", tmp_path / "out.skipped.csv"
    write_forecasts(bolt, table(*FAULTY), output, horizon=1, skip_bad=True)
    assert set(pd.read_csv(listed)["item_id"]) == set(FAULTY)
    with pytest.raises(FlowrankError, match="exists"):
        write_forecasts(bolt, table(), tmp_path / "out.csv", horizon=1, skip_bad=True)
    write_forecasts(bolt, table(), output, horizon=1, skip_bad=True, overwrite=True)
    assert not listed.exists()  # nothing was left out: no list of an earlier run stays


def test_evaluation_scores_the_others_for_every_model(bolt, tmp_path):
    short = pd.DataFrame({"item_id": "short", "timestamp": DAYS[:3], "target": [1, 2, 3]})
    frame = pd.concat([table(*FAULTY), short])
    data, models = {"toy": write(frame, tmp_path / "toy.csv")}, {"bolt": bolt, "naive": "seasonal-naive"}
    with pytest.raises(FlowrankError):
        evaluate(models, data, prediction_length=4)
    skipped = []
    scores = evaluate(models, data, prediction_length=4, skip_bad=True, skipped=skipped)
    good = frame[~frame["item_id"].isin([*FAULTY, "short"])].astype({"target": float})
    expected = evaluate(models, {"toy": good}, prediction_length=4)
    pd.testing.assert_frame_equal(scores.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert sorted(one.item_id for one in skipped) == sorted([*FAULTY, "short"])  # once, not once a model
    assert {one.dataset for one in skipped} == {"toy"}
    with pytest.raises(FlowrankError, match=r"data set 'toy'.*none of 1"):
        evaluate(models, {"toy": short}, prediction_length=4, skip_bad=True)


def times_of(path) -> list[str]:
    return list(pd.read_csv(path, dtype=str)["timestamp"])


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([("2024-01-01", "D"), ("2024-02-01", "MS")], ["2024-01-04", "2024-05-01"]),
        ([("2024-01-01", "D"), ("2024-01-01 05:00", "h")], ["2024-01-04 00:00:00", "2024-01-01 08:00:00"]),
        ([("2024-01-01 21:00", "h"), ("2024-01-01", "D")], ["2024-01-02 00:00:00", "2024-01-04 00:00:00"]),
        (
            [("2024-01-01", "D"), ("2024-01-01 00:00", "250ms"), ("2024-01-01 00:00", "h")],
            ["2024-01-04 00:00:00.000", "2024-01-01 00:00:00.750", "2024-01-01 03:00:00.000"],
        ),
    ],
)
def test_times_of_a_file_are_written_alike(bolt, tmp_path, starts, expected):
    """Whatever the batches are: dates alone only if all times of the file are midnights."""
    records = [
        {"item_id": str(number), "target": [1.0, 2.0, 3.0], "start": start, "freq": freq}
        for number, (start, freq) in enumerate(starts)
    ]
    for batch_size in (1, 8):
        path = write_forecasts(bolt, records, tmp_path / "a.csv", horizon=1, batch_size=batch_size, overwrite=True)
        assert times_of(path) == expected
        assert len(pd.to_datetime(pd.read_csv(path)["timestamp"])) == len(expected)  # one format: one call reads it
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv"]
    forecasts = forecast(bolt, records, horizon=1)
    np.testing.assert_array_equal(pd.read_csv(path, float_precision="round_trip")["0.5"], forecasts["0.5"])


def test_zones_are_kept_in_the_file(bolt, tmp_path):
    times = pd.date_range("2024-03-28", periods=4, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame({"item_id": "A", "timestamp": times[:3], "target": [1.0, 2.0, 3.0]})
    path = write_forecasts(bolt, frame, tmp_path / "a.csv", horizon=2)
    assert times_of(path) == ["2024-03-31 00:00:00+01:00", "2024-04-01 00:00:00+02:00"]
    naive = {"item_id": "B", "target": [1.0, 2.0], "start": "2024-01-01", "freq": "D"}
    zoned = {"item_id": "C", "target": [1.0, 2.0], "start": pd.Timestamp("2024-01-01", tz="UTC"), "freq": "D"}
    with pytest.raises(FlowrankError, match="with a time zone for all or for none"):
        forecast(bolt, [naive, zoned], horizon=1)
    with pytest.raises(FlowrankError, match=r"id_column: .*no other column"):
        forecast(bolt, frame.rename(columns={"item_id": "predictions"}), horizon=1, id_column="predictions")
