"""Training by transformers.Trainer: checkpoints that resume exactly, a time budget, held-out series."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from flowrank.errors import FlowrankError, is_number
from flowrank.family import family_of_model, training_of
from flowrank.files import atomic_file, refuse_other_run
from flowrank.pipelines import Pipeline, load
from flowrank.pretraining.architecture import adopted, build, trainable
from flowrank.pretraining.budget import Clock, rate
from flowrank.pretraining.journal import Journal, last_whole_checkpoint
from flowrank.pretraining.optimizer import optimizer_for
from flowrank.pretraining.recipe import Recipe
from flowrank.pretraining.store import SeriesStore
from flowrank.pretraining.windows import VALIDATION, Windows, collate
from flowrank.progress import no_bars_of_transformers
from flowrank.versions import versions

CHECKPOINTS = "checkpoints"
RECIPE_FILE = "pretraining.json"
LOG = "log.jsonl"
DATA = "data"
BOARD = "tensorboard"
HARMLESS = {"max_steps", "minutes", "log_steps", "save_steps", "eval_steps", "dataloader_num_workers"}
"""Settings in which two runs of one training may differ."""
_ENDLESS = 10**8  # steps, where only minutes limit a run
_HELD_OUT_BATCH = 64  # series of one length


class _Trainer(Trainer):
    """transformers' trainer with flowrank's optimiser and rates."""

    def __init__(self, recipe: Recipe, clock: Clock, **kwargs: Any) -> None:
        self.recipe, self.clock = recipe, clock
        super().__init__(**kwargs)
        self.training_of_family = training_of(recipe.family)
        # T5 takes any keyword, but gives the mean loss of a batch whatever it is told: averaging passes is left to us.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Hand the model what its family makes of a batch."""
        return super().compute_loss(model, self.training_of_family.inputs(self.recipe, inputs), *args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the recipe's optimiser."""
        if self.optimizer is None:
            target = self.model if model is None else model
            assert target is not None  # Trainer was given one
            self.optimizer = optimizer_for(target, self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the recipe's rates, which follow the budget's clock."""
        if self.lr_scheduler is None:
            scheduled: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                scheduled, lambda step: rate(self.recipe, step, self.clock.used(step))
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


def pretrain(
    recipe: Recipe,
    output: str | Path,
    *,
    progress: bool = True,
    device: str = "auto",
    stop_after: float | None = None,
) -> Pipeline:
    """Train a model, or go on with a training that was cut off.

    Parameters
    ----------
    recipe
        Model, data and optimisation.
    output
        Folder for the model (an ordinary Hugging Face folder once training has ended), with ``checkpoints/``,
        ``log.jsonl``, TensorBoard events and the recipe. If it holds a training by the same recipe, that goes on
        from its last checkpoint: the losses are those of a training that was never cut off.
    progress
        Show a progress bar.
    device
        ``"auto"`` (a GPU if there is one) or ``"cpu"``.
    stop_after
        Minutes from this call after which it ends at the next step, with a checkpoint that the next call goes on from.
        Neither learning rates nor series depend on it. None: train to the end.

    Returns
    -------
    FlowrankBoltPipeline or FlowrankT5Pipeline
        The trained model; as far as it has come, and not yet written to ``output``, if the call was ended early:
        ``pipeline.recipe["pretraining"]["finished"]`` tells.

    Raises
    ------
    FlowrankError
        If the folder holds something else or a training by another recipe, or ``stop_after`` is no positive number.

    Examples
    --------
    >>> recipe = Recipe(d_model=16, d_kv=4, d_ff=16, num_heads=2, num_layers=1, max_steps=2, eval_series=4,
    ...                 per_device_train_batch_size=4, precision="float32")
    >>> pretrain(recipe, "tiny", progress=False, device="cpu").recipe["pretraining"]["steps"]
    2
    """
    started = time.monotonic()
    if stop_after is not None and not is_number(stop_after, 1e-30):
        raise FlowrankError("stop_after", expected="a positive number of minutes", found=repr(stop_after))
    output = Path(output).expanduser()
    pipeline = build(recipe)
    if recipe.initial_model is not None:
        recipe = adopted(recipe, pipeline)
    model = pipeline.inner_model
    trainable(model, recipe)
    arguments = _arguments(recipe, output, device)
    checkpoint = last_whole_checkpoint(output / CHECKPOINTS)
    if checkpoint is not None and checkpoint.processes != arguments.world_size:
        raise FlowrankError(
            "output",
            expected=f"{checkpoint.processes} processes, with which the training there began",
            found=str(arguments.world_size),
            todo="start as many, or choose another folder",
        )
    with arguments.main_process_first():
        _claim(output, recipe)
        stores = [
            SeriesStore.written(path, output / DATA / str(number), unchanged=checkpoint is not None)
            for number, path in enumerate(recipe.training_data_paths)
        ]
    per_step = recipe.gradient_accumulation_steps * arguments.world_size
    clock = Clock(
        recipe.max_steps,
        recipe.minutes,
        seconds=checkpoint.seconds if checkpoint else 0.0,
        stop_at=None if stop_after is None else started + 60 * stop_after,
    )
    if checkpoint is not None and (output / "config.json").exists() and clock.used(checkpoint.step) >= 1:
        return load(output)  # nothing is left to do
    trainer = _Trainer(
        recipe,
        clock,
        model=model,
        args=arguments,
        train_dataset=Windows(
            recipe, batches=(recipe.max_steps or _ENDLESS) * per_step, batches_per_step=per_step, stores=stores
        ),
        eval_dataset=_held_out(recipe),
        data_collator=collate,
        callbacks=[
            clock,
            Journal(
                output / LOG,
                clock,
                series_per_step=per_step * recipe.per_device_train_batch_size,
                show=progress and arguments.process_index == 0,
            ),
            *_boards(output),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    with no_bars_of_transformers(), fastest_attention(model, arguments.device):
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    pipeline.recipe = {"pretraining": _account(recipe, trainer, clock, per_step), **_before(pipeline.recipe)}
    if not pipeline.recipe["pretraining"]["finished"]:
        pipeline.inner_model.cpu().eval()
    elif trainer.is_world_process_zero():
        _publish(pipeline, output)
    return pipeline


@contextmanager
def fastest_attention(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Train with plain attention on CPUs: their fused kernels are slower at it, or cannot learn a bias."""
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = list({id(one): one for one in found if isinstance(one, PreTrainedConfig)}.values())  # some are copies
    before = [config._attn_implementation for config in configs]
    if device.type == "cpu":
        for config in configs:
            config._attn_implementation = "eager"
    training = family_of_model(model).training
    assert training is not None
    try:
        with training.prepared(model):
            yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def _claim(output: Path, recipe: Recipe) -> None:
    """Take the folder for this recipe, or refuse it."""
    refuse_other_run(output, RECIPE_FILE, recipe.to_dict(), run="training", argument="output", harmless=HARMLESS)
    path = output / RECIPE_FILE
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n", encoding="utf-8")


def _arguments(recipe: Recipe, output: Path, device: str) -> TrainingArguments:
    use_cpu = device == "cpu" or not torch.cuda.is_available()
    half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and native_bfloat16(use_cpu))
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        max_steps=recipe.max_steps or _ENDLESS,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        per_device_eval_batch_size=_held_out_batch(recipe),
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        max_grad_norm=recipe.max_grad_norm,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=recipe.log_steps,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        prediction_loss_only=True,
        label_names=[training_of(recipe.family).label],
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_num_workers=recipe.dataloader_num_workers,
        dataloader_drop_last=True,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if use_cpu and "WORLD_SIZE" in os.environ else None,
        disable_tqdm=True,
        report_to=[],
        bf16=half,
        use_cpu=use_cpu,
        seed=recipe.seed,
        torch_compile=recipe.torch_compile,
    )


def _boards(output: Path) -> list[TrainerCallback]:
    """TensorBoard, where it is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(output / BOARD)))]


def native_bfloat16(use_cpu: bool) -> bool:
    """Whether the CPU, or else the GPU, computes in bfloat16 without emulation."""
    if not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _held_out(recipe: Recipe) -> Windows:
    """Series that training never sees, the same ones whatever its batches are: another stream of the generator."""
    batch = _held_out_batch(recipe)
    batches = -(-recipe.eval_series // batch)
    return Windows(replace(recipe, seed=0, per_device_train_batch_size=batch), batches=batches, stream=VALIDATION)


def _held_out_batch(recipe: Recipe) -> int:
    return min(_HELD_OUT_BATCH, recipe.eval_series)


def _account(recipe: Recipe, trainer: Trainer, clock: Clock, per_step: int) -> dict[str, Any]:
    steps = trainer.state.global_step
    return {
        "recipe": recipe.to_dict(),
        "finished": clock.used(steps) >= 1,
        "steps": steps,
        "series": steps * per_step * recipe.per_device_train_batch_size,
        "minutes": round(clock.seconds / 60, 2),
        "device": device_name(trainer.args.device),
        "processes": trainer.args.world_size,
        "versions": versions(),
    }


def _before(start: dict[str, Any] | None) -> dict[str, Any]:
    """Accounts of the trainings of the model that this one began with, the latest first."""
    if not start or "pretraining" not in start:
        return {}
    return {"stages_before": [start["pretraining"], *start.get("stages_before", ())]}


def _publish(pipeline: Pipeline, output: Path) -> None:
    """Put the model's files next to its checkpoints, the config last."""
    pipeline.inner_model.cpu().eval()
    with tempfile.TemporaryDirectory(dir=output, prefix=".model-") as temporary:
        pipeline.save_pretrained(Path(temporary) / "model")
        files = sorted((Path(temporary) / "model").iterdir(), key=lambda path: path.name == "config.json")
        for file in files:
            os.replace(file, output / file.name)


def device_name(device: torch.device) -> str:
    """What a device is called in an account."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
