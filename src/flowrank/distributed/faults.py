"""Rows that no forecast can be made of whatever their values are: without an id, of one id, of no clear frequency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.series.value import OnBad

if TYPE_CHECKING:
    import pyarrow as pa

CLEAR = 3
"""Values from which a frequency can be told."""


def sound_rows(table: pa.Table, id_column: str, unclear: np.ndarray, on_bad: OnBad, *, first_row: int = 0) -> pa.Table:
    """The rows of a table of one row a series that have an id of their own, and a frequency.

    Parameters
    ----------
    unclear
        For each row, the number of its values if they are too few to tell its frequency from, else 0.
    on_bad
        Called with the id and the error of each series that is left out; for rows without an id, once each.
    first_row
        Number of the first row.

    Examples
    --------
    >>> import pyarrow as pa
    >>> told = []
    >>> table = pa.table({"item_id": ["A", "B", None, "A"]})
    >>> sound, rows = sound_rows(
    ...     table, "item_id", np.zeros(4), lambda item_id, error: told.append((item_id, error.found))
    ... )
    >>> sound["item_id"].to_pylist(), rows.tolist(), told
    (['B'], [1], [(None, 'none in row 2'), ('A', "'A' in 2 rows")])
    """
    codes, ids, counts = _counted(table[id_column])
    for row in np.flatnonzero(codes < 0).tolist():
        on_bad(None, _no_id_of_its_own(f"none in row {first_row + row}", "write one, or leave the row out"))
    for code in np.flatnonzero(counts > 1).tolist():
        name = ids[code].as_py()
        found = f"{name!r} in {counts[code]} rows"
        on_bad(name, _no_id_of_its_own(found, "put all values of a series into one row"))
    own = np.append(counts == 1, False)[codes]
    for row in np.flatnonzero(own & (unclear > 0)).tolist():
        name = ids[codes[row]].as_py()
        on_bad(name, _no_frequency(name, int(unclear[row]), "add a column freq"))
    sound = own & (unclear == 0)
    return _kept(table, sound), first_row + np.flatnonzero(sound)


def sound_series(table: pa.Table, id_column: str, on_bad: OnBad, *, given: bool) -> tuple[pa.Table, np.ndarray]:
    """The rows, and their numbers, of a table of a row a value that have an id, and of a series that has a frequency.

    Parameters
    ----------
    on_bad
        Called with the id and the error of each series that is left out; for all rows without an id, once.
    given
        Whether the frequency is given, or there are no times.
    """
    codes, ids, counts = _counted(table[id_column])
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        found = f"none in {len(missing)} rows, the first of them row {missing[0]}"
        on_bad(None, _no_id_of_its_own(found, "write the id of its series, or leave the row out", "an id in every row"))
    clear = (counts >= CLEAR) | given
    for code in np.flatnonzero(~clear).tolist():
        name = ids[code].as_py()
        on_bad(name, _no_frequency(name, int(counts[code]), "forecast the series apart"))
    sound = np.append(clear, False)[codes]
    return _kept(table, sound), np.flatnonzero(sound)


def missing_ids(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Numbers of the rows that have no id."""
    import pyarrow as pa

    plain = ids.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids
    return np.flatnonzero(plain.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))


def _counted(ids: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """The place of each row's id among the ids, −1 where there is none; the ids; how many rows each has."""
    import pyarrow as pa

    plain = ids.cast(ids.type.value_type) if pa.types.is_dictionary(ids.type) else ids
    encoded = plain.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    codes[missing_ids(plain)] = -1
    return codes, encoded.dictionary, np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))


def _kept(table: pa.Table, rows: np.ndarray) -> pa.Table:
    import pyarrow as pa

    if rows.all():
        return table
    for place, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):  # which Arrow filters not
            table = table.set_column(place, field.name, table[field.name].cast(pa.large_string()))
    return table.filter(pa.array(rows))


def _no_id_of_its_own(found: str, todo: str, expected: str = "an id in every row, and each once") -> FlowrankError:
    return FlowrankError("series", expected=expected, found=found, todo=todo)


def _no_frequency(item_id: Any, values: int, else_do: str) -> FlowrankError:
    return FlowrankError(
        "freq",
        expected="a frequency, as that of a series of one or two values could be told from other series only",
        found=f"series {item_id!r} of {values} values",
        todo=f'pass it (freq="D", --freq D), or {else_do}',
    )
