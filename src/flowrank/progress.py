"""A progress bar that can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    label: str, *, total: int | None = None, unit: str = "series", show: bool
) -> Iterator[Callable[[int], None]]:
    """Give a function that moves the bar on by so many units; it does nothing unless ``show``.

    Examples
    --------
    >>> with progress_bar("measuring", total=3, show=False) as advance:
    ...     advance(3)
    """
    if not show:
        yield lambda _count: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
