"""A model's files: found, checked against the config, then opened. Safetensors only; no remote code."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.errors import FlowrankError
from flowrank.family.embedded import EMBEDDED, embedded_models
from flowrank.family.protocol import Family
from flowrank.family.registry import family_of_config
from flowrank.nn.config import check_place
from flowrank.progress import no_bars_of_transformers

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
    """A model on disk.

    Attributes
    ----------
    name
        What the user called it: a hub id, an embedded name or a folder.
    folder
        Where its files lie.
    family
        What opens it.
    config
        Its config.
    recipe
        How flowrank made it; None for a model that flowrank did not compress.
    """

    name: str
    folder: Path
    family: type[Family]
    config: PreTrainedConfig
    recipe: dict[str, Any] | None

    @classmethod
    def find(cls, source: str | Path, *, subfolder: str = "", **hub: Any) -> Checkpoint:
        """Locate a model and read its config.

        Parameters
        ----------
        source
            A hub id, a folder, or the name of an embedded model.
        subfolder
            Where in it the model lies.
        **hub
            ``revision``, ``cache_dir``, ``token``, ``local_files_only``, ``force_download`` and ``proxies``.

        Raises
        ------
        FlowrankError
            If nothing is there, the hub cannot be reached, or no known family owns the model.
        """
        folder = _folder_of(source, subfolder, hub)
        raw = _read_raw(folder)
        family = family_of_config(raw, f"in {str(folder)!r}")
        config = family.read_config(raw)
        config._name_or_path = str(source)
        return cls(str(source), folder, family, config, _read_recipe(folder))

    @property
    def revision(self) -> str | None:
        """Commit on the hub that the files are of; None if they do not lie in its cache."""
        for folder in (self.folder, *self.folder.parents):
            if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
                return folder.name
        return None

    def open(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Load the weights, in eval mode, after checking that they fit the config.

        Raises
        ------
        FlowrankError
            If weights are absent, truncated, not safetensors, or contradict the config.
        """
        model_class = self.family.model_class(self.config)
        self._check_weights(model_class)
        for name in ("trust_remote_code", "config"):
            kwargs.pop(name, None)
        if not kwargs.pop("use_safetensors", True):
            raise FlowrankError(
                "use_safetensors", expected="True: flowrank does not unpickle", found="False", todo="leave it out"
            )
        kwargs["dtype"] = _dtype(kwargs.pop("torch_dtype", None) or kwargs.get("dtype", "auto"))
        check_place(self.config, kwargs.get("device_map"), kwargs["dtype"])
        with no_bars_of_transformers():
            model = model_class.from_pretrained(
                self.folder, *args, config=copy.deepcopy(self.config), use_safetensors=True, **kwargs
            )
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
            else "copy the weights next to config.json",
        )


def tensor_digest(model: PreTrainedModel) -> str:
    """sha256 over a model's tensors (name, dtype, shape, bytes; sorted by name), wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies", "subfolder")
"""Keywords of transformers' ``from_pretrained`` that say where the files of a model are."""


def hub_options(keywords: dict[str, Any]) -> dict[str, Any]:
    """Take those keywords that say where files are out of others.

    Examples
    --------
    >>> keywords = {"revision": "main", "dtype": "auto", "token": None}
    >>> hub_options(keywords), keywords
    ({'revision': 'main'}, {'dtype': 'auto'})
    """
    found = {name: keywords.pop(name, None) for name in HUB_OPTIONS}
    return {name: value for name, value in found.items() if value is not None}


def _folder_of(source: str | Path, subfolder: str, hub: dict[str, Any]) -> Path:
    if str(source) in embedded_models():
        return EMBEDDED / str(source)
    folder = Path(source).expanduser()
    if str(source).strip() and folder.is_dir():
        return folder / subfolder
    looks_local = folder.exists() or isinstance(source, Path) or str(source).startswith((".", "/", "~", os.sep))
    if looks_local or str(source).count("/") > 1 or not str(source).strip():
        raise FlowrankError(
            "model",
            expected="a hub id such as 'amazon/chronos-bolt-small', a folder, or an embedded name",
            found=f"{str(source)!r}, which is {'a file' if folder.is_file() else 'not there'}",
            todo=f"embedded models: {', '.join(embedded_models())}",
        )
    return _download(str(source), subfolder, hub) / subfolder


def _download(repo_id: str, subfolder: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    within = f"{subfolder}/" if subfolder else ""
    try:
        return Path(snapshot_download(repo_id, allow_patterns=[f"{within}*.json", f"{within}*.safetensors"], **hub))
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        raise FlowrankError(
            "model",
            expected="a folder, an embedded name, or a hub id that can be downloaded",
            found=f"{repo_id!r} ({type(error).__name__})",
            todo=f"check the spelling and the connection, download it where there is one (hf download {repo_id}) and "
            f"copy the cache here, or use an embedded model: {', '.join(embedded_models())}",
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


def _read_raw(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise FlowrankError(
            "model",
            expected="a folder with config.json",
            found=f"{str(folder)!r}, which has none",
            todo="name the folder that save_pretrained wrote",
        )
    raw = _read_json(folder / "config.json")
    if not isinstance(raw, dict):
        raise FlowrankError("model", expected="a config.json that holds a mapping", found=f"{type(raw).__name__}")
    return raw


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    return _read_json(folder / RECIPE) if (folder / RECIPE).exists() else None


def _dtype(dtype: Any) -> Any:
    if isinstance(dtype, torch.dtype) or dtype is None:
        return dtype or "auto"
    if dtype not in DTYPES:
        raise FlowrankError("dtype", expected=f"one of {sorted([*DTYPES, 'fastest'])}", found=repr(dtype))
    return DTYPES[dtype]
