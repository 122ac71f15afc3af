"""What a training tells while it runs: a progress bar, a log to read back, and which checkpoints are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from flowrank.files import atomic_file, read_json_lines
from flowrank.pretraining.budget import Clock

COMPLETE = "complete.json"
CHECKPOINT = "checkpoint-"


class Journal(TrainerCallback):
    """Writes one JSON line for every log of the trainer, moves a progress bar, and seals checkpoints.

    Parameters
    ----------
    path
        The log; lines after the step that a training goes on from are dropped.
    clock
        Counts the time.
    series_per_step
        Series that one step uses up, over all processes.
    show
        Whether there is a progress bar.
    """

    def __init__(self, path: Path, clock: Clock, *, series_per_step: int, show: bool) -> None:
        self.path, self.clock, self.series_per_step, self.show = path, clock, series_per_step, show
        self._bar: Any = None
        self._task: Any = None
        self._latest = (0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the log and the bar."""
        self._latest = (state.global_step, self.clock.seconds)
        state.compute_steps(args, state.max_steps)  # the intervals of this run, not those of the checkpoint
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_log(self.path) if line["step"] <= state.global_step]
        with atomic_file(self.path, overwrite=True) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        if self.show:
            self._open(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line and show the loss."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        line: dict[str, Any] = {"step": state.global_step, "seconds": round(self.clock.seconds, 3)}
        line |= {
            name: value for name, value in logs.items() if name in ("loss", "eval_loss", "grad_norm", "learning_rate")
        }
        step, seconds = self._latest
        if "loss" in line and self.clock.seconds > seconds:
            speed = (state.global_step - step) * self.series_per_step / (self.clock.seconds - seconds)
            line["series_per_second"] = logs["series_per_second"] = round(speed, 1)  # for TensorBoard too
            self._latest = (state.global_step, self.clock.seconds)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if self._bar is not None:
            shown = [f"loss {line['loss']:.4f}"] if "loss" in line else []
            shown += [f"{line['series_per_second']:.0f} series/s"] if "series_per_second" in line else []
            shown += [f"validation {line['eval_loss']:.4f}"] if "eval_loss" in line else []
            self._bar.update(self._task, told=" · ".join(shown))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            done = self.clock.used(state.global_step)
            self._bar.update(self._task, completed=done, description=f"pretraining, step {state.global_step}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the checkpoint: it is whole, and so many seconds went into it."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{CHECKPOINT}{state.global_step}"
            with atomic_file(folder / COMPLETE, overwrite=True) as temporary:
                temporary.write_text(
                    json.dumps({"seconds": self.clock.seconds, "processes": args.world_size}) + "\n", encoding="utf-8"
                )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self, step: int) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self._task = self._bar.add_task("pretraining", total=1.0, completed=self.clock.used(step), told="")
        self._bar.start()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; none if there is no such file. Lines that were cut off are left out."""
    return read_json_lines(path, broken="skip") if path.exists() else []


class Whole(NamedTuple):
    """A checkpoint that was written to its end: where, at which step, after how many seconds, by how many processes."""

    folder: Path
    step: int
    seconds: float
    processes: int


def last_whole_checkpoint(folder: Path) -> Whole | None:
    """Newest checkpoint that was written to its end."""
    found = sorted(folder.glob(f"{CHECKPOINT}*/{COMPLETE}"), key=lambda path: int(path.parent.name[len(CHECKPOINT) :]))
    if not found:
        return None
    told, last = json.loads(found[-1].read_text(encoding="utf-8")), found[-1].parent
    return Whole(last, int(last.name[len(CHECKPOINT) :]), float(told["seconds"]), int(told.get("processes", 1)))
