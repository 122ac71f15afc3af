"""``flowrank models``, and how the other commands open one."""

from __future__ import annotations

from typing import Any

import flowrank
from flowrank.cli.console import hush, out
from flowrank.errors import FlowrankError, check_count


def models() -> None:
    """List the models that ship with flowrank."""
    for name in flowrank.embedded_models():
        out.print(name, highlight=False)


def opened(
    model: str, device: str, dtype: str, engine: str | None = None, threads: int | None = None, **where: Any
) -> Any:
    """Open a model; refuse a device that is not there. Further keywords are those of `flowrank.load`."""
    import torch

    from flowrank.graphs import is_export

    if threads is not None:
        torch.set_num_threads(check_count(threads, "--threads"))
    if is_export(model):
        where["threads"] = threads

    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:
            raise FlowrankError(
                "--device",
                expected="cpu, auto, or a device that torch finds here, such as cuda",
                found=f"{device!r} ({str(error).splitlines()[0]})",
                todo="leave the option out to use the CPU",
            ) from error
    hush()
    return flowrank.load(model, device_map=device, dtype=dtype, engine=engine, **where)
