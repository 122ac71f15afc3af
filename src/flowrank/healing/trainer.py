"""`heal(child, parent)` trains a compressed model to forecast as its parent does."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flowrank.compression.children import parent_name, pipeline_of
from flowrank.errors import FlowrankError
from flowrank.family import FlowrankPipeline, Objective, Training, family_of, tensor_digest
from flowrank.healing.checkpoints import Folder, State
from flowrank.healing.data import HealingData
from flowrank.healing.options import Healing
from flowrank.nn.config import refuse_quantized
from flowrank.pipelines import Pipeline
from flowrank.pretraining.budget import Clock, rate
from flowrank.pretraining.optimizer import optimizer_for
from flowrank.pretraining.training import device_name, fastest_attention, native_bfloat16
from flowrank.progress import progress_bar
from flowrank.versions import versions


def heal(
    child: Pipeline,
    parent: Pipeline,
    options: Healing | None = None,
    *,
    series: Any = None,
    folder: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
    **columns: Any,
) -> Pipeline:
    """Train all weights of a smaller model to forecast as its parent does, and, if asked, as the true values.

    The result is never worse on the held-out series than the child: it is the best of the child itself and all models
    evaluated during training.

    Parameters
    ----------
    child, parent
        Pipelines of one family with the same horizon, patches and quantiles, or vocabulary. Both stay as
        they are.
    options
        Budget, loss and rates; None: `Healing()`.
    series
        Series to learn from, anything that `flowrank.series.read_series` reads, held in memory; their last horizon is
        held out (that of ``eval_series`` of them, evenly chosen). None for the built-in synthetic ones.
    folder
        For checkpoints and ``log.jsonl``, one JSON line an evaluation. A second call with the same arguments
        continues from the last checkpoint and gives the same model as an uninterrupted run.
    device
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    progress
        Whether to show a progress bar.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Returns
    -------
    FlowrankPipeline
        A new model of the child's shape and dtype, on its device; ``recipe["healing"]`` holds settings and history.

    Raises
    ------
    FlowrankError
        If the two do not fit each other, the series cannot be used, or the folder holds something else.

    Examples
    --------
    >>> import flowrank
    >>> parent = flowrank.load("flow-bolt-mini")
    >>> child = flowrank.compress(parent, flowrank.JointHeads(flowrank.Budget(0.25)), calibration_series=128)
    >>> healed = flowrank.heal(child, parent, flowrank.Healing(steps=2, batch=8, eval_series=8))
    >>> healed.recipe["healing"]["loss_after"] <= healed.recipe["healing"]["loss_before"]
    True
    """
    options = Healing() if options is None else options
    _check_pair(child, parent)
    place = _device(device)
    data = HealingData.read(child, options, series, **columns)
    digests = {"child": tensor_digest(child.inner_model), "parent": tensor_digest(parent.inner_model)}
    trainer = _Trainer(child, _teacher(parent.inner_model, place), options, data, place)
    if folder is not None:
        trainer.folder = Folder(folder, {**options.to_dict(), **digests, "series": data.about})
        trainer.resume()
    bar = progress_bar("healing", total=options.most_steps, unit="steps", show=progress)
    with fastest_attention(trainer.model, place), bar as advance:
        trainer.run(advance)
    return trainer.healed(child, parent, digests)


class _Trainer:
    """A child in training: its weights in float32, progress, and the best weights so far."""

    def __init__(
        self, child: Pipeline, parent: PreTrainedModel, options: Healing, data: HealingData, device: torch.device
    ) -> None:
        self.options, self.data, self.device = options, data, device
        self.dtype = child.inner_model.dtype
        model: Any = copy.deepcopy(child.inner_model)
        self.model: PreTrainedModel = model.to(device, torch.float32).eval().requires_grad_(True)
        self.objective: Objective = training_of(child).objective(
            parent, distillation=options.distillation, truth=options.truth
        )
        self.optimizer = optimizer_for(self.model, data.training.recipe)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.state = State()
        self.best: dict[str, Tensor] | None = None
        self.folder: Folder | None = None
        use_cpu = device.type == "cpu"
        self.half = options.precision == "bfloat16" or (options.precision == "auto" and native_bfloat16(use_cpu))

    def resume(self) -> None:
        """Continue from the folder's last checkpoint."""
        assert self.folder is not None
        self.state, self.best = self.folder.restore(self.model, self.optimizer)

    def run(self, advance: Callable[[int], None]) -> None:
        """Train until the budget is used, or evaluations stop improving."""
        options, state = self.options, self.state
        clock = Clock(options.most_steps, options.minutes, seconds=state.seconds)
        advance(state.step)
        latest = time.monotonic()
        if not state.history:
            self._evaluate()
        while state.ended is None:
            self._step(rate(self.data.training.recipe, state.step, clock.used(state.step)))
            state.step += 1
            now = time.monotonic()
            state.seconds += now - latest
            clock.seconds, latest = state.seconds, now
            over = clock.used(state.step) >= 1
            if over or state.step % options.eval_steps == 0:
                self._evaluate()
            if over:
                state.ended = "the budget is used up"
            elif state.history[-1]["loss"] is None:
                state.ended = "the loss was not finite"
            elif state.stale >= options.patience:
                state.ended = f"{state.stale} evaluations were no better"
            if self.folder is not None and (state.ended or state.step % options.save_steps == 0):
                self.folder.save(state, self.model, self.best, self.optimizer)
            advance(1)

    def _step(self, share: float) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        batch = _moved(self.data.training.batch(self.state.step), self.device)
        with self._autocast():
            loss = self.objective(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Score the weights as they would be returned, and keep them if they are the best so far."""
        state = self.state
        rounded = {name: one.detach().to(self.dtype, copy=True) for name, one in self.model.named_parameters()}
        exact = _swapped(self.model, rounded) if self.dtype != torch.float32 else None
        total = series = 0.0
        for batch in self.data.held_out:
            count = len(next(iter(batch.values())))
            with self._autocast():
                total += count * float(self.objective(self.model, _moved(batch, self.device)))
            series += count
        if exact is not None:
            _swapped(self.model, exact)
        loss = total / series
        if not state.history and not math.isfinite(loss):
            raise FlowrankError(
                "child",
                expected="a model whose forecasts, and whose parent's, are finite",
                found=f"a held-out loss of {loss}",
            )
        better = loss < state.best
        if better:
            state.best, state.best_step, state.stale = loss, state.step, 0
            self.best = rounded if state.step else None  # the child itself needs no copy
        else:
            state.stale += 1
        line = {
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "loss": loss if math.isfinite(loss) else None,
            "best": better,
        }
        state.history.append(line)
        if self.folder is not None:
            self.folder.log(line)

    def healed(self, child: Pipeline, parent: Pipeline, digests: Mapping[str, str]) -> Pipeline:
        """The best model, as a new pipeline."""
        model = copy.deepcopy(child.inner_model).eval()
        with torch.no_grad():
            for name, one in model.named_parameters():
                if self.best is not None:
                    one.copy_(self.best[name])
        made = pipeline_of(model)
        made.name = f"{parent_name(child)} healed"
        made.engine, made.memory_budget = child.engine, child.memory_budget
        state = self.state
        account = {
            "steps": state.step,
            "best_step": state.best_step,
            "series": state.step * self.data.training.recipe.per_device_train_batch_size,
            "loss_before": state.history[0]["loss"],
            "loss_after": state.best,
            "seconds": round(state.seconds, 1),
            "ended": state.ended,
            "data": self.data.about,
            "options": self.options.to_dict(),
            "child": {"name": parent_name(child), "sha256": digests["child"]},
            "parent": {"name": parent_name(parent), "sha256": digests["parent"]},
            "device": device_name(self.device),
            "bfloat16": self.half,
            "versions": versions(),
        }
        made.recipe = {**copy.deepcopy(child.recipe or {}), "healing": account}
        return made

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)


def training_of(pipeline: Pipeline) -> Training:
    """How models of a pipeline's family are trained."""
    family = family_of(pipeline)
    if family.training is None:
        raise family.lacks("training")
    return family.training


def _check_pair(child: Any, parent: Any) -> None:
    for argument, one in (("child", child), ("parent", parent)):
        if not isinstance(one, FlowrankPipeline):
            raise FlowrankError(
                argument,
                expected="a pipeline of flowrank",
                found=type(one).__name__,
                todo="open it with flowrank.load",
            )
        refuse_quantized(one.inner_model, argument, "heal")
    kind = family_of(parent).pipeline_class
    if not isinstance(child, kind):
        raise FlowrankError("child", expected=f"a {kind.__name__}, as the parent is", found=type(child).__name__)
    ours, aim = (one.inner_model.config.chronos_config for one in (child, parent))
    for key in training_of(parent).agreeing:
        if ours.get(key) != aim.get(key):
            raise FlowrankError("child", expected=f"{key} {aim.get(key)}, the parent's", found=ours.get(key))


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise FlowrankError("device", expected="'auto', 'cpu' or 'cuda'", found=repr(name))
    if name == "cuda" and not torch.cuda.is_available():
        raise FlowrankError("device", expected="'cpu', or a GPU that torch finds here", found="'cuda'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _teacher(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The parent in eval mode, if the loss needs it."""
    if model.device.type == device.type and not model.training:
        return model
    moved: Any = copy.deepcopy(model)
    return moved.to(device).eval()


def _moved(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in batch.items()}


def _swapped(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load weights; return the earlier ones."""
    before = {}
    for name, one in model.named_parameters():
        before[name] = one.detach().clone()
        one.copy_(weights[name])
    return before
