"""The search: each stage shrinks the smallest model so far that stayed within the tolerance, and backtests it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowrank.compression import Budget, WholeModel
from flowrank.compression.apply import account, refuse_uneven
from flowrank.compression.children import child_of, parent_name, pipeline_of
from flowrank.compression.latency import Latency
from flowrank.compression.prices import Price, price_in
from flowrank.compression.reconstruction import reconstruct
from flowrank.compression.whole import WholeFactorization
from flowrank.errors import FlowrankError, check_count
from flowrank.family import family_of, tensor_digest
from flowrank.files import atomic_file, refuse_other_run
from flowrank.healing import Healing, heal
from flowrank.measure.calibration import POINTS, Calibration
from flowrank.nn.config import refuse_quantized
from flowrank.pipelines import Pipeline, load
from flowrank.progress import progress_bar
from flowrank.search.backtester import HORIZON, Backtester, Comparison, evenly
from flowrank.search.stages import Stage, lineage, next_ratio, read_stages, smallest_held
from flowrank.search.tolerance import Tolerance
from flowrank.series import Series, read_series

SEARCH_LOG = "search.jsonl"
_SETTINGS = "search.json"
_LATENCY = "latency.json"
_MODELS = "models"
_FORMAT = 5  # of a search: one that counted or chose series otherwise does not go on


def smallest(
    pipeline: Pipeline,
    tolerance: Tolerance,
    *,
    folder: str | Path | None = None,
    series: Any = None,
    also_synthetic: bool = False,
    parts: tuple[str, ...] = WholeModel(Budget(1.0)).parts,
    steps: int = 0,
    calibration_series: int | None = None,
    validation_series: int = 2048,
    horizon: int = HORIZON,
    seed: int = 0,
    progress: bool = False,
    on_stage: Callable[[Stage], None] | None = None,
    **columns: Any,
) -> Pipeline:
    """Find the cheapest model within a tolerance.

    Each stage shrinks the smallest model so far that stayed within the tolerance, by `flowrank.WholeModel`, and
    reconstructs it: every layer's output matrix is fitted so that the stream after the layer is the parent's. If
    ``steps`` are given and the model is outside the tolerance, it is also healed by distillation. As long as models
    stay within it, each stage removes 40 %; after that the next size is the geometric mean of the smallest that did
    and the largest that did not, until the two are 12 % apart.

    Parameters
    ----------
    pipeline
        The parent, a pipeline of `flowrank.load`.
    tolerance
        How much accuracy may be lost, and which cost is to become small.
    folder
        Folder for the log and the models; an interrupted search continues from it, with the same result. None: a
        temporary one.
    series
        Series for calibration, healing and comparison: anything that `flowrank.series.read_series` reads, more than
        once. The last ``horizon`` values of each are for comparison, the values before them for the rest. None:
        synthetic series.
    also_synthetic
        Whether to use synthetic series as well as ``series``: as half of the calibration series, or as many as are
        missing, and as another part of the comparison. The tolerance then holds on each kind, and more probably on
        series unlike either. Healing uses ``series`` only.
    parts
        What may become smaller, as in `flowrank.WholeModel`.
    steps
        Training steps of each healing; 0: models are not healed. What is learnt from synthetic series does not fully
        carry over to others (docs/compression.md).
    calibration_series, validation_series
        Largest number of series for calibration, and of each kind for comparison. ``calibration_series=None``: as
        many as the model's family asks for (1 024 where a decoder has one token a series, else 512).
    horizon
        Number of steps ahead in the forecasts that are compared.
    seed
        Seed of everything random.
    progress
        Whether to show progress bars.
    on_stage
        Called after each stage.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Returns
    -------
    FlowrankPipeline
        The model; its recipe lists all stages. The parent itself if no smaller model stayed within the tolerance.

    Raises
    ------
    FlowrankError
        If the folder holds another search or something else, or series cannot be used.
    """
    search = _Search(
        pipeline, tolerance, series, also_synthetic, parts, steps, validation_series, horizon, seed, progress, columns
    )
    return search.run(folder, calibration_series, on_stage)


def _pasts(series: Any, horizon: int, columns: dict[str, Any]) -> list[Series]:
    """The user's series without the values that models are compared on."""
    found = []
    for one in evenly(read_series(series, **columns)):
        ahead = min(horizon, len(one) // 3)
        found.append(replace(one, target=one.target[: len(one) - ahead]))
    return found


def _calibration(past: list[Series] | None, also_synthetic: bool, count: int, seed: int, groups: bool) -> Calibration:
    if past is None or not also_synthetic:
        return Calibration.read(past, count=count, seed=seed, mixed=True, groups=groups)
    own = Calibration.read(past, count=-(-count // 2), seed=seed)
    rest = Calibration.read(None, count=max(1, count - len(own.contexts)), seed=seed, mixed=True, groups=groups)
    return own.mixed_with(rest)


@dataclass
class _Search:
    """One search: its options, and what it has found so far."""

    parent: Pipeline
    tolerance: Tolerance
    series: Any
    also_synthetic: bool
    parts: tuple[str, ...]
    steps: int
    validation_series: int
    horizon: int
    seed: int
    progress: bool
    columns: dict[str, Any]
    latest: tuple[int, Pipeline, WholeFactorization] | None = None  # what was measured last, of the model of a stage

    def run(
        self, folder: str | Path | None, calibration_series: int | None, on_stage: Callable[[Stage], None] | None
    ) -> Pipeline:
        """Search until the smallest model is known."""
        settings = self._settings(calibration_series)
        with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
            self.home = Path(place).expanduser()
            refuse_other_run(self.home, _SETTINGS, settings, run="search")
            self._read_series(settings["calibration_series"])
            self.home.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.home / _SETTINGS, overwrite=True) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            return self._result(self._stages(on_stage))

    def _settings(self, calibration_series: int | None) -> dict[str, Any]:
        """Check the options; give those that tell one search from another."""
        series, family = self.series, family_of(self.parent)
        named = str(series) if isinstance(series, str | Path) else type(series).__name__
        check_count(self.steps, "steps", 0)
        if self.also_synthetic and series is None:
            raise FlowrankError(
                "also_synthetic",
                expected="series given with it",
                found="none",
                todo="pass series; without any, all series are synthetic",
            )
        count = family.calibration_series if calibration_series is None else calibration_series
        count = check_count(count, "calibration_series")
        refuse_quantized(self.parent.inner_model, "pipeline", "compress")
        refuse_uneven(family)
        return {
            "parent": tensor_digest(self.parent.inner_model),
            "tolerance": asdict(self.tolerance),
            "parts": list(WholeModel(Budget(1.0), parts=self.parts).parts),
            "steps": self.steps,
            "calibration_series": count,
            "validation_series": check_count(self.validation_series, "validation_series"),
            "horizon": check_count(self.horizon, "horizon"),
            "seed": check_count(self.seed, "seed", 0),
            "format": _FORMAT,
            "also_synthetic": self.also_synthetic,
            "series": None if series is None else named,
        }

    def _read_series(self, calibration_series: int) -> None:
        self.past = None if self.series is None else _pasts(self.series, self.horizon, self.columns)
        groups = family_of(self.parent).reads_groups
        self.calibration = _calibration(self.past, self.also_synthetic, calibration_series, self.seed, groups)
        self.backtester = Backtester(
            self.parent,
            series=self.series,
            also_synthetic=self.also_synthetic,
            count=self.validation_series,
            horizon=self.horizon,
            metric=self.tolerance.metric,
            confidence=self.tolerance.confidence,
            seed=self.seed,
            **self.columns,
        )

    def _stages(self, on_stage: Callable[[Stage], None] | None) -> list[Stage]:
        """Stages that an interrupted search logged, and those that are left to do."""
        log = self.home / SEARCH_LOG
        stages = read_stages(log)
        self._rewrite(log, stages)
        self.price = self._price()
        self.dense = self.price(self.parent.inner_model.config)
        while (ratio := next_ratio(stages)) is not None:
            stage = self._stage(len(stages) + 1, smallest_held(stages), ratio)
            stages.append(stage)
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(stage)) + "\n")
            if on_stage is not None:
                on_stage(stage)
        return stages

    def _rewrite(self, log: Path, stages: list[Stage]) -> None:
        with atomic_file(log, overwrite=True) as temporary:
            temporary.write_text("".join(json.dumps(asdict(one)) + "\n" for one in stages), encoding="utf-8")

    def _price(self) -> Price:
        """The cost of a model by its config; latency is measured once for the whole search."""
        if self.tolerance.unit != "latency":
            return price_in(self.tolerance.unit, self.parent.inner_model)
        path = self.home / _LATENCY
        if not path.exists():
            found = Latency.measure(self.parent)
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
        return Latency.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def _stage(self, number: int, start: Stage | None, ratio: float) -> Stage:
        began = time.perf_counter()
        model, whole = self._measured(number, start)
        comparison: Comparison | None = None
        child, healed = model, False
        try:
            weights = whole.shrunk(ratio * self.dense, self.price, unit=self.tolerance.unit)
        except FlowrankError:  # nothing that can be removed is left
            pass
        else:
            child = pipeline_of(child_of(model.inner_model, weights))
            places = len(list(family_of(child).anatomy.places()))
            with self._bar(f"stage {number}: fitting", len(self.calibration.contexts) * places) as advance:
                reconstruct(family_of(child), family_of(self.parent).private(), self.calibration.contexts, advance)
            comparison = self.backtester.compare(child)
            if self.steps and comparison.upper > self.tolerance.max_loss:
                better = self._healed(child, number)
                found = self.backtester.compare(better)
                if found.upper < comparison.upper:
                    child, comparison, healed = better, found, True
        held = comparison is not None and comparison.upper <= self.tolerance.max_loss
        if held:
            child.save_pretrained(self._place(number), overwrite=True)
        return Stage(
            number=number,
            start=0 if start is None else start.number,
            ratio=ratio,
            cost=self.price(child.inner_model.config) / self.dense,
            parameters=child.inner_model.num_parameters(),
            loss=None if comparison is None else comparison.loss,
            upper=None if comparison is None else comparison.upper,
            healed=healed,
            held=held,
            seconds=round(time.perf_counter() - began, 1),
        )

    def _measured(self, number: int, start: Stage | None) -> tuple[Pipeline, WholeFactorization]:
        """The model that a stage shrinks, and its components; the stage before may have measured them."""
        origin = 0 if start is None else start.number
        if self.latest is None or self.latest[0] != origin:
            self.latest = None  # two models' components need not fit into memory
            model = self._model(start)
            with self._bar(f"stage {number}: measuring", len(self.calibration.contexts)) as advance:
                seed = self.seed + 2 * origin
                whole = WholeFactorization(family_of(model), self.calibration.contexts, seed, advance, parts=self.parts)
            self.latest = origin, model, whole
        return self.latest[1:]

    def _healed(self, child: Pipeline, number: int) -> Pipeline:
        folder = self.home / f"healing-{number:02d}"
        healed = heal(
            child,
            self.parent,
            Healing(steps=self.steps, seed=self.seed + number),
            series=self.past,
            folder=folder,
            progress=self.progress,
        )
        shutil.rmtree(folder, ignore_errors=True)
        return healed

    def _bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return progress_bar(label, total=total, show=self.progress)

    def _place(self, number: int) -> Path:
        return self.home / _MODELS / f"{number:02d}"

    def _model(self, stage: Stage | None) -> Pipeline:
        """The saved model of a stage; the parent for none."""
        if stage is None:
            return self.parent
        model = self.parent.inner_model
        return load(self._place(stage.number), dtype=model.dtype, device_map=str(model.device))

    def _result(self, stages: list[Stage]) -> Pipeline:
        best = smallest_held(stages)
        made = self._model(best)
        if best is None:
            return made
        made.name = f"{parent_name(self.parent)} compressed"
        made.recipe = account(self.parent, made.inner_model, self.calibration, POINTS, self.seed) | {
            "method": {"name": "WholeModel", "healed": any(stage.healed for stage in lineage(best, stages))},
            "allocation": {"name": "Tolerance", **asdict(self.tolerance)},
            "search": {
                "steps": self.steps,
                "also_synthetic": self.backtester.also_synthetic,
                "validation_series": self.backtester.series,
                "horizon": self.backtester.horizon,
                "loss": best.loss,
                "upper": best.upper,
                "stages": [asdict(stage) for stage in stages],
            },
        }
        return made
