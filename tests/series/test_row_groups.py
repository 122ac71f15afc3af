"""Groups in tables of one row a group: what long tables of the same values give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flowrank import FlowrankError
from flowrank.forecasting.groups import Roles, group_request
from flowrank.forecasting.sources import opened
from flowrank.series.grids import future_timestamps

HORIZON = 3
ROLES = {"target": ["a", "b"], "past_covariates": ["p"]}


def rows(lengths=(30, 24, 40), known=HORIZON, start="2020-01-01"):
    rng = np.random.default_rng(0)
    made = []
    for i, n in enumerate(lengths):
        row = {"item_id": f"s{i}", "start": pd.Timestamp(start), "freq": "MS"}
        made.append({**row, **{name: rng.normal(size=n).tolist() for name in "abp"}})
        made[-1]["k"] = rng.normal(size=n + known).tolist()
    return made


def as_long(made, known=HORIZON):
    history, future = [], []
    for row in made:
        times = pd.date_range(row["start"], periods=len(row["k"]), freq="MS")
        count = len(row["a"])
        columns = {name: row[name][:count] for name in "abpk"}
        history.append(pd.DataFrame({"item_id": row["item_id"], "timestamp": times[:count], **columns}))
        future.append(pd.DataFrame({"item_id": row["item_id"], "timestamp": times[count:], "k": row["k"][count:]}))
    return pd.concat(history), pd.concat(future)


def requests(source, **options):
    found = opened(source, **options)
    roles = Roles(found.targets, found.past, found.known, found.categories)
    for group in found.groups():
        series = group.series
        yield group_request(group, roles, future_timestamps(series.start, len(series), series.freq, HORIZON))


@pytest.mark.parametrize("more", [0, 2])
@pytest.mark.parametrize("kind", ["arrow", "pandas", "file"])
def test_rows_are_read_as_long_tables_are(kind, more, tmp_path):
    made = rows(known=HORIZON + more)
    made[1]["b"][3] = None
    table = pa.Table.from_pylist(made)
    sources = {"arrow": table, "pandas": table.to_pandas(), "file": tmp_path / "rows.parquet"}
    table.to_pandas().to_parquet(sources["file"])
    history, future = as_long(made)
    expected = list(requests(history, **ROLES, future=future))
    found = list(requests(sources[kind], **ROLES, future=["k"]))
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.item_id == theirs.item_id
        np.testing.assert_array_equal(mine.history, theirs.history)
        np.testing.assert_array_equal(mine.future, theirs.future)
        assert mine.steps.equals(theirs.steps)


def test_without_times_and_without_covariates():
    made = [{"item_id": 7, "a": [1.0, 2.0], "b": [3.0, 4.0]}]
    [group] = opened(made, target=["a", "b"]).groups()
    assert (group.series.item_id, group.series.start, group.future) == (7, None, None)
    assert group.series.target.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_groups_that_cannot_be_read_are_left_out_and_told_of_once():
    made = rows((10, 11, 12, 13))
    made[0]["b"] = made[0]["b"][:-1]
    made[1]["a"][2] = made[1]["b"][4] = "text"
    made[3]["p"] = None
    told = []
    source = opened(made, **ROLES, future=["k"])
    good = list(source.groups(lambda item_id, error: told.append((item_id, str(error)))))
    assert [one.series.item_id for one in good] == ["s2"]
    assert sorted(item_id for item_id, _ in told) == ["s0", "s1", "s3"]
    assert "10 values in 'b' of 's0', as in 'a', found 9" in dict(told)["s0"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"known": HORIZON - 1}, r"3 rows for series|a row for each of the next 3 steps"),
        ({"known": -1}, r"at least 30 values in 'k' of 's0', as in 'a', found 29"),
    ],
)
def test_too_few_values_of_the_time_to_come(changed, message):
    with pytest.raises(FlowrankError, match=message):
        list(requests(rows(**changed), **ROLES, future=["k"]))


def test_names_of_the_future_of_a_long_table_are_refused():
    history, _ = as_long(rows())
    with pytest.raises(FlowrankError, match="future: expected a table of the time to come"):
        opened(history, **ROLES, future=["k"])


def test_a_column_for_two_purposes():
    with pytest.raises(FlowrankError, match="'b' for two"):
        opened(rows(), target=["a", "b"], past_covariates=["b"])


@pytest.mark.parametrize("options", [{"future": ["p"]}, {"past_covariates": ["p"]}, {"target": ["a", "p"]}])
def test_gaps_in_times_are_refused_where_other_columns_would_be_shifted(options):
    days = [pd.Timestamp(f"2024-01-{day:02}") for day in (1, 2, 4)]
    gap = {"item_id": "gap", "timestamp": days, "a": [1.0, 2.0, 4.0], "freq": "D"}
    whole = {**gap, "item_id": "whole", "timestamp": [*days[:2], pd.Timestamp("2024-01-03")], "a": [1.0, np.nan, 4.0]}
    ahead = 2 * ("future" in options)
    made = [{**one, "p": [10.0, 20, 40, 50, 60][: 3 + ahead]} for one in (whole, gap, {**whole, "item_id": "more"})]
    source = opened(made, **{"target": "a", **options})
    told = []
    good = list(source.groups(lambda item_id, error: told.append((item_id, str(error)))))
    assert [one.series.item_id for one in good] == ["whole", "more"]
    np.testing.assert_array_equal(good[0].series.target, [[1, 10], [np.nan, 20], [4, 40]])
    [(item_id, error)] = told
    assert item_id == "gap"
    assert "found 3 times for 4 steps of 'D' from 2024-01-01 00:00:00; write all times, and null" in error
    with pytest.raises(FlowrankError, match="expected times without gaps in series 'gap', as it has several columns"):
        list(source.groups())
