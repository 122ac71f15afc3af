"""Long tables of several targets and covariates: what pandas' groupby gives, and what is refused."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flowrank.errors import FlowrankError
from flowrank.forecasting import forecast, write_forecasts
from flowrank.forecasting.sources import check_asked
from flowrank.series import read_series, spilling
from flowrank.series.groups import read_groups

DAYS = pd.date_range("2024-01-01", periods=10)


def history(**columns):
    """Two series of six days with two targets and two covariates; some columns are others."""
    rows = {"item_id": ["A"] * 6 + ["B"] * 6, "timestamp": [*DAYS[:6]] * 2, "sold": np.arange(12.0)}
    rows |= {"returned": np.arange(12.0) + 0.5, "price": np.arange(12.0) / 4, "sky": ["sun", "rain"] * 6}
    return pd.DataFrame(rows | columns)


def future(days=DAYS[6:8], ids=("A", "B"), **columns):
    """The two days after it, of the price alone; with more columns."""
    rows = {"item_id": np.repeat(ids, len(days)), "timestamp": [*days] * len(ids)}
    rows["price"] = np.arange(float(len(days) * len(ids)))
    return pd.DataFrame(rows | columns)


@pytest.mark.parametrize("small", [False, True])
def test_columns_are_as_pandas_groups_them(monkeypatch, small):
    if small:
        monkeypatch.setattr(spilling, "_BUCKET", 8)
        monkeypatch.setattr(spilling, "_MEMORY", 256)
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat(np.arange(9), rng.integers(3, 20, size=9)))
    frame = pd.DataFrame({"item_id": codes, "a": rng.normal(size=len(codes)), "b": rng.normal(size=len(codes))})
    frame["timestamp"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame.groupby("item_id").cumcount(), unit="h")
    frame["c"] = rng.integers(0, 9, size=len(frame))
    frame["sky"] = pd.Series(rng.choice(["rain", "sun"], size=len(frame))).mask(rng.random(len(frame)) < 0.2)
    known = pd.DataFrame({"item_id": np.repeat(rng.permutation(9), 2), "timestamp": DAYS[0], "c": np.arange(18)})
    known["timestamp"] += pd.to_timedelta(known.groupby("item_id").cumcount(), unit="h")
    source = read_groups(frame, targets=["b", "a"], past_covariates=["sky"], future=known)
    groups = list(source.groups())
    assert (source.past, source.known, source.categories) == (("sky",), ("c",), {"sky": ("rain", "sun")})
    truth = frame.assign(sky=frame["sky"].map({"rain": 0.0, "sun": 1.0})).groupby("item_id", sort=False)
    assert [group.series.item_id for group in groups] == list(dict.fromkeys(codes.tolist()))
    for group, (name, rows) in zip(groups, truth, strict=True):
        np.testing.assert_array_equal(group.series.target, rows[["b", "a", "sky", "c"]].to_numpy(float))
        mine = known[known["item_id"] == name]
        np.testing.assert_array_equal(group.future.target[:, 0], mine["c"])
        assert (group.future.times == pd.DatetimeIndex(mine["timestamp"])).all()


def test_covariates_of_every_kind():
    values = {
        "flag": ([True, False, None], [1.0, 0.0, np.nan], ("False", "True")),
        "words": (["true", "FALSE", ""], [1.0, 0.0, np.nan], ("False", "True")),
        "texts": (["1", "2.5", "n/a"], [1.0, 2.5, np.nan], None),
        "shop": (["10a", " 2b", "10a"], [0.0, 1.0, 0.0], ("10a", "2b")),
        "codes": (pd.Categorical([3, None, 7]), [0.0, np.nan, 1.0], ("3", "7")),
        "empty": ([None, None, None], [np.nan] * 3, None),
        "whole": (pd.array([1, None, 3], dtype="Int64"), [1.0, np.nan, 3.0], None),
        "mixed": ([True, 2, "0.5"], [1.0, 2.0, 0.5], None),
    }
    frame = pd.DataFrame({"target": [1.0, 2.0, 3.0], **{name: one[0] for name, one in values.items()}})
    source = read_groups(frame, targets=["target"], past_covariates=list(values), id_column=None, timestamp_column=None)
    [group] = source.groups()
    for number, (name, (_, numbers, categories)) in enumerate(values.items(), 1):
        np.testing.assert_array_equal(group.series.target[:, number], numbers, err_msg=name)
        assert source.categories.get(name) == categories, name


def test_numbers_of_many_notations(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("item_id;target;price;sky\nA;1,5;1.200,5;1.000 m\nA;2,5;3,0;fog\n", encoding="utf-8")
    source = read_groups(
        path,
        targets=["target"],
        past_covariates=["price", "sky"],
        timestamp_column=None,
        decimal=",",
        thousands=".",
    )
    [group] = source.groups()
    np.testing.assert_array_equal(group.series.target, [[1.5, 1200.5, 0.0], [2.5, 3.0, 1.0]])
    path.write_text("item_id;target;price\nA;1;1.200\nA;2;3.100\n", encoding="utf-8")
    with pytest.raises(FlowrankError, match=r"numbers in 'price' that can be read in one way"):
        list(read_groups(path, targets=["target"], past_covariates=["price"], timestamp_column=None).groups())


def test_tables_of_other_libraries_and_of_an_index():
    import polars as pl
    import pyarrow as pa

    frame, known = history(), future(sky="sun")
    for convert in (pl.from_pandas, pa.Table.from_pandas, lambda table: table.set_index(["item_id", "timestamp"])):
        source = read_groups(convert(frame), targets=["sold", "returned"], future=convert(known))
        first, second = source.groups()
        assert source.known == ("price", "sky")
        np.testing.assert_array_equal(first.series.target[:, 2], frame["price"][:6])
        np.testing.assert_array_equal(second.future.target, [[2.0, 1.0], [3.0, 1.0]])


def test_excel(tmp_path):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "book.xlsx") as book:
        history().to_excel(book, sheet_name="past", index=False)
        future().to_excel(book, sheet_name="prices", index=False)
    future().to_excel(tmp_path / "next.xlsx", index=False)
    options = {"targets": ["sold"], "future": tmp_path / "next.xlsx"}
    groups = list(read_groups(tmp_path / "book.xlsx", sheet="past", **options).groups())
    assert [group.future.target[:, 0].tolist() for group in groups] == [[0.0, 1.0], [2.0, 3.0]]


WORDS = history(price=["1", "2", "cheap", *"456789012"])
REFUSED = {  # history, future, options, words of the error
    "a target that is not there": (history(), None, {"target": ["sold", "won"]}, r"missing: 'won'"),
    "a covariate that is not there": (history(), None, {"past_covariates": ["rain"]}, r"missing: 'rain'"),
    "a text among numbers": (WORDS, future(), {}, r"numbers in 'price', found 'cheap' at row 2 \(series 'A'\)"),
    "a number among texts": (
        history(sky=[*"abcde", "12"] * 2),
        None,
        {"past_covariates": ["sky"]},
        r"numbers in 'sky', found 'a' at row 0 .*write no cell of the column as a number",
    ),
    "a text target": (history(), None, {"target": ["sold", "sky"]}, r"numbers in 'sky', found 'sun' at row 0"),
    "a name twice": (history(), None, {"target": ["sold", "sold"]}, r"each column once.*'sold' again"),
    "a target as a covariate": (history(), None, {"past_covariates": ["sold"]}, r"past_covariates.*'sold' again"),
    "the id as a covariate": (history(), None, {"past_covariates": ["item_id"]}, r"a column of its own"),
    "no target": (history(), None, {"target": []}, r"at least one column"),
    "a wide table": (history(), future(), {"wide": True}, r"wide: expected a long table"),
    "records": ([{"sold": [1.0]}], future(), {}, r"a long table .*found list"),
    "an opened source": (read_series(history(), target="sold"), future(), {}, r"pass the table itself"),
    "a future without covariates": (history(), future()[["item_id", "timestamp"]], {}, r"found none; add the columns"),
    "a future without times": (history(), future()[["item_id", "price"]], {}, r"future: .*missing: 'timestamp'"),
    "a column that the history has not": (history(), future(rain=1), {}, r"columns of covariates .*found 'rain'"),
    "a target in the future": (
        history(),
        future(returned=1),
        {"target": ["sold", "returned"]},
        r"found the target 'returned'",
    ),
    "no file": (history(), "no.csv", {}, r"future: .*'no.csv', which is not there"),
    "an id without a future": (history(), future(ids=["A"]), {}, r"the next 2 values of 'price'.*series 'B'"),
    "an id without a past": (history(), future(ids=["A", "B", "C"]), {}, r"future: .*'C', which the history does"),
    "too few rows": (history(), future(DAYS[6:7]), {}, r"series 'A', 2024-01-07.*found none for 2024-01-08"),
    "a gap": (history(), future(DAYS[[6, 8]]), {}, r"none for 2024-01-08 00:00:00; add it"),
    "rows of the past alone": (history(), future(DAYS[:6]), {}, r"none for 2024-01-07 00:00:00 and 1 more"),
    "a later start": (history(), future(DAYS[7:]), {}, r"none for 2024-01-07"),
    "another grid": (
        history(),
        future(DAYS[6:8] + pd.Timedelta(hours=6)),
        {},
        r"the times at which series 'A' goes on: 2024-01-07 .*2024-01-07 06:00:00 at row 0 \(series 'A'\)",
    ),
    "a finer grid": (
        history(),
        future(pd.date_range("2024-01-07", periods=4, freq="12h")),
        {},
        r"06?.*12:00:00 at row 1",
    ),
    "a time twice": (history(), future(DAYS[[6, 6]]), {}, r"future: .*each time stamp once.*again at row 1"),
    "out of order": (history(), future(DAYS[[7, 6]]), {}, r"future: expected increasing"),
    "a zone": (history(), future(DAYS[6:8].tz_localize("UTC")), {}, r"without a time zone, as the history has"),
    "no number": (history(), future(price=[1, 2, "dear", 4]), {}, r"future: .*'price', found 'dear' at row 2 \(series"),
    "no category": (history(), future(sky=[*"xy", "3", "z"]), {}, r"future: .*categories in 'sky'.*'3' at row 2"),
    "infinite": (history(), future(price=np.inf), {}, r"future: expected finite values in 'price'"),
    "no date": (history(), future(timestamp=["soon"] * 4), {}, r"future: .*'soon'"),
    "dates of no one order": (history(), future(timestamp="07/01/2024"), {}, r"future: .*one way"),
    "row numbers": (history(**{"": 1}), future(**{"": 1}), {}, r"found ''.*row numbers"),
    "no values": (history(returned=np.nan), None, {"target": ["sold", "returned"]}, r"none in 'returned'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("interleaved", [False, True])
def test_refusals(name, interleaved, opened, chronos2_folder, monkeypatch, tmp_path):
    import flowrank

    monkeypatch.chdir(tmp_path)
    table, known, options, words = REFUSED[name]
    if interleaved and isinstance(table, pd.DataFrame):
        if name in ("a text among numbers", "out of order", "a time twice", "another grid", "no number", "no category"):
            words = words.split("row ")[0].split(" at ")[0]
        table = table.sort_values("timestamp", kind="stable") if "timestamp" in table else table
    options = {"target": "sold", "future": known, **options}
    with pytest.raises(FlowrankError, match=words):
        forecast(opened(flowrank.load, chronos2_folder), table, horizon=2, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": ["a", "b"]}, "targets 'a', 'b'"),
        ({"past_covariates": ["a"]}, "past_covariates"),
        ({"future": "no.csv"}, "future"),
        ({"cross_learning": True}, "cross_learning=True"),
    ],
)
def test_a_model_that_reads_series_one_by_one(pipeline, tmp_path, options, words):
    for call in (forecast, lambda *given, **named: write_forecasts(*given, tmp_path / "a.csv", **named)):
        with pytest.raises(FlowrankError, match=f"reads series one by one, for {words}"):
            call(pipeline, "not there.csv", horizon=2, **options)
    assert not check_asked(pipeline, target=["a"])


def test_a_child_for_single_series(opened, chronos2_folder):
    import flowrank

    model = opened(flowrank.load, chronos2_folder)
    assert model.takes_groups
    child = SimpleNamespace(takes_groups=type(model).takes_groups.fget(SimpleNamespace(univariate=True)), name="child")
    with pytest.raises(FlowrankError, match="'child', which reads series one by one"):
        check_asked(child, target=["a", "b"])


def test_future_cells_may_be_empty_and_categories_new():
    known = future(price=[None, 1, 2, None], sky=["hail", None, "sun", "rain"])
    first, second = read_groups(history(), targets=["sold"], future=known).groups()
    np.testing.assert_array_equal(first.future.target, [[np.nan, -1.0], [1.0, np.nan]])
    np.testing.assert_array_equal(second.future.target, [[2.0, 1.0], [np.nan, 0.0]])


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(spilling, "_BUCKET", 1 << 12)
    monkeypatch.setattr(spilling, "_MEMORY", 1 << 18)
    rng, peaks = np.random.default_rng(0), []
    for length in (2000, 8000):
        days = pd.date_range("2020-01-01", periods=length + 2, freq="h")
        frame = pd.DataFrame({"item_id": np.tile(np.arange(40), length + 2), "timestamp": np.repeat(days, 40)})
        for name in "abcd":
            frame[name] = rng.normal(size=len(frame))
        frame[: 40 * length].to_parquet(tmp_path / "past.parquet", row_group_size=8192)
        frame[["item_id", "timestamp", "d"]].to_parquet(tmp_path / "next.parquet", row_group_size=8192)
        source = read_groups(
            tmp_path / "past.parquet", targets=["a", "b"], past_covariates=["c"], future=tmp_path / "next.parquet"
        )
        del frame
        assert sum(1 for _ in source.groups()) == 40
        tracemalloc.start()
        try:
            assert {group.series.target.shape for group in source.groups()} == {(length, 4)}
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
