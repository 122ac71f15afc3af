"""More dates, calendars and tables in order of time: what is read, what is refused, and why it is right."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.evaluation.rolls import season_length
from flowrank.series import read_series
from flowrank.series.dates import DateReading, TimeReader
from flowrank.series.frequency import normalize_frequency
from flowrank.series.grids import future_timestamps
from flowrank.series.irregular import remedy_for


def table(times, item_id="A"):
    times = pd.Series(times)
    return pd.DataFrame({"item_id": item_id, "timestamp": times, "target": np.arange(float(len(times)))})


def read(source, **options):
    [series] = read_series(source if not isinstance(source, list) else table(source), **options)
    return series


def following(series) -> str:
    return str(future_timestamps(series.start, len(series), series.freq, 1)[0])


READ = {  # what it is: times, options, start, frequency
    "a name of the month between dashes": (["05-Mar-24", "06-Mar-24", "07-Mar-24"], {}, "2024-03-05", "D"),
    "a name of the month first": (["March 5, 2024", "March 6, 2024", "March 7, 2024"], {}, "2024-03-05", "D"),
    "a weekday before the date": (["Tue, 05 Mar 2024", "Wed, 06 Mar 2024", "Thu, 07 Mar 2024"], {}, "2024-03-05", "D"),
    "month and year": (["11/2023", "12/2023", "01/2024"], {}, "2023-11-01", "MS"),
    "a name of the month and two digits above 31": (["Nov-98", "Dec-98", "Jan-99"], {}, "1998-11-01", "MS"),
    "months as statistical offices write them": (["2024M01", "2024M02", "2024M03"], {}, "2024-01-01", "MS"),
    "quarters with a dash": (["2023-Q4", "2024-Q1", "2024-Q2"], {}, "2023-10-01", "QS-OCT"),
    "midnight without its time, as R writes it": (["13/03/2024 23:00", "14/03/2024", "14/03/2024 01:00"], {},
                                                  "2024-03-13 23:00", "h"),
    "points with spaces": (["31. 1. 2024", "1. 2. 2024", "2. 2. 2024"], {}, "2024-01-31", "D"),
    "spaces around": ([" 2024-01-01", "2024-01-02 ", "2024-01-03"], {}, "2024-01-01", "D"),
    "UTC behind the time": (["2024-01-01 00:00 UTC", "2024-01-01 01:00 UTC"], {}, "2024-01-01 00:00+00:00", "h"),
    "an offset after a day first": (["13/01/2024 00:00 +01:00", "13/01/2024 01:00 +01:00"], {},
                                    "2024-01-13 00:00+01:00", "h"),
    "eight digits, day first": (["13032024", "14032024"], {"date_format": "%d%m%Y"}, "2024-03-13", "D"),
    "integers in a format that is told": ([13032024, 14032024], {"date_format": "%d%m%Y"}, "2024-03-13", "D"),
    "years as decimal numbers": ([2020.0, 2021.0, 2022.0], {}, "2020-01-01", "YS-JAN"),
    "two 15ths of a month": (["2024-01-15", "2024-02-15"], {}, "2024-01-15", "MS-15"),
    "the 15th and the last day": (pd.date_range("2024-01-15", periods=8, freq="SME").tolist(), {}, "2024-01-15",
                                  "MS-15-31"),
    "local midnights, 23 hours apart": (list(pd.date_range("2024-03-31", periods=2, tz="Europe/Berlin")), {},
                                        "2024-03-31 00:00+01:00", "D"),
}  # fmt: skip


@pytest.mark.parametrize("what", READ)
def test_read(what):
    times, options, start, freq = READ[what]
    series = read(times, **options)
    assert series.start == pd.Timestamp(start)
    assert series.freq == freq


REFUSED = {
    "a month and two digits, which may be a day": (["Jan-24", "Feb-24"], ("'Jan-24'", '"%b-%y"')),
    "a day and a month without a year": (["24-Mar", "25-Mar"], ("'24-Mar'", "row 0", "--date-format")),
    "eight digits, day first": (["13032024", "14032024"], ("13032024", "--date-format", "%d%m%Y")),
    "a text among dates, as a spreadsheet leaves them": (
        [datetime.datetime(2024, 1, 2), "13/01/2024"], ("'13/01/2024'", "row 1"),
    ),
    "hour 24": (["2024-01-01 23:00", "2024-01-01 24:00"], ("24:00", "row 1")),
    "durations": (pd.to_timedelta([1, 2], unit="h"), ("durations", "timestamp_column=None")),
    "years beyond the reach": ([1500, 1501], ("1500", "row 0", "1678 to 2261")),
    "a counter that leaves the years": ([2260, 2261, 2262], ("2262", "row 2", "1678 to 2261")),
    "an order that changes": (["13/01/2024", "14/01/2024", "01/15/2024"], ("'01/15/2024'", "row 2", "'13/01/2024'")),
    "a zone and none": ([pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02")], ("row 1", "--utc")),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    times, words = REFUSED[what]
    with pytest.raises(FlowrankError) as refusal:
        read(table(times))
    for word in words:
        assert word in str(refusal.value)


STARTS = {
    "both orders fit": ({"start": "01/02/2023", "freq": "D"}, {}, ("--day-first", "record 0")),
    "a time without a date": ({"start": "10:00", "freq": "D"}, {}, ("without a date", "record 0")),
    "a month without a year": ({"start": "March", "freq": "D"}, {}, ("'March'",)),
    "a frequency that goes back": ({"start": "2023-01-01", "freq": "-604800s"}, {}, ("'-604800s'", "record 0")),
    "a frequency of nothing": ({"start": "2023-01-01", "freq": "0s"}, {}, ("'0s'", "record 0")),
    "a number as a frequency": ({"start": "2023-01-01", "freq": 604800}, {}, ("604800", "record 0")),
}


@pytest.mark.parametrize("what", STARTS)
def test_starts_of_records_are_refused(what):
    record, options, words = STARTS[what]
    with pytest.raises(FlowrankError) as refusal:
        list(read_series([{"target": [1.0, 2.0], **record}], **options))
    for word in words:
        assert word in str(refusal.value)


def test_starts_of_records_are_read_as_told():
    record = {"target": [1.0, 2.0], "start": "01/02/2023", "freq": "D"}
    assert read(record, day_first=True).start == pd.Timestamp("2023-02-01")
    assert read(record, day_first=False).start == pd.Timestamp("2023-01-02")


HOLIDAYS = pd.offsets.CustomBusinessDay(holidays=["2024-12-25", "2025-01-01"])
TOLD = {  # what it is: frequency, history, next
    "an exchange's holidays": (HOLIDAYS, pd.date_range("2024-12-19", periods=4, freq=HOLIDAYS), "2024-12-26"),
    "holidays in a text": ("C:Mon Tue Wed Thu Fri;2024-12-25", pd.bdate_range("2024-12-19", periods=4), "2024-12-26"),
    "months by an offset": (
        pd.DateOffset(months=1), pd.date_range("2024-01-20", periods=4, freq=pd.DateOffset(months=1)), "2024-05-20",
    ),
    "days by an offset": (pd.DateOffset(days=10), pd.date_range("2024-01-01", periods=3, freq="10D"), "2024-01-31"),
    "a list of times": (
        pd.to_datetime(["2024-01-02", "2024-01-04", "2024-01-05", "2024-01-09"]),
        pd.to_datetime(["2024-01-02", "2024-01-04", "2024-01-05"]), "2024-01-09",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TOLD)
def test_calendars_that_are_told(what):
    freq, history, after = TOLD[what]
    series = read(table(history), freq=freq)
    assert len(series) == len(history)
    assert pd.Timestamp(following(series)) == pd.Timestamp(after)
    assert normalize_frequency(series.freq) == series.freq  # a text that another process reads
    assert season_length(series.freq) >= 1


def test_a_list_of_times_that_ends_too_soon_is_refused():
    days = pd.to_datetime(["2024-01-02", "2024-01-04", "2024-01-05"])
    series = read(table(days), freq=days)
    with pytest.raises(FlowrankError, match="add later times"):
        following(series)
    with pytest.raises(FlowrankError, match=r"2024-01-04.*row 1"):
        read(table(days), freq=days[[0, 2]])


def test_one_value_takes_the_calendar_of_the_others():
    months = pd.date_range("2024-01-15", periods=5, freq=pd.DateOffset(months=1))
    both = pd.concat([table(months), table(months[:1], "B"), table(months[:2], "C")])
    assert [series.freq for series in read_series(both)] == ["MS-15"] * 3


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (pd.bdate_range("2024-12-16", "2025-01-10").drop("2024-12-25"), ('freq="B"', "CustomBusinessDay")),
        ([d for d in pd.date_range("2024-01-01", periods=20) if d.weekday() != 6 and d.day != 10], ("'C:Mon Tue",)),
        (pd.to_datetime(["2024-01-15", "2024-02-15", "2024-04-15"]), ("--freq MS-15",)),
        (pd.to_datetime(["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00", "2024-01-01 05:00"]), ("freq h",)),
    ],
)
def test_irregular_times_say_which_frequency_they_may_have(times, words):
    for word in words:
        assert word in remedy_for(pd.DatetimeIndex(times))
    with pytest.raises(FlowrankError, match="here perhaps"):
        read(table(list(times)))


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_table_in_order_of_time_is_its_series(tmp_path, zone):
    hours = pd.date_range("2024-03-30 20:00", periods=30, freq="h", tz=zone)
    by_series = pd.concat([table(hours, name) for name in ("B", "A", "C")], ignore_index=True)
    by_series["target"] = np.arange(90.0)
    by_time = by_series.sort_values("timestamp", kind="stable")
    by_time.to_parquet(tmp_path / "a.parquet", index=False)
    for source in (by_time, tmp_path / "a.parquet"):
        for found, known in zip(read_series(source), read_series(by_series), strict=True):
            assert (found.item_id, found.start, found.freq) == (known.item_id, known.start, known.freq)
            np.testing.assert_array_equal(found.target, known.target)


def test_a_bad_series_of_a_table_in_order_of_time_is_left_out_alone():
    frame = pd.concat([table(pd.date_range("2024-01-01", periods=4), name) for name in "ABC"])
    frame = frame.sort_values("timestamp", kind="stable").astype({"target": object})
    frame.iloc[4, 2] = "high"  # B, its second value
    bad = []
    found = list(read_series(frame, on_bad=lambda name, error: bad.append((name, str(error)))))
    assert [series.item_id for series in found] == ["A", "C"]
    assert [series.target.tolist() for series in found] == [[0, 1, 2, 3]] * 2
    [(name, words)] = bad
    assert name == "B"
    assert "'high' at row 4 (series 'B')" in words
    with pytest.raises(FlowrankError, match="'high' at row 4"):
        list(read_series(frame))


FORMATS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y %H:%M", "%m-%d-%Y %H:%M:%S", "%d %b %Y", "%Y/%m/%d", "%d.%m.%y")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2059, 1, 1)), min_size=1, max_size=20),
    st.sampled_from(FORMATS),
    st.integers(1, 20),
)
def test_dates_are_read_as_written_or_refused_as_ambiguous(times, date_format, size):
    """Dates that pandas writes come back equal, in pieces of any size; only those of two meanings are refused."""
    texts = pd.Series([f"{time:{date_format}}" for time in times])
    known = pd.to_datetime(texts, format=date_format)
    pieces = [texts.iloc[i : i + size] for i in range(0, len(texts), size)]
    told = TimeReader(DateReading(date_format=date_format), argument="series", name="t")
    assert list(told.read(texts, "row {}".format)) == list(known)
    reader = TimeReader(DateReading(), argument="series", name="t")
    for piece in pieces:
        reader.note(piece, "row {}".format)
    try:
        reader.settle()
    except FlowrankError:
        ambiguous = date_format[:5] in ("%d/%m", "%m/%d", "%d.%m", "%m-%d")
        assert ambiguous
        assert max(max(time.day, time.month) for time in times) <= 12
        reader = TimeReader(DateReading(day_first=date_format.startswith("%d")), argument="series", name="t")
    assert [time for piece in pieces for time in reader.read(piece, "row {}".format)] == list(known)
