"""Tables as people hand them over: what is read, what is refused, and why.

A row of `READ` and `REFUSED`: what it is, and why that is right · input · options · the value, or the error's words.
"""

from __future__ import annotations

import datetime
import pickle
import sys
import uuid
import zipfile
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.series import read_series
from tests.series.tables import NAN, TEXT, TEXTS, TWO, TYPED, csv, excel, long, packed, parquet, polars, read


def wide() -> pd.DataFrame:
    return pd.DataFrame(
        {"timestamp": pd.date_range("2024-01-01", periods=3), "north": [1.0, 2.0, 3.0], "south": [np.nan, 5.0, np.nan]}
    )


WIDE = [("north", [1.0, 2.0, 3.0], "2024-01-01", "D"), ("south", [5.0, NAN], "2024-01-02", "D")]
UNTIMED = {"timestamp_column": None}


@pytest.mark.parametrize("kind", TYPED)
def test_tables_that_know_their_types_keep_them(kind, tmp_path):
    """Nothing but the container differs, so the ids are whole numbers, as they were written."""
    assert read(TYPED[kind](long(), tmp_path)) == TWO


@pytest.mark.parametrize("kind", TEXTS)
def test_text_files_have_ids_of_text(kind, tmp_path):
    """A text file cannot say whether 007 is a number: ids stay as they are written in it."""
    assert read(TEXTS[kind](long(), tmp_path)) == TEXT


@pytest.mark.parametrize("kind", [*TYPED, *TEXTS])
def test_every_table_can_be_read_twice_and_sent_to_a_process(kind, tmp_path):
    source = read_series(TYPED.get(kind, TEXTS.get(kind))(long(), tmp_path))
    assert read(source) == read(source)
    if kind not in ("polars lazy", "pyarrow dataset"):
        assert read(pickle.loads(pickle.dumps(source))) == read(source)


class TimeSeriesDataFrame(pd.DataFrame):
    """As AutoGluon's: it insists on its index (item_id, timestamp) and makes more of its kind."""

    @property
    def _constructor(self):
        return TimeSeriesDataFrame


def _sparse(folder):
    return long((1, 2)).assign(target=pd.arrays.SparseArray(long()["target"]))


def _structured(folder):
    return np.array([(1, 2.0), (1, 3.0), (2, 4.0)], dtype=[("item_id", int), ("target", float)])


def _interchange(folder):
    class Frame:
        """A table of a library that nobody knows, with Arrow's interchange."""

        columns = ("item_id", "timestamp", "target")

        def __arrow_c_stream__(self, requested_schema=None):
            return pa.Table.from_pandas(long()).__arrow_c_stream__(requested_schema)

        def __iter__(self):
            raise AssertionError("iterated over column by column")

    return Frame()


def _two_sheets(folder):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(folder / "a.xlsx") as book:
        pd.DataFrame({"notes": ["made by hand"]}).to_excel(book, sheet_name="Notes", index=False)
        long().to_excel(book, sheet_name="Sales", index=False)
    return folder / "a.xlsx"


def _swedish(folder, encoding="latin-1"):
    return csv(long(("Malmö", "Växjö")), folder / "a.csv", encoding=encoding)


def _csv_text(text, name="a.csv"):
    def make(folder):
        (folder / name).write_text(text)
        return folder / name

    return make


SWEDISH = [("Malmö", *TWO[0][1:]), ("Växjö", *TWO[1][1:])]
ONE = ("0", [1.0, 2.0, 3.0], "2024-01-01", "D")
READ = {
    "AutoGluon's frame: its index has the ids and the times": (
        lambda folder: TimeSeriesDataFrame(long().set_index(["item_id", "timestamp"])),
        {},
        TWO,
    ),
    "levels of an index in another order and of other names": (
        lambda folder: long().set_index(["timestamp", "item_id"]).rename_axis(["day", "shop"]),
        {"id_column": "shop", "timestamp_column": "day"},
        TWO,
    ),
    "a named index of times, when it is named": (
        lambda folder: long().set_index("timestamp").rename_axis("day"),
        {"timestamp_column": "day"},
        TWO,
    ),
    "a pandas Series with times": (
        lambda folder: wide().set_index("timestamp")["north"],
        {},
        [ONE],
    ),
    "a pandas Series of many series": (lambda folder: long().set_index(["item_id", "timestamp"])["target"], {}, TWO),
    "a pandas Series without times": (lambda folder: pd.Series([1, 2, None]), {}, [("0", [1.0, 2.0, NAN], None, None)]),
    "a list of pandas Series: each has its times and name": (
        lambda folder: [wide().set_index("timestamp")["north"]],
        {},
        [("north", *ONE[1:])],
    ),
    "a column of polars": (
        lambda folder: polars(wide())["north"],
        {},
        [("0", [1.0, 2.0, 3.0], None, None)],
    ),
    "a column of Arrow, in chunks": (
        lambda folder: pa.chunked_array([[1.0], [None, 3.0]]),
        {},
        [("0", [1.0, NAN, 3.0], None, None)],
    ),
    "sparse values: what is not stored is missing": (_sparse, {}, [(1, *TWO[0][1:]), (2, *TWO[1][1:])]),
    "a structured array": (_structured, UNTIMED, [(1, [2.0, 3.0], None, None), (2, [4.0], None, None)]),
    "any library's table with Arrow's interchange": (_interchange, {}, TWO),
    "whole numbers as names of columns": (
        lambda folder: long().set_axis([0, 1, 2], axis=1),
        {"id_column": 0, "timestamp_column": 1, "target": 2},
        TWO,
    ),
    "a wide table: a series begins with its first value, and ends with the table": (
        lambda folder: wide(),
        {"wide": True},
        WIDE,
    ),
    "a wide table with times in the index": (lambda folder: wide().set_index("timestamp"), {"wide": True}, WIDE),
    "a wide table of polars": (lambda folder: polars(wide()), {"wide": True}, WIDE),
    "a wide CSV file": (lambda folder: csv(wide(), folder / "a.csv"), {"wide": True}, WIDE),
    "a wide Parquet file": (lambda folder: parquet(wide(), folder / "a.parquet"), {"wide": True}, WIDE),
    "a wide Excel file": (lambda folder: excel(wide(), folder / "a.xlsx"), {"wide": True}, WIDE),
    "a wide table of years as names: they are the ids": (
        lambda folder: pd.DataFrame({2023: [1.0, 2.0], 2024: [3.0, 4.0]}),
        {"wide": True, **UNTIMED},
        [(2023, [1.0, 2.0], None, None), (2024, [3.0, 4.0], None, None)],
    ),
    "a wide file of semicolons and decimal commas": (
        _csv_text("timestamp;oslo;bergen\n31.01.2024;1,5;\n01.02.2024;2,5;3,25\n"),
        {"wide": True, "decimal": ",", "freq": "D"},
        [("oslo", [1.5, 2.5], "2024-01-31", "D"), ("bergen", [3.25], "2024-02-01", "D")],
    ),
    "lists in a polars column: a row is a series": (
        lambda folder: polars(pd.DataFrame({"item_id": [7, 8], "target": [[1.0, 2.0], [3.0]]})),
        {},
        [(7, [1.0, 2.0], None, None), (8, [3.0], None, None)],
    ),
    "lists in a pandas column": (
        lambda folder: pd.DataFrame({"item_id": ["a", "b"], "target": [[1.0, 2.0], [3.0]]}),
        {},
        [("a", [1.0, 2.0], None, None), ("b", [3.0], None, None)],
    ),
    "a workbook with notes: the sheet is named": (_two_sheets, {"sheet": "Sales"}, TWO),
    "an encoding that is named": (_swedish, {"encoding": "latin-1"}, SWEDISH),
    "UTF-16 without a mark, named": (
        lambda folder: _swedish(folder, "utf-16-be"),
        {"encoding": "utf-16-be"},
        SWEDISH,
    ),
    "an id 007 in a CSV file, not 7": (
        _csv_text("item_id,target\n007,1\n007,2\n"),
        UNTIMED,
        [("007", [1.0, 2.0], None, None)],
    ),
    "an id NA, Namibia, in a CSV file": (
        _csv_text("item_id,target\nNA,1\nNA,2\n"),
        UNTIMED,
        [("NA", [1.0, 2.0], None, None)],
    ),
    "an id NA in an Excel file": (
        lambda folder: excel(pd.DataFrame({"item_id": ["NA", "NA"], "target": [1, 2]}), folder / "a.xlsx"),
        UNTIMED,
        [("NA", [1.0, 2.0], None, None)],
    ),
    "a series that is new takes the others' calendar: months, not 31 days": (
        _csv_text(
            "item_id,timestamp,target\n" + "".join(f"a,2024-0{m}-01,1\n" for m in range(1, 6)) + "b,2024-05-01,2\n"
        ),
        {},
        [("a", [1.0] * 5, "2024-01-01", "MS"), ("b", [2.0], "2024-05-01", "MS")],
    ),
}


@pytest.mark.parametrize("what", READ)
def test_what_is_read(what, tmp_path):
    make, options, expected = READ[what]
    assert read(make(tmp_path), **options) == expected


def _unknown(folder):
    class Frame:
        columns = ("item_id", "target")

        def __iter__(self):
            return iter(self.columns)

    return Frame()


def _coordinates(folder):
    kind = type("DataArray", (), {"__module__": "xarray.core.dataarray", "__iter__": lambda self: iter([1.0])})
    return kind()


def _formula(folder):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["item_id", "target"], ["a", 1], ["a", "=B2*2"], ["a", 3]):
        book.active.append(row)
    book.save(folder / "a.xlsx")
    return folder / "a.xlsx"


def _archive(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("one.csv", "x")
        archive.writestr("two.csv", "x")
    return folder / "a.zip"


def _cut(folder):
    path = packed(long(), folder / "a.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _ids(*ids):
    return lambda folder: pd.DataFrame({"item_id": pd.Series(ids, dtype=object), "target": range(len(ids))})


def _gap_of_two(folder):
    new = pd.DataFrame({"item_id": "new", "timestamp": pd.to_datetime(["2024-02-01", "2024-02-03"]), "target": [1, 2]})
    return pd.concat([long(("a", "b")), new])


REFUSED = {
    "7 and '7' would be one name in the output": (_ids(7, 7, "7"), UNTIMED, ("'7' (str)", "row 2", "7 (int)")),
    "1 and 1.0 are equal, and would be one series": (_ids(1, 1.0), UNTIMED, ("1.0 (float)", "row 1")),
    "1 and True are equal too": (_ids(1, True), UNTIMED, ("True (bool)", "row 1")),
    "7 and Decimal('7')": (_ids(7, Decimal("7")), UNTIMED, ("Decimal('7')", "row 1")),
    "categories of both types": (
        lambda folder: pd.DataFrame({"item_id": pd.Categorical([7, "7"]), "target": [1, 2]}),
        UNTIMED,
        ("'7' (str)", "row 1"),
    ),
    "records of both types": (
        lambda folder: [{"item_id": 7, "target": [1]}, {"item_id": "7", "target": [1]}],
        {},
        ("record 1", "7 (int)"),
    ),
    "a missing id belongs to no series": (_ids("a", None, "a"), UNTIMED, ("none in row 1",)),
    "an empty cell of ids in a CSV file": (_csv_text("item_id,target\na,1\n,2\n"), UNTIMED, ("none in row 1",)),
    "a list is no id": (_ids(["a"], ["b"]), UNTIMED, ("a list in row 0",)),
    "columns in a dictionary are no record": (
        lambda folder: {"item_id": [1, 1], "target": [1, 2]},
        {},
        ("record 0", "DataFrame"),
    ),
    "texts for names that are whole numbers": (
        lambda folder: long().set_axis([0, 1, 2], axis=1),
        {"id_column": "0", "timestamp_column": "1", "target": "2"},
        ("missing: '0', '1', '2'", "of type int"),
    ),
    "a column twice: which one?": (
        lambda folder: pd.concat([long(), long()[["target"]]], axis=1),
        {},
        ("repeated: 'target'",),
    ),
    "a column twice in a CSV file": (
        _csv_text("item_id,timestamp,target,target\na,2024-01-01,1,2\n"),
        {},
        ("repeated: 'target'",),
    ),
    "one column for two things": (lambda folder: long(), {"id_column": "target"}, ("of its own", "'target'")),
    "a wide table without saying so": (lambda folder: wide(), {}, ("wide=True", "--wide")),
    "a long table as a wide one: its ids would be forecast": (
        lambda folder: long(),
        {"wide": True},
        ("column of ids",),
    ),
    "a wide file with pandas' numbers of rows": (
        lambda folder: _with_row_numbers(wide(), folder / "a.csv"),
        {"wide": True},
        ("without a name", "number 1"),
    ),
    "a wide table with a column of words, by its name": (
        lambda folder: wide().assign(region="x"),
        {"wide": True},
        ("'x'", "row 0", "'region'"),
    ),
    "rows of wide tables count from the first": (
        lambda folder: wide().assign(west=[1, 2, "three"]),
        {"wide": True},
        ("'three'", "row 2", "'west'"),
    ),
    "names of wide columns that are equal as text only": (
        lambda folder: pd.DataFrame({7: [1.0], "7": [2.0]}),
        {"wide": True, **UNTIMED},
        ("'7' (str)", "7 (int)"),
    ),
    "two rows of column names": (
        lambda folder: pd.DataFrame([[1.0]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        {"wide": True},
        ("one row of column names",),
    ),
    "levels of an index without names": (
        lambda folder: long().set_index(["item_id", "timestamp"]).rename_axis([None, None]),
        {},
        ("levels of the index", "rename_axis"),
    ),
    "an index of times under another name": (
        lambda folder: long().set_index("timestamp").rename_axis("day"),
        {},
        ("'day'", "timestamp_column="),
    ),
    "a table of an unknown library": (_unknown, {}, ("Frame", "to_pandas")),
    "xarray, by name": (_coordinates, {}, ("xarray.DataArray", "to_dataframe")),
    "a polars table without the columns": (lambda folder: polars(wide()), {}, ("missing: 'item_id'", "wide=True")),
    "several sheets: which one?": (_two_sheets, {}, ("'Notes', 'Sales'", "--sheet")),
    "a sheet that is not there": (_two_sheets, {"sheet": "Sale"}, ("'Notes', 'Sales'", "'Sale'")),
    "a sheet of a CSV file": (lambda folder: csv(long(), folder / "a.csv"), {"sheet": "Sales"}, ("only Excel",)),
    "a formula whose value no program has stored": (_formula, UNTIMED, ("formula", "row 1", "B3")),
    "an archive of two files": (_archive, {}, ("one.csv, two.csv", "unpack")),
    "a compressed file that is cut off": (_cut, {}, ("a.csv.gz", "cannot be")),
    "letters that are not UTF-8, with their row": (_swedish, {}, ("row 0 (line 2", "'Malmö", "--encoding")),
    "UTF-16 without a mark": (lambda folder: _swedish(folder, "utf-16-le"), {}, ("--encoding utf-16-le",)),
    "an encoding that nobody knows": (_swedish, {"encoding": "latin-99"}, ("encoding:", "'latin-99'")),
    "JSON, by name": (_csv_text('[{"target": [1]}]', "a.json"), {}, ("a JSON file",)),
    "Feather, by name": (lambda folder: _feather(folder / "a.csv"), {}, ("Feather",)),
    "Parquet in gzip": (lambda folder: _packed_parquet(folder), {}, ("holds a Parquet file", "unpack")),
    "an Excel file of old": (_csv_text("\N{NULL}" * 9, "a.xls"), {}, ("old Excel",)),
    "two values with room for others between them": (_gap_of_two, {}, ("'new'", "leave a gap", "freq=")),
}


def _with_row_numbers(frame, path):
    frame.to_csv(path)
    return path


def _feather(path):
    import pyarrow.feather as feather

    feather.write_feather(long(), str(path))
    return path


def _packed_parquet(folder):
    import gzip

    path = folder / "a.gz"
    path.write_bytes(gzip.compress(parquet(long(), folder / "a.parquet").read_bytes()))
    return path


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, tmp_path):
    make, options, words = REFUSED[what]
    with pytest.raises(FlowrankError) as caught:
        read(make(tmp_path), **options)
    for word in words:
        assert word in str(caught.value)


def test_excel_needs_openpyxl(tmp_path, monkeypatch):
    path = excel(long(), tmp_path / "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(FlowrankError, match=r"flowrank\[excel\]"):
        read(path)


IDS = {
    "text": pd.Series(["a", "b"]),
    "whole numbers": pd.Series([7, 8]),
    "int32": pd.Series([7, 8], dtype="int32"),
    "nullable": pd.Series([7, 8], dtype="Int64"),
    "string": pd.Series(["a", "b"], dtype="string"),
    "floating": pd.Series([7.0, 8.5]),
    "booleans": pd.Series([True, False]),
    "categories": pd.Series(pd.Categorical(["a", "b"], categories=["b", "z", "a"])),
    "Arrow": pd.Series([7, 8], dtype=pd.ArrowDtype(pa.int64())),
    "dates": pd.Series([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]),
    "time stamps": pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"])),
    "zoned": pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"]).tz_localize("Asia/Tokyo")),
    "UUIDs": pd.Series([uuid.UUID(int=1), uuid.UUID(int=2)]),
    "tuples": pd.Series([("a", 1), ("b", 2)]),
    "both": pd.Series([7, "b"], dtype=object),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_forecasts_are_those_of_the_table(bolt, kind):
    from flowrank.forecasting import forecast

    ids = IDS[kind]
    frame = pd.DataFrame({"item_id": ids.repeat(5).reset_index(drop=True), "target": np.arange(10.0)})
    found = forecast(bolt, frame, horizon=2, batch_size=1, timestamp_column=None)["item_id"]
    pd.testing.assert_series_equal(found, ids.repeat(2).reset_index(drop=True), check_names=False)


@pytest.mark.parametrize("kind", [kind for kind in IDS if kind not in ("UUIDs", "tuples", "both")])
def test_ids_in_parquet_files_have_the_type_of_the_source(bolt, kind, tmp_path):
    from flowrank.forecasting import write_forecasts

    ids = IDS[kind].repeat(5).reset_index(drop=True)
    parquet(pd.DataFrame({"item_id": ids, "target": np.arange(10.0)}), tmp_path / "in.parquet")
    options = {"horizon": 1, "batch_size": 1, "timestamp_column": None}
    path = write_forecasts(bolt, tmp_path / "in.parquet", tmp_path / "out.parquet", **options)
    wanted, found = pq.read_table(tmp_path / "in.parquet")["item_id"], pq.read_table(path)["item_id"]
    if kind == "categories":
        wanted, found = wanted.cast(pa.string()), found.cast(pa.string())
        assert pa.types.is_dictionary(pq.read_schema(path).field("item_id").type)
    assert found.type == wanted.type
    assert found.to_pylist() == wanted.take([0, 5]).to_pylist()


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5)
values = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=6)


def random_table(ids, targets) -> tuple[pd.DataFrame, list[tuple]]:
    """A long table, and what is to be read from it."""
    parts, expected = [], []
    for name, target in zip(ids, targets, strict=False):
        times = pd.date_range("2024-02-27", periods=len(target), freq="D")
        parts.append(pd.DataFrame({"item_id": [name] * len(target), "timestamp": times, "target": target}))
        expected.append((name, target, "2024-02-27", "D"))
    return pd.concat(parts, ignore_index=True), expected


@pytest.mark.parametrize("kind", TYPED)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.integers(-(2**53), 2**53), min_size=4, max_size=4, unique=True)
    | st.lists(texts.map("x".__add__), min_size=4, max_size=4, unique=True),
    targets=st.lists(values, min_size=1, max_size=4),
)
def test_what_one_library_writes_is_read(kind, ids, targets, tmp_path):
    frame, expected = random_table(ids, targets)
    if kind == "Excel":  # whole numbers of 15 digits, as it keeps no more
        frame["target"] = frame["target"].clip(-1e9, 1e9).round(3)
        expected = [
            (name, [round(min(max(one, -1e9), 1e9), 3) for one in given], *rest) for name, given, *rest in expected
        ]
    found = read(TYPED[kind](frame, tmp_path), freq="D")
    assert [one[0] for one in found] == [one[0] for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[1], other[1], rtol=1e-14 if kind == "Excel" else 0)
        assert one[2:] == other[2:]


@pytest.mark.parametrize("kind", TEXTS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(texts, min_size=4, max_size=4, unique=True), targets=st.lists(values, min_size=1, max_size=4))
def test_what_one_library_writes_as_text_is_read(kind, ids, targets, tmp_path):
    frame, expected = random_table(ids, targets)
    assert read(TEXTS[kind](frame, tmp_path), freq="D") == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), names=st.lists(texts.map("c".__add__), min_size=1, max_size=4, unique=True), rows=st.integers(1, 6)
)
def test_wide_tables_are_the_long_ones(data, names, rows):
    columns = {name: data.draw(st.lists(st.floats(-9, 9), min_size=rows, max_size=rows)) for name in names}
    frame = pd.DataFrame({"timestamp": pd.date_range("2024-02-27", periods=rows), **columns})
    found = read(frame, wide=True, freq="D")
    melted = frame.melt("timestamp", var_name="item_id", value_name="target")
    assert found == read(melted, freq="D")
