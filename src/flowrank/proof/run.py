"""Compresses a model, scores and times it against its parent, and leaves all of it in one folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from flowrank.benchmarking import benchmark
from flowrank.compression import WholeModel, compress, rank_table
from flowrank.compression.apply import refuse_uneven
from flowrank.errors import FlowrankError
from flowrank.evaluation import SEASONAL_NAIVE, evaluate
from flowrank.family import family_of, tensor_digest
from flowrank.files import atomic_file
from flowrank.forecasting import Skipped
from flowrank.nn.config import refuse_quantized
from flowrank.pipelines import load
from flowrank.proof.fev_tasks import KEPT, FevTasks, score_task
from flowrank.proof.outcome import summary, write_tables
from flowrank.proof.places import DataFiles
from flowrank.proof.plan import Plan, benchmark_files
from flowrank.proof.record import (
    PROOF,
    STEPS,
    Steps,
    all_versions,
    begin,
    data_record,
    machine,
    refuse_strangers,
    write_json,
)
from flowrank.proof.rows import Rows
from flowrank.proof.sets import chosen
from flowrank.report import write_report
from flowrank.search import Tolerance, smallest

MODEL = "model"
_SEARCH = "search"


def prove(
    pipeline: Any,
    output: str | Path,
    plan: Plan,
    *,
    data: str | Path | None = None,
    fev: bool = False,
    fev_tasks: str | Path | None = None,
    offline: bool = False,
    command: str = "",
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compress a model and show what that costs, on Chronos benchmark II.

    Every finished step (a stage of the search, the score of one model on one data set, the timing, a fev task) is
    written at once. The same call again goes on after the last of them, and refuses the folder of another proof.

    Parameters
    ----------
    pipeline
        The parent, a pipeline of `flowrank.load`.
    output
        Folder for everything: ``model/``, ``scores.csv``, ``scores.json``, ``bench.json``, ``fev.csv``,
        ``report.html`` and ``proof.json``, which identifies the run.
    plan
        How small, and tested on what.
    data
        Folder with the data sets; None: the hub and its cache. See `flowrank.proof.places.look_in_folder`.
    fev
        Whether to score on fev-bench-mini as well (needs the extra "fev").
    fev_tasks
        File with other fev tasks, or a copy of those of fev-bench-mini.
    offline
        Whether nothing is downloaded.
    command
        What was typed, for the record.
    progress
        Whether to show progress bars.
    say
        Told what is being done.

    Returns
    -------
    dict
        The content of ``proof.json``.

    Raises
    ------
    FlowrankError
        If the model cannot be compressed, data are missing, no smaller model is within the tolerance, or ``output``
        holds something else.

    Examples
    --------
    >>> import tempfile, numpy, pandas, flowrank
    >>> folder = Path(tempfile.mkdtemp())
    >>> months = pandas.date_range("2010-01", periods=80, freq="MS")
    >>> wave = 10 + numpy.sin(numpy.arange(80) * numpy.pi / 6)
    >>> table = pandas.DataFrame({"id": ["A"], "timestamp": [list(months)], "target": [wave]})
    >>> table.to_parquet(folder / "monash_hospital.parquet")
    >>> plan = Plan(flowrank.Budget(0.6), sets=("monash_hospital",), timing={"repeats": 1, "context_length": 64})
    >>> parent = flowrank.load("flow-bolt-mini")
    >>> proof = prove(parent, folder / "proof", plan, data=folder, say=lambda text: None)
    >>> proof["result"]["parameters_kept"] <= 0.6, (folder / "proof" / "report.html").exists()
    (True, True)
    """
    output = refuse_strangers(output)
    refuse_quantized(pipeline.inner_model, "model", "prove")
    refuse_uneven(family_of(pipeline))
    files = benchmark_files(plan, data, offline=offline, say=say)
    tasks = FevTasks()
    if fev or fev_tasks is not None:
        kept = output / KEPT
        tasks = FevTasks.read(fev_tasks, kept, None if data is None else Path(data), offline=offline)
    settings = _settings(pipeline, plan, files, tasks)
    run = _Run(pipeline, output, plan, begin(output, settings), progress, say)
    if run.steps.lines:
        say(f"{len(run.steps.lines)} steps were done before")
    run.steps.done("begin", lambda: {"machine": machine(), "command": command})
    run.compress()
    run.score(files)
    run.time()
    run.score_fev(tasks)
    return run.finish(settings)


def _settings(pipeline: Any, plan: Plan, files: dict[str, DataFiles], tasks: FevTasks) -> dict[str, Any]:
    """All that tells one proof from another."""
    model = pipeline.inner_model
    return {
        "model": {"name": pipeline.name, "revision": pipeline.revision, "sha256": tensor_digest(model)},
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "engine": pipeline.engine,
        **plan.record(),
        "data": {name: data_record(one) for name, one in files.items()},
        "fev": {name: {**tasks.tasks[name], "data": data_record(one)} for name, one in tasks.files.items()},
        "versions": all_versions(),
    }


@dataclass
class _Run:
    """One proof: its models and what it has done."""

    parent: Any
    folder: Path
    plan: Plan
    steps: Steps
    progress: bool
    say: Callable[[str], None]

    def compress(self) -> None:
        """Make the smaller model, or open the one that was made; search stages keep themselves."""
        place = self.folder / MODEL
        began, seconds = time.perf_counter(), None
        if not place.exists():
            self.say("compressing")
            self._made().save_pretrained(place)
            shutil.rmtree(self.folder / _SEARCH / "models", ignore_errors=True)  # of its stages
            seconds = round(time.perf_counter() - began, 1)
        inner = self.parent.inner_model
        self.child = load(place, device_map=str(inner.device), dtype=inner.dtype, engine=self.parent.engine)
        self.label = f"{PurePath(self.parent.name).name}, compressed"
        digest = tensor_digest(self.child.inner_model)
        line = self.steps.find("compress")
        if line is not None and line["sha256"] != digest:
            raise FlowrankError(
                "output",
                expected="the model that this proof made",
                found=f"another one in {str(place)!r}",
                todo=f"remove that folder and {STEPS!r}, or choose another folder",
            )
        counts = (self.child.recipe or {})["parameters"]
        self.steps.done("compress", lambda: {"sha256": digest, "parameters": counts, "seconds": seconds})

    def _made(self) -> Any:
        goal, common = self.plan.goal, {"seed": self.plan.seed, "progress": self.progress, **self.plan.search}
        if not isinstance(goal, Tolerance):
            return compress(self.parent, WholeModel(goal), **common)
        made = smallest(self.parent, goal, folder=self.folder / _SEARCH, on_stage=self._tell, **common)
        if made is self.parent:
            raise FlowrankError(
                "max_loss",
                expected="a tolerance that a smaller model meets",
                found=f"{goal.max_loss:.4g}, which none does that was tried",
                todo="allow more, or ask for a fixed size (a Budget, --ratio)",
            )
        return made

    def _tell(self, stage: Any) -> None:
        loss = (
            "nothing left to remove" if stage.loss is None else f"{stage.cost:.1%} of the cost, loss {stage.loss:+.2%}"
        )
        self.say(f"  step {stage.number}: {loss}, {'within' if stage.held else 'outside'} the tolerance")

    def score(self, files: dict[str, DataFiles]) -> None:
        """Score seasonal naive, parent and child on every data set."""
        models = {SEASONAL_NAIVE: SEASONAL_NAIVE, self.parent.name: self.parent, self.label: self.child}
        for number, (name, test) in enumerate(chosen(self.plan.sets).items(), 1):
            for label, model in models.items():
                work = partial(self._scored, label, model, files[name], test)
                told = f"  {number}/{len(files)} {name}, {label}"
                self._step("score", work, told, ("WQL", "MASE"), dataset=name, model=label)

    def _scored(self, label: str, model: Any, data: DataFiles, test: Any) -> dict[str, Any]:
        rows, skipped = Rows(data.name, data.files), list[Skipped]()
        table = evaluate(
            {label: model},
            {data.name: lambda: rows},
            [test],
            batch_size=self.plan.batch_size,
            seed=self.plan.seed,
            max_series=self.plan.series,
            corrections=self.plan.corrections,
            skip_bad=True,
            skipped=skipped,
        )
        row = table.iloc[0]
        found = {key: float(row[key]) for key in ("WQL", "MASE", "seconds")}
        left_out = [{"item_id": str(one.item_id), "reason": one.reason} for one in skipped]
        return {**found, "suite": test.suite, "series": int(row["series"]), "left_out": left_out}

    def time(self) -> None:
        """Time parent and child in turns."""
        if self.steps.find("time") is None:
            self.say("timing both models in turns")

        def work() -> dict[str, Any]:
            options = {"batch_size": self.plan.batch_size, "seed": self.plan.seed, **self.plan.timing}
            result = benchmark(self.child, self.parent, **options)
            result["models"]["parent"]["name"], result["models"]["child"]["name"] = self.parent.name, self.label
            return {"bench": result, "machine": machine()}

        write_json(self.folder / "bench.json", self.steps.done("time", work)["bench"])

    def score_fev(self, tasks: FevTasks) -> None:
        """Score parent and child on every fev task."""
        tasks.keep(self.folder / KEPT)
        options = {"seed": self.plan.seed, "batch_size": self.plan.batch_size}
        for name, data in tasks.files.items():
            for label, model in ((self.parent.name, self.parent), (self.label, self.child)):
                work = partial(score_task, model, tasks.tasks[name], data, **options)
                self._step("fev", work, f"  {name}, {label}", ("metric", "error"), task=name, model=label)

    def _step(
        self, step: str, work: Callable[[], dict[str, Any]], told: str, shown: tuple[str, ...], **key: str
    ) -> None:
        """Do a step unless it is done, and tell the values of its line that are to be shown."""
        if self.steps.find(step, **key) is None:
            line = self.steps.done(step, work, **key)
            self.say(f"{told}: {', '.join(f'{name} {_shown(line[name])}' for name in shown)}")

    def finish(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Write tables, the record and the report."""
        record = self.folder / PROOF
        if not self.steps.fresh and record.exists() and (self.folder / "report.html").exists():
            self.say("nothing was left to do")
            return dict(json.loads(record.read_text(encoding="utf-8")))
        write_tables(self.folder, self.steps.lines)
        write_json(self.folder / "recipe.json", self.child.recipe)
        with atomic_file(self.folder / "ranks.parquet", overwrite=True) as temporary:
            rank_table(self.child).to_parquet(temporary, index=False)
        lines = self.steps.lines
        made, timed = (next(line for line in lines if line["step"] == step) for step in ("compress", "time"))
        proof = {
            "command": lines[0]["command"],
            "result": summary(self.steps.lines, self.parent.name, self.label, self.plan.goal),
            **settings,
            "child": {"folder": MODEL, **{key: made[key] for key in ("sha256", "parameters", "seconds")}},
            "machine": {**lines[0]["machine"], "timed_on": timed["bench"]["device"]},
            "times": {"started": lines[0]["at"], "finished": lines[-1]["at"]},
            "steps": {"file": STEPS, "number": len(lines)},
        }
        write_json(record, proof)
        write_report(self.folder, overwrite=True)
        return proof


def _shown(value: float | str | None) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else value
