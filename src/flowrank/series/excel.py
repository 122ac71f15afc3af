"""Excel workbooks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd

from flowrank.errors import FlowrankError


def is_excel(path: str | Path) -> bool:
    """Tell whether a file is an Excel workbook of today's format, whatever its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_excel(path: str | Path, sheet: str | None, argument: str) -> pd.DataFrame:
    """Return the table on a sheet of a workbook, whose first row has the names of the columns.

    Raises
    ------
    FlowrankError
        If openpyxl is not installed, the file is damaged, several sheets hold something and none is named, or a
        formula has no value stored beside it.
    """
    try:
        import openpyxl
    except ImportError:
        raise FlowrankError(
            argument,
            expected="a CSV or Parquet file, as openpyxl, which reads Excel files, is not installed",
            found=repr(str(path)),
            todo="pip install 'flowrank[excel]', or save the sheet as CSV",
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        full = [one.title for one in book.worksheets if one.max_row and any(_filled(one))]
        names = [one.title for one in book.worksheets]
        book.close()
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise FlowrankError(
            argument, expected="a whole Excel file", found=f"{str(path)!r}, which cannot be read ({error})"
        ) from error
    if sheet is not None and sheet not in names:
        raise FlowrankError("sheet", expected=f"one of {', '.join(map(repr, names))}", found=repr(sheet))
    if sheet is None and len(full) != 1:
        raise FlowrankError(
            argument,
            expected="an Excel file with one sheet that holds something, or the name of the sheet",
            found=f"{str(path)!r} with {', '.join(map(repr, full)) or 'none'}",
            todo="name the sheet (sheet=, --sheet)" if full else "check that the file is complete",
        )
    sheet = full[0] if sheet is None else sheet
    frame = pd.read_excel(path, sheet_name=sheet, engine="openpyxl", keep_default_na=False, na_values=[""])
    filled = frame.notna().any(axis=1).to_numpy().nonzero()[0]
    frame = frame.iloc[: int(filled[-1]) + 1 if len(filled) else 0]  # without the empty rows at the end
    if frame.isna().to_numpy().any():
        _refuse_unsaved_formulas(path, sheet, argument)
    return frame


def _filled(sheet: object) -> list[bool]:
    return [any(cell is not None for cell in row) for row in sheet.iter_rows(values_only=True, max_row=50)]  # type: ignore[attr-defined]


def _refuse_unsaved_formulas(path: str | Path, sheet: str, argument: str) -> None:
    import openpyxl

    formulas = openpyxl.load_workbook(path, read_only=True)
    values = openpyxl.load_workbook(path, read_only=True, data_only=True)
    pairs = zip(formulas[sheet].iter_rows(), values[sheet].iter_rows(values_only=True), strict=True)
    for number, (written, stored) in enumerate(pairs):
        for cell, value in zip(written, stored, strict=True):
            if value is None and getattr(cell, "data_type", "") == "f":
                raise FlowrankError(
                    argument,
                    expected="values in the cells of the Excel file",
                    found=f"a formula without its value in row {number - 1} (cell {cell.coordinate})",
                    todo="open the file in a spreadsheet program and save it, or write values",
                )
