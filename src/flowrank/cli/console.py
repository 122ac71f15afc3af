"""Where the commands print."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

out = Console()
err = Console(stderr=True)


@contextmanager
def announced() -> Iterator[None]:
    """Within the block warnings are printed as a sentence, without the line of code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        err.print(f"[bold yellow]warning[/] {escape(str(message))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_skipped(skipped: Sequence[Any], most: int = 20) -> None:
    """Say which series were left out, and why; of many, the first."""
    for one in skipped[:most]:
        of = f" of {one.dataset}" if one.dataset else ""
        err.print(f"left out: series {one.item_id!r}{of}: {one.reason}", highlight=False, markup=False, soft_wrap=True)
    if skipped:
        more = f", {len(skipped) - most} of them not shown" if len(skipped) > most else ""
        err.print(f"{len(skipped)} series left out{more}", highlight=False)
