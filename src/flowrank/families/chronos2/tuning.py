"""Fine-tuning of Chronos-2 models: a dense one by chronos-forecasting's own ``fit``, a smaller one by its trainer.

The result is saved as any other model is, whole or not at all.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from chronos.chronos2.dataset import Chronos2Dataset, DatasetMode
from torch import nn
from transformers.utils.import_utils import is_peft_available

from flowrank.errors import FlowrankError, check_count
from flowrank.family.checkpoint import MODEL_FILES, tensor_digest
from flowrank.files import refuse_existing
from flowrank.nn.config import refuse_quantized
from flowrank.versions import versions

MODES = ("full", "lora")
ADAPTED = (*(f"self_attention.{letter}" for letter in "qkvo"), "output_patch_embedding.output_layer")
"""Layers that LoRA adapts unless others are named."""

_EVERY = 100  # steps from one validation to the next


@dataclass(frozen=True)
class Tuning:
    """Options of one run, named as those of ``Chronos2Pipeline.fit``."""

    prediction_length: int
    finetune_mode: str = "full"
    lora_config: Any = None
    context_length: int | None = None
    learning_rate: float = 1e-6
    num_steps: int = 1000
    batch_size: int = 256
    output_dir: str | Path | None = None
    min_past: int | None = None
    finetuned_ckpt_name: str = "finetuned-ckpt"
    callbacks: list[Any] | None = None
    remove_printer_callback: bool = False
    disable_data_parallel: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What decides about the result, JSON-ready."""
        plain = ("finetune_mode", "prediction_length", "context_length", "min_past")
        return {name: getattr(self, name) for name in (*plain, "learning_rate", "num_steps", "batch_size")}


def fine_tuned(
    pipeline: Any,
    upstream: Callable[..., Any],
    inputs: Any,
    validation_inputs: Any,
    options: Tuning,
    *,
    overwrite: bool,
) -> Any:
    """Fine-tune a copy of a model and save it; see ``FlowrankChronos2Pipeline.fit``.

    Parameters
    ----------
    pipeline
        Of the model.
    upstream
        Chronos-forecasting's ``fit`` of that pipeline.
    inputs, validation_inputs
        Series to train and validate on; None: no validation.
    options
        Options.
    overwrite
        Whether an earlier result may be replaced.
    """
    _check(pipeline, options)
    folder = _folder(options.output_dir)
    path = refuse_existing(
        folder / options.finetuned_ckpt_name,
        overwrite=overwrite,
        argument="output_dir",
        kind="folder",
        owned=MODEL_FILES,
    )
    try:
        with precision_kept():
            if pipeline.is_compressed:
                model = _trained(pipeline, inputs, validation_inputs, options, folder)
            else:
                model = _by_upstream(upstream, inputs, validation_inputs, options, folder)
        if options.finetune_mode == "lora":
            model = model.merge_and_unload()
        made = _pipeline_of(pipeline, model, options)
        made.save_pretrained(path, overwrite=overwrite)
    finally:
        with suppress(OSError):  # it is not there, or holds something
            folder.rmdir()
    return made


def _check(pipeline: Any, options: Tuning) -> None:
    """Refuse what cannot be trained before any work is done."""
    refuse_quantized(pipeline.model, "pipeline", "fine-tune")
    for name in ("prediction_length", "num_steps", "batch_size"):
        check_count(getattr(options, name), name)
    if options.finetune_mode not in MODES:
        raise FlowrankError("finetune_mode", expected=f"one of {MODES}", found=repr(options.finetune_mode))
    if options.finetune_mode == "full" and options.lora_config is not None:
        raise FlowrankError(
            "lora_config",
            expected='None with finetune_mode="full"',
            found=repr(options.lora_config),
            todo='pass finetune_mode="lora" as well',
        )
    needed = {"accelerate": importlib.util.find_spec("accelerate") is not None}
    if options.finetune_mode == "lora":
        needed["peft"] = is_peft_available()
    for package, there in needed.items():
        if not there:
            raise FlowrankError(
                f"finetune_mode={options.finetune_mode!r}",
                expected=f"the package {package}",
                found="no such package",
                todo=f'pip install {package}, or pip install "flowrank[finetune]"',
            )


def _folder(output_dir: str | Path | None) -> Path:
    """Where the trainer writes; by default a new folder named after the time."""
    if output_dir is not None:
        return Path(output_dir).expanduser()
    first = Path("chronos-2-finetuned") / time.strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], numbered) if not folder.exists())


def _by_upstream(
    upstream: Callable[..., Any], inputs: Any, validation_inputs: Any, options: Tuning, folder: Path
) -> Any:
    """Fine-tune a dense model as chronos-forecasting does, whose own copy of the result goes."""
    given = {one.name: getattr(options, one.name) for one in fields(options) if one.name != "extra"}
    given |= {"output_dir": folder, "finetuned_ckpt_name": f".{options.finetuned_ckpt_name}.{secrets.token_hex(4)}"}
    given["callbacks"] = list(options.callbacks or ())
    try:
        return upstream(inputs, validation_inputs=validation_inputs, **given, **options.extra).model
    finally:
        shutil.rmtree(folder / given["finetuned_ckpt_name"], ignore_errors=True)


def _pipeline_of(pipeline: Any, model: Any, options: Tuning) -> Any:
    """A pipeline of a trained model, which says what it was made of."""
    made = type(pipeline)(model.eval())
    made.engine, made.memory_budget = pipeline.engine, pipeline.memory_budget
    made.name = f"{pipeline.name} fine-tuned"
    account = {
        **options.to_dict(),
        "parent": {"name": pipeline.name, "sha256": tensor_digest(pipeline.model)},
        "versions": versions(),
    }
    made.recipe = {**copy.deepcopy(pipeline.recipe or {}), "finetuning": account}
    return made


def _trained(pipeline: Any, inputs: Any, validation_inputs: Any, options: Tuning, folder: Path) -> Any:
    """Fine-tune a copy of a smaller model, in fp32."""
    from chronos.chronos2.trainer import Chronos2Trainer, EvaluateAndSaveFinalStepCallback
    from transformers.trainer_callback import PrinterCallback

    model = _copy_of(pipeline.model)
    if options.finetune_mode == "lora":
        model = _adapted(model, options.lora_config)
    length = options.context_length or pipeline.model_context_length
    sizes = {
        **{"context_length": length, "prediction_length": options.prediction_length},
        **{"batch_size": options.batch_size, "output_patch_size": pipeline.model_output_patch_size},
    }
    past = options.prediction_length if options.min_past is None else options.min_past
    training = Chronos2Dataset(inputs, min_past=past, mode=DatasetMode.TRAIN, **sizes)
    validation, callbacks = None, list(options.callbacks or ())
    if validation_inputs is not None:
        validation = Chronos2Dataset(validation_inputs, mode=DatasetMode.VALIDATION, **sizes)
        callbacks.append(EvaluateAndSaveFinalStepCallback())
    arguments = _arguments(options, folder, pipeline.model.device, validates=validation is not None)
    trainer = Chronos2Trainer(
        model=model, args=arguments, train_dataset=training, eval_dataset=validation, callbacks=callbacks
    )
    if options.remove_printer_callback:
        trainer.pop_callback(PrinterCallback)
    trainer.train()
    _extend(model, length, options.prediction_length)
    return model


def _copy_of(model: Any) -> Any:
    """A model of the same config and weights, in fp32, whose weights can be trained."""
    made = type(model)(copy.deepcopy(model.config)).to(model.device)
    made.load_state_dict(model.state_dict())
    return made.requires_grad_(True)


def _arguments(options: Tuning, folder: Path, device: torch.device, *, validates: bool) -> Any:
    """Arguments of transformers' trainer, those of chronos-forecasting's ``fit``."""
    from transformers.training_args import TrainingArguments

    on_cpu = device.type == "cpu"
    if on_cpu and torch.cuda.is_available():
        warnings.warn("The model is fine-tuned on the CPU, though there is a CUDA device.", stacklevel=5)
    fast = not on_cpu and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    when = "steps" if validates else "no"
    given: dict[str, Any] = {
        **{"output_dir": str(folder), "report_to": "none", "max_steps": options.num_steps, "use_cpu": on_cpu},
        **{f"per_device_{kind}_batch_size": options.batch_size for kind in ("train", "eval")},
        **{"learning_rate": options.learning_rate, "lr_scheduler_type": "linear", "optim": "adamw_torch_fused"},
        **{"logging_strategy": "steps", "logging_steps": _EVERY, "prediction_loss_only": True},
        **{"tf32": fast, "bf16": fast, "save_only_model": True, "save_total_limit": 1},
        **{"save_strategy": when, "eval_strategy": when},
    }
    if validates:
        given |= {"save_steps": _EVERY, "eval_steps": _EVERY, "load_best_model_at_end": True}
        given |= {"metric_for_best_model": "eval_loss", "label_names": ["future_target"]}
    arguments: Any = TrainingArguments(**{**given, **options.extra})
    if options.disable_data_parallel and not on_cpu:
        arguments._n_gpu = 1  # transformers offers no option for it
    return arguments


def _extend(model: Any, context_length: int, prediction_length: int) -> None:
    """Let a model read and forecast as far as it was trained now."""
    config = model.chronos_config
    patches = math.ceil(prediction_length / config.output_patch_size)
    config.context_length = max(config.context_length, context_length)
    config.max_output_patches = max(config.max_output_patches, patches)
    model.config.chronos_config = asdict(config)


def _adapted(model: Any, given: Any) -> Any:
    """A model with LoRA adapters in its linear layers, and nothing else to be trained."""
    from peft import LoraConfig, get_peft_model

    config = {"r": 8, "lora_alpha": 16} if given is None else given
    if isinstance(config, dict):
        config = LoraConfig(**config)
    if not isinstance(config, LoraConfig):
        raise FlowrankError("lora_config", expected="a peft.LoraConfig, a dictionary or None", found=repr(given))
    config = copy.deepcopy(config)
    if not isinstance(config.target_modules, str):  # a pattern, or peft's own word for all of them
        config.target_modules = sorted(linears_of(model, config.target_modules or ADAPTED))
    return get_peft_model(model, config)


def linears_of(model: nn.Module, layers: Collection[str]) -> set[str]:
    """Names of linear layers that are, or are factors of, layers whose dotted names end so; empty ones apart.

    Parameters
    ----------
    model
        Any model.
    layers
        Ends of names.

    Examples
    --------
    >>> from flowrank.nn.factored import FactoredLinear
    >>> model = nn.ModuleDict({"q": FactoredLinear(8, 8, 2), "k": nn.Linear(8, 8), "o": nn.Linear(8, 8)})
    >>> sorted(linears_of(model, ["q", "k"]))
    ['k', 'q.down', 'q.up']
    """
    found = set()
    for name, module in model.named_modules():
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        named = any(f".{one}".endswith(f".{layer}") for one in above for layer in layers)
        if named and type(module) is nn.Linear and module.weight.numel():
            found.add(name)
    return found


@contextmanager
def precision_kept() -> Iterator[None]:
    """Give torch's choice of TF32 back after the block, which a trainer on a GPU changes for the whole process."""
    names = [
        (place, name)
        for place in (torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn)
        for name in (("fp32_precision",) if hasattr(torch.backends, "fp32_precision") else ("allow_tf32",))
        if hasattr(place, name)
    ]
    before = [getattr(place, name) for place, name in names]
    try:
        yield
    finally:
        for (place, name), value in zip(names, before, strict=True):
            if getattr(place, name) != value:
                setattr(place, name, value)
