"""The `flowrank` command: parses, calls the library, prints."""

from flowrank.cli.commands import app
from flowrank.cli.console import err, out
from flowrank.cli.program import main

__all__ = ["app", "err", "main", "out"]
