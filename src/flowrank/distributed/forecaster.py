"""The pure function that every cluster calls: an Arrow batch of series in, an Arrow batch of forecasts out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flowrank.distributed.faults import CLEAR, sound_rows, sound_series
from flowrank.distributed.time_columns import TimeColumn, of_lists
from flowrank.distributed.workers import opened
from flowrank.errors import FlowrankError, check_count
from flowrank.forecasting import DEFAULT_LEVELS, Skipped, check_levels, iter_forecasts
from flowrank.forecasting.skipping import NoneUsable, Skipping
from flowrank.forecasting.sources import several
from flowrank.series.foreign import arrow_tables

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = (
    "id_column",
    "timestamp_column",
    "target",
    "freq",
    "date_format",
    "utc",
    "quantile_levels",
    "seed",
    "corrections",
    "non_negative",
    "predict_kwargs",
    "past_covariates",
    "future",
)
"""Of `flowrank.forecasting.forecast`, those that mean the same for a part of the series as for all of them."""
ERROR = "error"
"""Name of the column that says why a series was left out."""
BATCH = 64
"""Series in one pass through the model."""


class Forecaster:
    """Maps Arrow batches of series to Arrow batches of forecasts; the model is loaded once, for the first of them.

    A forecast depends on its series, the model and the options alone, to the last bit
    (`flowrank.forecasting.predict_requests`, ``batch_invariant``): not on the batch that the series comes in. MKL,
    which torch multiplies by, rounds by where in memory a row lies if rows are no multiples of 64 bytes. For a child of
    other widths, take ``engine="onnxruntime"``, or start every process with ``MKL_CBWR=AVX512,STRICT`` in its
    environment (``AVX2,STRICT`` on processors without AVX-512).

    Parameters
    ----------
    model
        What `flowrank.load` opens: a name, or a folder that every worker sees; or a pipeline.
    horizon
        Steps ahead, H.
    engine, device, dtype
        Of `flowrank.load`, which calls the second ``device_map``.
    threads
        CPU threads of this process; None: they stay as they are.
    batch_size
        Series in one pass through the model.
    skip_bad
        Whether series that cannot be forecast are left out, as are rows without an id and all rows of an id that comes
        twice. Each has one row then, with the reason in a further last column, ``error``. Otherwise the first raises
        its error.
    **options
        Of `flowrank.forecasting.forecast`: ``id_column``, ``timestamp_column``, ``target``, ``freq``, ``date_format``,
        ``utc``, ``quantile_levels``, ``seed``, ``corrections``, ``non_negative``, ``predict_kwargs``,
        ``past_covariates``; and ``future``, names of columns whose lists hold the horizon's values too.

    Raises
    ------
    FlowrankError
        If an option is none of these; for the first batch, if the model cannot be opened.

    Examples
    --------
    >>> import pyarrow as pa
    >>> forecaster = Forecaster("flow-bolt-mini", horizon=2, quantile_levels=[0.5])
    >>> found = forecaster(pa.table({"item_id": ["A", "B"], "target": [[1.0, 2.0, 3.0], [5.0, 4.0]]}))
    >>> found.num_rows, found.column_names
    (4, ['item_id', 'timestamp', 'target_name', 'predictions', '0.5'])
    """

    def __init__(
        self,
        model: Any,
        *,
        horizon: int,
        engine: str | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        threads: int | None = None,
        batch_size: int = BATCH,
        skip_bad: bool = False,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise FlowrankError(
                unknown[0],
                expected=f"options that hold for each series by itself: {', '.join(OPTIONS)}",
                found=f"{unknown[0]}={options[unknown[0]]!r}",
                todo="leave it out",
            )
        self.horizon, self.batch_size = check_count(horizon, "horizon"), check_count(batch_size, "batch_size")
        self.skip_bad, self.options = bool(skip_bad), options
        self.levels = check_levels(options.get("quantile_levels", DEFAULT_LEVELS))
        self.threads = None if threads is None else check_count(threads, "threads")
        for argument in ("past_covariates", "future"):
            _check_names(argument, options.get(argument))
        for argument, value in (("engine", engine), ("dtype", dtype)):
            if value == "fastest":
                raise FlowrankError(
                    argument,
                    expected="one by name, as each process would measure anew which is fastest, and round as that does",
                    found=repr(value),
                    todo='measure once (flowrank.load(model, engine="fastest"), flowrank benchmark), and name it',
                )
        self._model = model
        self._opening: dict[str, Any] = {"engine": engine, "device": device, "dtype": dtype, "threads": self.threads}
        self.id_column = options.get("id_column", "item_id")
        self.time_column = options.get("timestamp_column", "timestamp") or "timestamp"
        self.target = options.get("target", "target")
        for argument, name in (("id_column", self.id_column), ("timestamp_column", self.time_column)):
            if self.skip_bad and name == ERROR:
                raise FlowrankError(
                    argument,
                    expected=f"another name than {ERROR!r}, as skip_bad says in that column why a series was left out",
                    found=repr(name),
                    todo="rename the column",
                )

    @cached_property
    def pipeline(self) -> Any:
        """The model, opened when it is first asked for."""
        if isinstance(self._model, str | Path):
            return opened(self._model, **self._opening)
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        return self._model

    def __call__(self, batch: pa.Table | pa.RecordBatch, *, first_row: int = 0) -> pa.Table:
        """Forecast a batch of one row a series.

        Parameters
        ----------
        batch
            Columns: the id; the target, a list of numbers (null where nothing was observed); each further target and
            covariate alike; and, where there are times, a list of them or ``start``, and ``freq`` unless it is an
            option. Where there is such a column, each series has times.
        first_row
            Number of its first row, for errors.

        Returns
        -------
        pa.Table
            H rows a series, of the schema that `schema` tells: id, time or step, ``target_name``, ``predictions``, a
            column a level, and, with ``skip_bad``, ``error``. Times are of the zone of the column; with ``utc``, or of
            texts with an offset (``date_format`` with ``%z``), of UTC.

        Raises
        ------
        FlowrankError
            If the batch is no such table, or a series cannot be forecast.
        """
        import pyarrow as pa

        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        schema = self._schema_of_rows(table.schema)
        skipped: list[Skipped] = []
        skipping = Skipping(self.skip_bad, skipped)
        sound, rows = sound_rows(table, self.id_column, self._unclear(table), skipping, first_row=first_row)
        return pa.concat_tables([schema.empty_table(), *self._forecast(sound, schema, skipped, rows)])

    def tables(self, table: pa.Table) -> Iterator[pa.Table]:
        """Forecast a table of a row a value, batch by batch; what was left out comes last.

        Parameters
        ----------
        table
            Columns: the id, unless ``id_column`` is None; the time; the target and further ones.

        Raises
        ------
        FlowrankError
            If the table is no such one, or a series cannot be forecast.
        """
        schema, rows = self.schema(table.schema), None
        skipped: list[Skipped] = []
        if self.id_column is not None:
            given = self.options.get("freq") is not None or self.times(table.schema) is None
            table, rows = sound_series(table, self.id_column, Skipping(self.skip_bad, skipped), given=given)
        yield from self._forecast(table, schema, skipped, rows)

    def _forecast(
        self, table: pa.Table, schema: pa.Schema, skipped: list[Skipped], rows: np.ndarray | None = None
    ) -> Iterator[pa.Table]:
        """Forecast a table of rows of these numbers, batch by batch; what was left out, before and now, comes last."""
        source = arrow_tables(table, rows)
        options = {**self.options, "timed": _timed(schema.field(1).type), "skip_bad": self.skip_bad, "skipped": skipped}
        options |= {"horizon": self.horizon, "batch_size": self.batch_size, "batch_invariant": True}
        with suppress(NoneUsable):  # all are told of below
            for frame in iter_forecasts(self.pipeline, source, **options) if len(table) else ():
                yield _table(frame, schema)
        if skipped:
            yield _told(skipped, schema)

    def schema(self, series: pa.Schema) -> pa.Schema:
        """The schema of the forecasts of series of a schema."""
        import pyarrow as pa

        names = [*series.names]
        if self.id_column is not None and self.id_column not in names:
            raise _lacks("id_column", self.id_column, names)
        kind = pa.string() if self.id_column is None else series.field(self.id_column).type
        if pa.types.is_nested(kind):
            raise FlowrankError(
                "id_column",
                expected="ids that are one value each, such as a text or a whole number",
                found=f"{self.id_column!r}, a column of {kind}",
                todo="name another column, or write a text of the values",
            )
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        times = self.times(series)
        reading = {name: self.options[name] for name in ("date_format", "utc") if name in self.options}
        steps = pa.int64() if times is None else times.of_forecasts(**reading)
        fields = [(self.id_column or "item_id", kind), (self.time_column, steps)]
        fields += [("target_name", pa.string()), ("predictions", pa.float64())]
        fields += [(str(level), pa.float64()) for level in self.levels]
        return pa.schema([*fields, (ERROR, pa.string())] if self.skip_bad else fields)

    def times(self, series: pa.Schema) -> TimeColumn | None:
        """The column of times of series of a schema; None: they have none.

        Raises
        ------
        FlowrankError
            If they are texts without a format.
        """
        name = self.options.get("timestamp_column", "timestamp")
        found = TimeColumn.of(series, several(self.target)[0], name)
        if found is not None:
            found.check(self.options.get("date_format"))
        return found

    def _schema_of_rows(self, series: pa.Schema) -> pa.Schema:
        """The schema of the forecasts of a table of one row a series; another table is refused."""
        for argument, name in [("id_column", self.id_column), *self.lists]:
            if name not in series.names:
                raise _lacks(argument, name, series.names)
            kind = series.field(name).type
            if argument != "id_column" and not of_lists(kind):
                raise FlowrankError(
                    "series",
                    expected=f"one row a series, with a list of values in {name!r}",
                    found=f"a column of {kind}",
                    todo="put each series into one row first: group the rows by their id and collect values and times",
                )
        return self.schema(series)

    def _unclear(self, table: pa.Table) -> np.ndarray:
        """For each row, the number of its values if its frequency could be told from other series only, else 0."""
        import pyarrow.compute as pc

        times = self.times(table.schema)
        if times is None or not times.in_lists or self.options.get("freq") is not None:
            return np.zeros(len(table), dtype=np.int64)
        lengths = pc.list_value_length(table[several(self.target)[0]]).fill_null(0).to_numpy()
        short = lengths < CLEAR
        if "freq" in table.column_names:
            short &= table["freq"].is_null().to_numpy()
        return np.where(short, lengths, 0)

    @property
    def lists(self) -> list[tuple[str, Any]]:
        """Names of the columns of lists, each with the argument that gives it."""
        found = [("target", name) for name in several(self.target)]
        for argument in ("past_covariates", "future"):
            found += [(argument, name) for name in self.options.get(argument) or ()]
        return found


def _check_names(argument: str, names: Any) -> None:
    if names is None or (isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)):
        return
    raise FlowrankError(
        argument,
        expected="names of columns, whose lists stand in the row of their series",
        found=f"a {type(names).__name__}",
        todo="put the values into the rows, those of the time to come after those of the past",
    )


def _lacks(argument: str, name: Any, names: list[str]) -> FlowrankError:
    return FlowrankError(
        argument, expected=f"one of the columns {', '.join(map(repr, names))}", found=repr(name), todo="name the column"
    )


def _timed(kind: pa.DataType) -> tuple[bool, bool]:
    """Whether steps of a type are times, and of a zone."""
    import pyarrow as pa

    timed = pa.types.is_timestamp(kind)
    return timed, timed and kind.tz is not None


def _check_steps(frame: pd.DataFrame, kind: pa.DataType) -> None:
    """Refuse steps that a type would turn into others: numbers into times, local times into those of a zone."""
    first = frame.iat[0, 1]
    found = (isinstance(first, pd.Timestamp), getattr(first, "tzinfo", None) is not None)
    if found != _timed(kind):
        raise FlowrankError(
            "series",
            expected=f"steps of {kind}, as the columns of the series tell",
            found=f"{first!r} for series {frame.iat[0, 0]!r}",
            todo="report this as a fault of flowrank",
        )


def _table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """A frame of forecasts as a table of the schema."""
    import pyarrow as pa

    _check_steps(frame, schema.field(1).type)
    columns = [
        pa.nulls(len(frame), field.type)
        if field.name == ERROR and place == len(schema) - 1 and len(frame.columns) < len(schema)
        else _column(frame.iloc[:, place], field.type)
        for place, field in enumerate(schema)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: pd.Series, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values, type=kind, from_pandas=True)
    except pa.ArrowInvalid as error:
        raise FlowrankError(
            "series",
            expected=f"values of {str(values.name)!r} that {kind} holds, and times of whole microseconds",
            found=str(error),
            todo="round the times",
        ) from error


def _told(skipped: list[Skipped], schema: pa.Schema) -> pa.Table:
    """A row for each series that was left out: its id and the reason."""
    import pyarrow as pa

    columns = [pa.array([one.item_id for one in skipped], type=schema.field(0).type)]
    columns += [pa.nulls(len(skipped), field.type) for field in list(schema)[1:-1]]
    return pa.Table.from_arrays([*columns, pa.array([one.reason for one in skipped])], schema=schema)
