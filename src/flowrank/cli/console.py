"""Where the commands print."""

from __future__ import annotations

from rich.console import Console

out = Console()
err = Console(stderr=True)


def hush() -> None:
    """Leave progress to our own bars: transformers shows one for every file it opens or writes."""
    from transformers.utils import logging

    logging.disable_progress_bar()
