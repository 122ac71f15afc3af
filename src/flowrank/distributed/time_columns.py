"""The column that the times of series are read from, as Arrow has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrank.errors import FlowrankError

if TYPE_CHECKING:
    import pyarrow as pa

_START = "start"


@dataclass(frozen=True)
class TimeColumn:
    """A column of times.

    Attributes
    ----------
    name
        Of the column.
    kind
        Type of one time.
    in_lists
        Whether a row has a list of times: of each value one. Else each row has one time.

    Examples
    --------
    >>> import pyarrow as pa
    >>> values = pa.field("target", pa.list_(pa.float64()))
    >>> found = TimeColumn.of(pa.schema([values, ("start", pa.timestamp("s", "UTC"))]), "target", "timestamp")
    >>> found.name, found.in_lists, str(found.of_forecasts())
    ('start', False, 'timestamp[us, tz=UTC]')
    """

    name: str
    kind: pa.DataType
    in_lists: bool

    @classmethod
    def of(cls, schema: pa.Schema, target: Any, name: Any) -> TimeColumn | None:
        """What `flowrank.series.read_series` reads times from; None: there are none.

        Parameters
        ----------
        schema
            Of a table with a list of values in each row, or with one value.
        target, name
            The column of values, and that of times; of lists of values, times are in lists too, or ``start`` has the
            first of each series.
        """
        import pyarrow as pa

        kinds = {field.name: field.type for field in schema}
        rows = target in kinds and of_lists(kinds[target])
        if name is not None and name in kinds and of_lists(kinds[name]) == rows:
            return cls(name, _plain(kinds[name]), rows)
        start = kinds.get(_START)
        if not rows or start is None or of_lists(start) or pa.types.is_null(start):
            return None
        return cls(_START, _plain(start), False)

    def check(self, date_format: str | None) -> None:
        """Refuse dates as texts whose order of day and month could be found out from all of them only."""
        import pyarrow as pa

        kind = self.kind
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if texts and not date_format:
            raise FlowrankError(
                "timestamp_column",
                expected="time stamps, as which day and month are where texts can be told from all of them only",
                found=f"texts in {self.name!r}",
                todo='turn them into time stamps, or pass their format (date_format="%Y-%m-%d")',
            )

    def of_forecasts(self, date_format: str | None = None, utc: bool = False) -> pa.DataType:
        """The type of the times of forecasts: microseconds of the column's zone.

        Texts with an offset, of which each may have another, are given in UTC.
        """
        import pyarrow as pa

        if utc:
            return pa.timestamp("us", "UTC")
        if pa.types.is_timestamp(self.kind):
            return pa.timestamp("us", self.kind.tz)
        return pa.timestamp("us", "UTC" if "%z" in (date_format or "") else None)


def of_lists(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(kind: Any) -> Any:
    """The type of the values of lists and dictionaries."""
    import pyarrow as pa

    return _plain(kind.value_type) if of_lists(kind) or pa.types.is_dictionary(kind) else kind
