"""What a proof is to show, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowrank.compression import Budget
from flowrank.errors import FlowrankError, check_count
from flowrank.forecasting import Corrections
from flowrank.proof.places import DataFiles, look_in_folder, look_on_hub
from flowrank.proof.sets import chosen, homes
from flowrank.search import Tolerance


@dataclass(frozen=True)
class Plan:
    """How the model becomes smaller, and what it is tested on.

    Parameters
    ----------
    goal
        A `flowrank.Tolerance` to search for the smallest model within it, or a `flowrank.Budget` for a fixed size of
        the whole model.
    sets
        Data sets of Chronos benchmark II by name; all 27 if there are none.
    series
        Largest number of series of each data set, the first ones; None: all.
    seed
        Of everything random.
    batch_size
        Series in one pass through a model.
    corrections
        As in `flowrank.forecasting.forecast`.
    search
        Further arguments of `flowrank.smallest` or `flowrank.compress`, e.g. ``calibration_series``. Both compress on
        synthetic series, never on the benchmark's.
    timing
        Further arguments of `flowrank.benchmark`, e.g. ``repeats``.

    Raises
    ------
    FlowrankError
        If a data set is unknown or a number is none.

    Examples
    --------
    >>> Plan(Tolerance(0.01), sets=("m5",)).goal.max_loss
    0.01
    """

    goal: Tolerance | Budget
    sets: tuple[str, ...] = ()
    series: int | None = None
    seed: int = 0
    batch_size: int = 32
    corrections: Corrections = field(default_factory=Corrections)
    search: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen(self.sets)
        check_count(self.batch_size, "batch_size")
        check_count(self.seed, "seed", 0)
        if self.series is not None:
            check_count(self.series, "series")

    def record(self) -> dict[str, Any]:
        """Everything here, ready for JSON.

        Examples
        --------
        >>> Plan(Budget(0.5)).record()["goal"]
        {'name': 'Budget', 'ratio': 0.5, 'unit': 'parameters'}
        """
        goal = {"name": type(self.goal).__name__, **asdict(self.goal)}
        return {
            "goal": goal,
            "sets": list(chosen(self.sets)),
            "series": self.series,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "corrections": asdict(self.corrections),
            "search": dict(self.search),
            "timing": dict(self.timing),
        }


def benchmark_files(
    plan: Plan, data: str | Path | None, *, offline: bool, say: Callable[[str], None]
) -> dict[str, DataFiles]:
    """Files of the plan's data sets: in a folder, or from the hub.

    Parameters
    ----------
    plan
        Which data sets.
    data
        Folder that holds them; None: the hub and its cache.
    offline
        Whether to look into the cache only.
    say
        Told what is being done.

    Raises
    ------
    FlowrankError
        If some are not found; the error lists them.
    """
    wanted = [homes(name) for name in chosen(plan.sets)]
    if data is None:
        say(f"looking for {len(wanted)} data sets {'in the cache of the hub' if offline else 'on the hub'}")
        found = look_on_hub(wanted, offline=offline)
    else:
        found = look_in_folder(data, wanted)
    if not found.missing:
        return {one.name: found.sets[one.name] for one in wanted}
    where = "the cache of the hub" if offline else "the hub" if data is None else repr(str(data))
    todo = "put NAME.parquet or NAME/*.parquet there"
    if data is None:
        repos = dict.fromkeys(homes(name).homes[-1].repo for name in found.missing)
        commands = " and ".join(f"hf download {repo} --repo-type dataset" for repo in repos)
        todo = f"download them where there is a connection ({commands}), copy the cache here and take it with "
        todo += "--offline, or name a folder that holds them with --data"
    if found.sets:
        todo += f", or name those that are there: --sets {','.join(found.sets)}"
    raise FlowrankError(
        "data",
        expected=f"files of {len(wanted)} data sets",
        found=f"none in {where} of {', '.join(found.missing)}" + (f" ({found.reason})" if found.reason else ""),
        todo=todo,
    )
