"""The program around the commands: exit status, signals, and errors that name options as the command line does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.markup import escape
from safetensors import SafetensorError

from flowrank.cli.commands import app
from flowrank.cli.console import err
from flowrank.cli.evaluation import several_paths
from flowrank.errors import FlowrankError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done · 1: the machine failed us (disk full, no permission) · 2: bad input · 130, 143: interrupted. Whatever
    happens, outputs that were there before stay whole.
    """
    command = typer.main.get_command(app)
    words = several_paths(list(sys.argv[1:] if arguments is None else arguments))
    try:
        with _terminable():
            command.main(words, "flowrank")
    except FlowrankError as error:
        _say(_as_typed(error, command, words))
        return 2
    except (OSError, SafetensorError) as error:
        _say(error)
        return 1
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _say(error: Exception) -> None:
    err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def _as_typed(error: FlowrankError, group: Any, words: Sequence[str]) -> FlowrankError:
    """Name the argument as the command line does: ``--batch-size`` for ``batch_size``, ``OUT`` for ``output``."""
    called = next((word for word in words if word in group.commands), None)
    for parameter in group.commands[called].params if called else ():
        if parameter.name == error.argument:
            typed = next((name for name in parameter.opts if name.startswith("--")), parameter.metavar)
            if typed:
                todo = error.todo.replace(f"{error.argument}=", f"{typed}=")
                return FlowrankError(typed, expected=error.expected, found=error.found, todo=todo)
    return error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that every clean-up runs."""
    if threading.current_thread() is not threading.main_thread():  # no other may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_signal: int, _frame: Any) -> None:
    raise SystemExit(143)
