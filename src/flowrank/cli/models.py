"""``flowrank models``, and how the other commands open one."""

from __future__ import annotations

from typing import Any

import flowrank
from flowrank.cli.console import out
from flowrank.errors import check_count


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
    from flowrank.pipelines import check_device

    if threads is not None:
        torch.set_num_threads(check_count(threads, "--threads"))
    if is_export(model):
        where["threads"] = threads
    check_device(device, "--device")
    return flowrank.load(model, device_map=device, dtype=dtype, engine=engine, **where)
