"""A model's files: found, checked against the config, then opened. Safetensors only; no remote code."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.models.config import CompressedT5Config
from flowrank.models.embedded import EMBEDDED, embedded_models
from flowrank.models.quantized import check_place

RECIPE = "recipe.json"
WEIGHTS = "model.safetensors"
MODEL_FILES = ("config.json", "generation_config.json", "model*.safetensors*", "README.md", RECIPE)
"""Names of what a saved model consists of."""

WEIGHTS_INDEX = "model.safetensors.index.json"
DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Checkpoint:
    """A Chronos-T5 or Chronos-Bolt model on disk.

    Attributes
    ----------
    name
        What the user called it: a hub id, an embedded name or a folder.
    folder
        Where its files lie.
    config
        Its config, whose ``chronos_pipeline_class`` is one that flowrank knows.
    recipe
        How flowrank made it; None for a model that flowrank did not compress.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    recipe: dict[str, Any] | None

    @classmethod
    def find(cls, source: str | Path, *, revision: str | None = None) -> Checkpoint:
        """Locate a model and read its config.

        Raises
        ------
        FlowrankError
            If nothing is there, the hub cannot be reached, or it is not a Chronos-T5 or Chronos-Bolt model.
        """
        folder = _folder_of(source, revision)
        return cls(str(source), folder, _read_config(folder), _read_recipe(folder))

    def open(self, model_class: type[PreTrainedModel], *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Load the weights into ``model_class``, in eval mode, after checking that they fit the config.

        Raises
        ------
        FlowrankError
            If weights are absent, truncated, not safetensors, or contradict the config.
        """
        self._check_weights(model_class)
        kwargs.pop("trust_remote_code", None)
        kwargs["dtype"] = _dtype(kwargs.pop("torch_dtype", kwargs.get("dtype", "auto")))
        check_place(self.config, kwargs.get("device_map"), kwargs["dtype"])
        model = model_class.from_pretrained(self.folder, *args, use_safetensors=True, **kwargs)
        return model.eval()

    def _check_weights(self, model_class: type[PreTrainedModel]) -> None:
        found = self._tensor_shapes()
        with torch.device("meta"):
            model = model_class(self.config)
        tied = set(getattr(model, "_tied_weights_keys", None) or {})
        for name, tensor in model.state_dict().items():
            shape = found.get(name)
            if shape is None and name in tied:
                continue
            if shape != tuple(tensor.shape):
                raise FlowrankError(
                    f"weights of {self.name!r}",
                    expected=f"{name} of shape {tuple(tensor.shape)}, as config.json says",
                    found="no such tensor" if shape is None else f"shape {shape}",
                    todo="config.json and the safetensors file are not of the same model: copy both again",
                )

    def _tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for path in self._weight_files():
            try:
                with safe_open(path, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - not a mapping
                        shapes[name] = tuple(tensors.get_slice(name).get_shape())
            except (SafetensorError, OSError) as error:
                raise FlowrankError(
                    f"weights of {self.name!r}",
                    expected="a whole safetensors file",
                    found=f"{path.name}, which does not open ({error})",
                    todo="copy or download the file again",
                ) from error
        return shapes

    def _weight_files(self) -> list[Path]:
        index = self.folder / WEIGHTS_INDEX
        if (self.folder / WEIGHTS).exists():
            return [self.folder / WEIGHTS]
        if index.exists():
            return [self.folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
        others = sorted(path.name for path in self.folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise FlowrankError(
            f"weights of {self.name!r}",
            expected=f"{WEIGHTS} or {WEIGHTS_INDEX}",
            found=f"only {', '.join(others)}" if others else "neither",
            todo="flowrank does not unpickle: convert the weights to safetensors with transformers"
            if others
            else "copy the weights beside config.json",
        )


def tensor_digest(model: PreTrainedModel) -> str:
    """sha256 over a model's tensors (name, dtype, shape, bytes; sorted by name), wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _folder_of(source: str | Path, revision: str | None) -> Path:
    if str(source) in embedded_models():
        return EMBEDDED / str(source)
    folder = Path(source).expanduser()
    if str(source).strip() and folder.is_dir():
        return folder
    looks_local = folder.exists() or isinstance(source, Path) or str(source).startswith((".", "/", "~", os.sep))
    if looks_local or str(source).count("/") > 1 or not str(source).strip():
        raise FlowrankError(
            "model",
            expected="a hub id such as 'amazon/chronos-bolt-small', a folder, or an embedded name",
            found=f"{str(source)!r}, which is {'a file' if folder.is_file() else 'not there'}",
            todo=f"embedded models: {', '.join(embedded_models())}",
        )
    return _download(str(source), revision)


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        raise FlowrankError(
            "model",
            expected="a folder, an embedded name, or a hub id that can be downloaded",
            found=f"{repo_id!r} ({type(error).__name__})",
            todo=f"check the spelling and the connection, or use an embedded model: {', '.join(embedded_models())}",
        ) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlowrankError(
            f"model file {path.name}",
            expected="readable JSON",
            found=f"{type(error).__name__} in {str(path.parent)!r}",
            todo="copy the file again",
        ) from error


def _read_config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").exists():
        raise FlowrankError(
            "model",
            expected="a folder with config.json",
            found=f"{str(folder)!r}, which has none",
            todo="name the folder that save_pretrained wrote",
        )
    raw = _read_json(folder / "config.json")
    kind = raw.get("chronos_pipeline_class", "ChronosPipeline" if "chronos_config" in raw else None)
    known = {"ChronosPipeline", "ChronosBoltPipeline", "FlowrankT5Pipeline", "FlowrankBoltPipeline"}
    is_t5 = raw.get("model_type") in {"t5", CompressedT5Config.model_type}
    if kind not in known or "chronos_config" not in raw or not is_t5:
        raise FlowrankError(
            "model",
            expected="a Chronos-T5 or Chronos-Bolt model",
            found=f"model_type {raw.get('model_type')!r}, pipeline {kind!r} in {str(folder)!r}",
            todo="flowrank compresses Chronos-T5 and Chronos-Bolt, such as amazon/chronos-bolt-small",
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.chronos_pipeline_class = kind
    return config


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    return _read_json(folder / RECIPE) if (folder / RECIPE).exists() else None


def _dtype(dtype: Any) -> Any:
    if isinstance(dtype, torch.dtype) or dtype is None:
        return dtype or "auto"
    if dtype not in DTYPES:
        raise FlowrankError("dtype", expected=f"one of {sorted([*DTYPES, 'fastest'])}", found=repr(dtype))
    return DTYPES[dtype]
