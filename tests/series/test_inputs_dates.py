"""Dates, calendars, zones and numbers as people write them: what is read, what is refused, and why.

A row of the tables: what it is · the texts · options · the value that is right, or words of the refusal.
"""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.series import read_series
from flowrank.series.calendars import MonthDays
from flowrank.series.dates import as_timestamps
from flowrank.series.frequency import normalize_frequency
from flowrank.series.grids import future_timestamps, grid_positions
from flowrank.series.inference import infer_frequency
from flowrank.series.numbers import as_numbers
from flowrank.series.weeks import week_in


def read(times, *, values=None, **options):
    frame = pd.DataFrame({"timestamp": times})
    frame["target"] = np.arange(float(len(frame))) if values is None else values
    [series] = read_series(frame.assign(item_id="A"), **options)
    return series


def following(series, count: int = 1) -> list[str]:
    return [str(time) for time in future_timestamps(series.start, len(series), series.freq, count)]


DMY = {"day_first": True}
MDY = {"day_first": False}
READ = {
    "day first, as a day above 12 says": (["12/03/2024", "13/03/2024", "14/03/2024"], {}, "2024-03-12", "D"),
    "month first, as a day above 12 says": (["03/12/2024", "03/13/2024", "03/14/2024"], {}, "2024-03-12", "D"),
    "both orders fit, and the user says": (["01/01/2023", "01/02/2023", "01/03/2023"], DMY, "2023-01-01", "MS"),
    "both orders fit, and the user says the other": (
        ["01/01/2023", "01/02/2023", "01/03/2023"],
        MDY,
        "2023-01-01",
        "D",
    ),
    "day and month equal: the same either way": (["01.01.2024", "02.02.2024"], {}, "2024-01-01", "32D"),
    "points": (["30.11.2023", "31.12.2023", "31.01.2024"], {}, "2023-11-30", "ME"),
    "dashes and two digits of the year": (["30-01-24", "31-01-24", "01-02-24"], DMY, "2024-01-30", "D"),
    "a time behind the date": (
        ["13/03/2024 22:00", "13/03/2024 23:00", "14/03/2024 00:00"],
        {},
        "2024-03-13 22:00",
        "h",
    ),
    "a time of twelve hours": (["3/13/2024 11:00 PM", "3/14/2024 12:00 AM"], {}, "2024-03-13 23:00", "h"),
    "a format that is told": (["2024_13_03", "2024_14_03"], {"date_format": "%Y_%d_%m"}, "2024-03-13", "D"),
    "year first with slashes": (["2024/01/02", "2024/01/03"], {}, "2024-01-02", "D"),
    "names of months": (["5 Jan 2024", "5 Feb 2024", "5 Mar 2024"], {}, "2024-01-05", "MS-5"),
    "ISO with a letter T": (["2024-01-02T03:00", "2024-01-02T04:00"], {}, "2024-01-02 03:00", "h"),
    "months alone": (["2024-01", "2024-02", "2024-03"], {}, "2024-01-01", "MS"),
    "quarters": (["2023Q4", "2024Q1", "2024Q2"], {}, "2023-10-01", "QS-OCT"),
    "weeks of ISO 8601": (["2024-W01", "2024-W02", "2024-W03"], {}, "2024-01-01", "W-MON"),
    "years as integers": ([2020, 2021, 2022], {}, "2020-01-01", "YS-JAN"),
    "years as objects": (pd.Series([2020, 2021, 2022], dtype=object), {}, "2020-01-01", "YS-JAN"),
    "months as integers": ([202311, 202312, 202401], {}, "2023-11-01", "MS"),
    "days as integers": ([20240131, 20240201], {}, "2024-01-31", "D"),
    "dates of Python": ([datetime.date(2024, 1, 31), datetime.date(2024, 2, 1)], {}, "2024-01-31", "D"),
    "periods": (pd.period_range("2024-01", periods=3, freq="M"), {}, "2024-01-01", "MS"),
    "offsets of two kinds as UTC": (
        ["2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00"],
        {"utc": True},
        "2024-10-27 00:00+00:00",
        "h",
    ),
    "one offset": (["2024-01-01 00:00+05:30", "2024-01-01 01:00+05:30"], {}, "2024-01-01 00:00+05:30", "h"),
    "nanoseconds": (pd.to_datetime(["2024-01-01", "2024-01-02"]).as_unit("s"), {}, "2024-01-01", "D"),
}


@pytest.mark.parametrize("what", READ)
def test_times_that_are_read(what):
    times, options, start, freq = READ[what]
    series = read(times, **options)
    assert series.start == pd.Timestamp(start)
    assert series.freq == freq


REFUSED = {
    "both orders fit": (["03/01/2024", "04/01/2024", "06/01/2024"], ("row 0", "--day-first", "--date-format")),
    "both orders fit, with a time": (
        ["05/03/2024 00:00", "05/03/2024 01:00"],
        ("'05/03/2024 00:00'", "day-month-year or month-day-year"),
    ),
    "both orders fit, with points": (["01.02.24", "02.02.24"], ("--day-first",)),
    "two digits of the year, which may come first": (["30-01-24", "31-01-24"], ("day-month-year or year-month-day",)),
    "numbers with spaces": (["05 06 2024", "06 06 2024"], ("'05 06 2024'", "--day-first")),
    "mixed orders": (["13/03/2024", "03/14/2024"], ("'03/14/2024'", "row 1", "unlike")),
    "mixed notations": (["2024-03-05", "06/03/2024"], ("'06/03/2024'", "row 1")),
    "a time without a date": (["10:00", "11:00"], ("'10:00'", "without a date")),
    "Python's times": ([datetime.time(10), datetime.time(11)], ("row 0", "timestamp")),
    "offsets of two kinds": (["2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00"], ("row 1", "--utc")),
    "an offset and none": (["2024-01-01 00:00+01:00", "2024-01-01 01:00"], ("row 1", "--utc")),
    "days of a spreadsheet": ([45292, 45293], ("45292", "spreadsheet", "1899-12-30")),
    "days of a spreadsheet as texts": (["45292", "45293"], ("45292", "spreadsheet")),
    "seconds since 1970": ([1704067200, 1704070800], ("seconds since 1970", "unit='s'")),
    "step numbers": (["1", "2", "3"], ("number 1", "timestamp_column=None")),
    "a year beyond nanoseconds": (["2024-01-01", "2500-01-01"], ("'2500-01-01'", "row 1", "1678 to 2261")),
    "a date beyond nanoseconds": (
        np.array(["2024-01-01", "2024-01-02", "9999-12-31"], dtype="datetime64[us]"),
        ("9999-12-31", "row 2", "1678 to 2261"),
    ),
    "a month without a year": (["March", "April"], ("'March'", "row 0")),
    "a day that is none": (["2024-02-28", "2024-02-30"], ("'2024-02-30'", "row 1")),
    "a missing time": (["2024-02-28", None], ("None", "row 1")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_times_that_are_refused(what):
    times, words = REFUSED[what]
    with pytest.raises(FlowrankError) as refusal:
        read(times)
    for word in words:
        assert word in str(refusal.value)


def test_the_whole_file_decides_on_the_order_not_a_piece_of_it(tmp_path, monkeypatch):
    """The day above 12 comes in the last of many pieces; every one before could be read both ways."""
    from flowrank.series.tabular_files import CsvFile

    days = pd.date_range("2024-01-01", periods=13)
    path = tmp_path / "days.csv"
    lines = [f"A,{day:%d/%m/%Y},{i}" for i, day in enumerate(days)]
    path.write_text("item_id,timestamp,target\n" + "\n".join(lines) + "\n")

    def pieces(self, names):
        whole = pd.read_csv(self.path, dtype=str)[names]
        return (whole.iloc[i : i + 2] for i in range(0, len(whole), 2))

    monkeypatch.setattr(CsvFile, "pieces", pieces)
    [series] = read_series(path)
    assert (series.start, series.freq, len(series)) == (pd.Timestamp("2024-01-01"), "D", 13)
    path.write_text("item_id,timestamp,target\n" + "\n".join(lines[:12]) + "\n")
    with pytest.raises(FlowrankError, match="--day-first"):
        list(read_series(path))


CALENDARS = {
    "the 15th of each month": (
        pd.date_range("2024-01-15", periods=5, freq=pd.DateOffset(months=1)),
        "MS-15",
        "2024-06-15",
    ),
    "the last days but one": (
        pd.to_datetime(["2024-01-30", "2024-02-29", "2024-03-30", "2024-04-30"]),
        "MS-30",
        "2024-05-30",
    ),
    "quarters from the 10th": (
        pd.to_datetime(["2023-10-10", "2024-01-10", "2024-04-10", "2024-07-10"]),
        "3MS-10",
        "2024-10-10",
    ),
    "dekads": (
        pd.to_datetime([f"2024-0{m}-{d:02}" for m in (1, 2, 3) for d in (1, 11, 21)]),
        "MS-1-11-21",
        "2024-04-01",
    ),
    "Monday to Friday": (pd.bdate_range("2024-01-01", periods=15), "B", "2024-01-22"),
    "Monday to Saturday": (
        pd.DatetimeIndex([d for d in pd.date_range("2024-01-01", periods=20) if d.weekday() != 6]),
        "C:Mon Tue Wed Thu Fri Sat",
        "2024-01-22",
    ),
    "Tuesday and Friday": (
        pd.DatetimeIndex([d for d in pd.date_range("2024-01-01", periods=25) if d.weekday() in (1, 4)]),
        "C:Tue Fri",
        "2024-01-26",
    ),
    "local days over a change of the clock": (
        pd.date_range("2024-03-28", periods=5, freq="D", tz="Europe/Berlin"),
        "D",
        "2024-04-02 00:00:00+02:00",
    ),
    "24 hours over a change of the clock": (
        pd.date_range("2024-03-29", periods=5, freq="24h", tz="Europe/Berlin"),
        "24h",
        "2024-04-03 01:00:00+02:00",
    ),
    "hours over a change of the clock": (
        pd.date_range("2024-10-26 23:00", periods=5, freq="h", tz="Europe/Berlin"),
        "h",
        "2024-10-27 03:00:00+01:00",
    ),
    "months in a zone": (
        pd.date_range("2024-01-01", periods=3, freq="MS", tz="Europe/Berlin"),
        "MS",
        "2024-04-01 00:00:00+02:00",
    ),
    "a midnight that the clock leaves out": (
        pd.date_range("2024-03-27", periods=4, freq="D", tz="Asia/Beirut"),
        "D",
        "2024-03-31 01:00:00+03:00",
    ),
}


@pytest.mark.parametrize("what", CALENDARS)
def test_calendars_are_found_and_go_on(what):
    times, freq, next_time = CALENDARS[what]
    for given_freq in (None, freq):
        series = read(times, freq=given_freq)
        assert series.freq == freq
        assert pd.Timestamp(following(series)[0]) == pd.Timestamp(next_time)


def test_a_local_time_that_the_clock_shows_twice():
    """02:30 of 27 October: either will do, the days after it are 02:30 again, and nothing is raised."""
    series = read(pd.date_range("2024-10-24 02:30", periods=3, freq="D", tz="Europe/Berlin"))
    found = [pd.Timestamp(time) for time in following(series, 3)]
    assert [time.strftime("%d %H:%M") for time in found] == ["27 02:30", "28 02:30", "29 02:30"]
    assert found[2] == pd.Timestamp("2024-10-29 02:30+01:00")


def test_days_whose_past_has_a_moved_time_are_days():
    times = pd.date_range("2024-03-29 02:30", periods=2, freq="D", tz="Europe/Berlin").tolist()
    times += [
        pd.Timestamp("2024-03-31 03:00", tz="Europe/Berlin"),
        pd.Timestamp("2024-04-01 02:30", tz="Europe/Berlin"),
    ]
    series = read(pd.DatetimeIndex(times))
    assert (series.freq, len(series)) == ("D", 4)


def test_holidays_are_missing_values_where_the_week_is_told():
    days = pd.bdate_range("2024-12-23", "2025-01-03").drop(pd.to_datetime(["2024-12-25", "2025-01-01"]))
    with pytest.raises(FlowrankError, match="--freq"):
        read(days)
    series = read(days, freq="B")
    assert len(series) == 10
    assert np.flatnonzero(np.isnan(series.target)).tolist() == [2, 7]


def test_zones_of_lists_are_kept():
    import pyarrow as pa
    import pyarrow.parquet as pq

    zone = "Europe/Berlin"
    days = pd.date_range("2024-03-25", periods=10, freq="D", tz=zone)
    table = pa.table(
        {
            "item_id": ["A"],
            "timestamp": pa.array([list(days)], type=pa.list_(pa.timestamp("us", tz=zone))),
            "target": pa.array([[float(i) for i in range(10)]]),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        path.write_bytes(buffer.getvalue())
        [series] = read_series(path)
    assert following(series) == ["2024-04-04 00:00:00+02:00"]
    datasets = pytest.importorskip("datasets")
    [series] = read_series(datasets.Dataset(table))
    assert following(series) == ["2024-04-04 00:00:00+02:00"]


NUMBERS = {
    "a decimal comma": (["1,5", "2"], {"decimal": ","}, [1.5, 2.0]),
    "points part thousands": (["950", "1.000", "1.234,5"], {"thousands": ".", "decimal": ","}, [950, 1000, 1234.5]),
    "commas part thousands": (["1,234.5", "12,345,678"], {"thousands": ","}, [1234.5, 12345678]),
    "spaces part thousands": (["1 234", "1\u202f234 567", "1\u00a0234"], {"thousands": " "}, [1234, 1234567, 1234]),
    "no-break spaces part thousands": (["1\u00a0234,5"], {"thousands": "\u00a0", "decimal": ","}, [1234.5]),
    "apostrophes part thousands": (["1'234.50"], {"thousands": "'"}, [1234.5]),
    "exponents": (["1e3", "-2.5E-1"], {}, [1000, -0.25]),
    "words for missing": (["NA", "", "null", "nan", "7"], {}, [np.nan, np.nan, np.nan, np.nan, 7]),
    "booleans": (["true", "False"], {}, [1, 0]),
    "spaces around": ([" 7 ", "8"], {}, [7, 8]),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_that_are_read(what):
    texts, options, expected = NUMBERS[what]
    np.testing.assert_array_equal(as_numbers(texts, argument="series", where="row {}".format, **options), expected)


BAD_NUMBERS = {
    "a decimal comma": ("1,5", {}, ("--decimal ,",)),
    "thousands and a decimal comma": ("1.234,5", {}, ("--thousands . --decimal ,",)),
    "thousands and a decimal point": ("1,234.5", {}, ("--thousands ,",)),
    "spaces": ("1 234", {}, ("--thousands ' '",)),
    "a currency": ("€5", {}, ("without its sign",)),
    "a percentage": ("12%", {}, ("without its sign",)),
    "a unit": ("5 kg", {}, ("unit",)),
    "a dash": ("-", {}, ("correct it",)),
    "groups of other sizes": ("1.00", {"thousands": ".", "decimal": ","}, ("'1.00'",)),
    "underscores, which Python takes": ("1_000", {}, ("'1_000'",)),
    "infinity": ("inf", {}, ("infinite",)),
}


@pytest.mark.parametrize("what", BAD_NUMBERS)
def test_numbers_that_are_refused(what):
    text, options, words = BAD_NUMBERS[what]
    with pytest.raises(FlowrankError) as refusal:
        as_numbers(["1", text], argument="series", where="row {}".format, **options)
    for word in ("row 1", *words):
        assert word in str(refusal.value)


def test_points_in_a_file_of_semicolons_are_questioned(tmp_path):
    path = tmp_path / "numbers.csv"

    def values(*texts, **options):
        lines = [f"A;2024-01-{i + 1:02};{text}" for i, text in enumerate(texts)]
        path.write_text("item_id;timestamp;target\n" + "\n".join(lines) + "\n")
        [series] = read_series(path, **options)
        return series.target.tolist()

    with pytest.raises(FlowrankError, match=r"'1\.000' at row 1.*--decimal \..*--thousands \. --decimal ,"):
        values("950", "1.000", "1.050")
    assert values("950", "1.000", thousands=".", decimal=",") == [950, 1000]
    assert values("950", "1.000", decimal=".") == [950, 1]
    assert values("0.123", "1.000") == [0.123, 1]  # no thousands begin with 0
    assert values("1.5", "1.000") == [1.5, 1]
    assert values("950", "1050") == [950, 1050]
    with pytest.raises(FlowrankError, match="another mark"):
        values("1", thousands=".")
    with pytest.raises(FlowrankError, match="decimal: expected one of"):
        values("1", decimal=";")


@given(
    st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2250, 1, 1)),
    st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%Y-%m-%d", "%d.%m.%Y", "%d %b %Y", "%d %m %Y", "%Y%m%d"]),
    st.integers(1, 40),
)
def test_dates_written_in_a_format_are_read_or_refused_never_misread(start, form, count):
    form += "" if form == "%Y%m%d" else " %H:%M:%S"
    if form == "%Y%m%d":
        start = datetime.datetime.combine(start.date(), datetime.time())
    days = [start.replace(microsecond=0) + datetime.timedelta(days=i) for i in range(count)]
    texts = [day.strftime(form) for day in days]
    unclear = form[:2] in ("%d", "%m") and "b" not in form and all(day.day <= 12 for day in days)
    if unclear and any(day.day != day.month for day in days):
        with pytest.raises(FlowrankError, match="--day-first"):
            as_timestamps(texts, argument="series", where="row {}".format, name="t")
    else:
        found = as_timestamps(texts, argument="series", where="row {}".format, name="t")
        assert found.tolist() == [pd.Timestamp(day) for day in days]
    told = as_timestamps(texts, argument="series", where="row {}".format, name="t", reading=_told(form))
    assert told.tolist() == [pd.Timestamp(day) for day in days]


def _told(form):
    from flowrank.series.dates import DateReading

    return DateReading(date_format=form)


@given(
    st.sampled_from(
        ["h", "D", "7D", "W-WED", "MS", "ME", "QS-FEB", "YE-JUN", "2MS", "B", "MS-15", "3MS-20", "MS-1-11-21"]
    ),
    st.sampled_from([None, "UTC", "Europe/Berlin", "Asia/Beirut", "America/Sao_Paulo"]),
    st.dates(datetime.date(1990, 1, 1), datetime.date(2040, 1, 1)),
    st.integers(8, 60),
)
def test_a_calendar_found_from_times_gives_the_times_that_follow(freq, zone, start, count):
    """Written from the definition of each calendar by pandas, or day by day."""
    whole = _written(freq, pd.Timestamp(start), count + 3)
    if zone is not None and freq != "h":
        whole = whole.tz_localize(zone, ambiguous=np.ones(len(whole), dtype=bool), nonexistent="shift_forward")
    elif zone is not None:
        whole = whole.tz_localize("UTC").tz_convert(zone)
    assume(whole[0].time() == whole[-1].time() or freq == "h")  # begins where the clock was moved: any time of day
    times = whole[:count]
    found = infer_frequency(times)
    assert found is not None
    assert grid_positions(times, found).tolist() == list(range(count))
    assert future_timestamps(times[0], count, found, 3).tolist() == whole[count:].tolist()


def _written(freq: str, start: pd.Timestamp, count: int) -> pd.DatetimeIndex:
    if freq in ("MS-15", "3MS-20"):
        day, months = (15, 1) if freq == "MS-15" else (20, 3)
        first = start.replace(day=day)
        return pd.DatetimeIndex([first + pd.DateOffset(months=months * i) for i in range(count)])
    if freq == "MS-1-11-21":
        days = [day for day in pd.date_range(start, periods=12 * count) if day.day in (1, 11, 21)]
        return pd.DatetimeIndex(days[:count])
    return pd.date_range(start, periods=count, freq=freq)


def test_names_of_calendars():
    assert normalize_frequency("MS-1-11-21") == "MS-1-11-21"
    assert normalize_frequency("C:sat, mon") == "C:Mon Sat"
    for wrong in ("MS-32", "MS-21-11", "2MS-1-15", "C:", "C:Mon Noday"):
        with pytest.raises(FlowrankError, match="freq"):
            normalize_frequency(wrong)
    assert MonthDays.of(pd.DatetimeIndex(["2024-01-15", "2024-02-15"])) is None
    assert week_in(pd.date_range("2024-01-01", periods=30)) is None
    assert ZoneInfo("Europe/Berlin") is not None


def test_the_same_moment_in_two_zones_has_two_calendars():
    """To Python both starts are equal: what is remembered of one must not be given for the other."""
    berlin = pd.Timestamp("1992-04-02", tz="Europe/Berlin")
    beirut = berlin.tz_convert("Asia/Beirut")
    assert berlin == beirut
    for start in (berlin, beirut):
        [following_time] = future_timestamps(start, 8, "7D", 1)
        assert str(following_time.tz) == str(start.tz)
        assert following_time.time() == start.time()
