"""Where the commands print."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

out = Console()
err = Console(stderr=True)


def hush() -> None:
    """Leave progress to our own bars: transformers shows one for every file it opens or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def announced() -> Iterator[None]:
    """Within the block warnings are printed as a sentence, without the line of code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        err.print(f"[bold yellow]warning[/] {escape(str(message))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
