"""Seeds for forecasts: handed down where a pipeline takes one, torch's global generators where none is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ALONE = threading.RLock()


@contextmanager
def globally_seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators while the block runs, then give them back as they were.

    These generators belong to the whole process. Blocks in several threads wait for each other, so that two seeds do
    not mix; code outside such a block that draws from the same generators meanwhile still disturbs it.

    Parameters
    ----------
    seed
        Whole number.
    device
        Where the block computes; of CUDA, the generator of this device alone is seeded.

    Examples
    --------
    >>> import torch
    >>> with globally_seeded(3):
    ...     first = torch.rand(())
    >>> with globally_seeded(3):
    ...     bool(torch.rand(()) == first)
    True
    """
    import torch

    device = torch.device(device)
    cuda = device.type == "cuda"
    with _ALONE, torch.random.fork_rng(devices=[device.index or 0] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def seeded(pipeline: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Let a pipeline forecast under a seed: give what ``predict`` and ``predict_quantiles`` are to be called with.

    A pipeline that says ``takes_seed`` gets it as an argument; one that computes by flowrank's own engine or in a graph
    runtime otherwise draws nothing, and both may run in any number of threads. All others, such as
    chronos-forecasting's own ``ChronosPipeline``, draw from torch's global generators: see `globally_seeded`.

    Parameters
    ----------
    pipeline
        Any chronos-forecasting pipeline.
    seed
        Whole number ≥ 0. Forecasts are those after ``torch.manual_seed(seed)``.

    Examples
    --------
    >>> from flowrank import load
    >>> pipeline = load("flow-t5-mini")
    >>> with seeded(pipeline, 3) as options:
    ...     options
    {'seed': 3}
    """
    if getattr(pipeline, "takes_seed", False):
        yield {"seed": seed}
    elif getattr(pipeline, "path", "stock") != "stock":
        yield {}
    else:
        model = getattr(pipeline, "inner_model", None)
        with globally_seeded(seed, getattr(model, "device", "cpu")):
            yield {}
