"""Progress bars: one that can be switched off, and those of transformers hidden."""

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


@contextmanager
def no_bars_of_transformers() -> Iterator[None]:
    """Hide the bar that transformers shows for every file of weights: it says nothing, and would tear ours apart.

    Examples
    --------
    >>> with no_bars_of_transformers():
    ...     pass
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
