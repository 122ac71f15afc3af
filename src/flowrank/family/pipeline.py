"""What flowrank's pipelines add to those of chronos-forecasting: another code path, opening, saving, provenance."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from flowrank.engine.paths import Inference
from flowrank.errors import FlowrankError
from flowrank.family.card import model_card
from flowrank.family.checkpoint import MODEL_FILES, RECIPE, Checkpoint, hub_options
from flowrank.family.copies import private_copy
from flowrank.files import atomic_folder
from flowrank.nn.config import NarrowConfig
from flowrank.progress import no_bars_of_transformers


class FlowrankPipeline:
    """What every flowrank pipeline adds to the verbs of the pipeline class that it derives from.

    Attributes
    ----------
    inference
        How the model is computed: its ``name``, ``memory_budget`` and, where tokens are decoded, ``cross_cache``.
    name
        What it was loaded as, or how it was made.
    recipe
        How flowrank made it; None for a model that flowrank did not make.
    revision
        Commit on the hub that its files are of; None for a model from elsewhere.
    """

    inner_model: PreTrainedModel
    predict: Callable[..., Any]
    predict_quantiles: Callable[..., tuple[Any, Any]]
    inference: Inference
    name: str = "in memory"
    recipe: dict[str, Any] | None = None
    revision: str | None = None

    @property
    def takes_groups(self) -> bool:
        """Whether the model reads several targets and covariates together; else it reads series one by one."""
        return False

    @property
    def engine(self) -> str:
        """The code path that computes the model.

        "exact" (`flowrank.engine`), "stock" (chronos-forecasting's and transformers' own), "onnxruntime" or "openvino"
        (as graphs in that runtime), or "fastest", of those that are installed the one that is, for each size. All
        compute the same model; pipelines start with "exact".
        """
        return self.inference.name

    @engine.setter
    def engine(self, engine: str) -> None:
        self.inference.name = engine

    @property
    def memory_budget(self) -> int | None:
        """Bytes that the exact engine's activations and caches may take, so that a batch of any size runs.

        None: 2 GiB on a CPU, half of the free memory of a GPU.
        """
        return self.inference.memory_budget

    @memory_budget.setter
    def memory_budget(self, budget: int | None) -> None:
        self.inference.memory_budget = budget

    @property
    def path(self) -> str:
        """The code path that the next forecast takes: "stock" where that is wanted, or the only one that can."""
        return self.inference.path_for(self.inner_model)

    @property
    def is_compressed(self) -> bool:
        """Whether some layers have sizes of their own."""
        return isinstance(self.inner_model.config, NarrowConfig)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a model from a hub id or a folder, after checking its files.

        Takes the keywords of transformers' ``from_pretrained``: ``cache_dir``, ``force_download``,
        ``local_files_only``, ``token``, ``revision``, ``subfolder``, ``device_map``, ``dtype`` (or ``torch_dtype``).

        Raises
        ------
        FlowrankError
            If nothing is there, it is of another family, or its files are not whole.
        """
        checkpoint = Checkpoint.find(pretrained_model_name_or_path, **hub_options(kwargs))
        return cls.of_checkpoint(checkpoint, *args, **kwargs)

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> Any:
        """Pipeline of a model on disk; keywords as of `from_pretrained`.

        Raises
        ------
        FlowrankError
            If it is of another family, or its files are not whole.
        """
        family = checkpoint.family
        if not issubclass(family.pipeline_class, cls):
            raise FlowrankError(
                "model",
                expected=f"a model that {cls.__name__} opens",
                found=f"{checkpoint.name!r}, a {family.name} model",
                todo="open it with flowrank.load",
            )
        pipeline = family.pipeline_of(checkpoint.open(*args, **kwargs))
        pipeline.name, pipeline.recipe = checkpoint.name, checkpoint.recipe
        pipeline.revision = checkpoint.revision
        return pipeline

    def save_pretrained(
        self, folder: str | Path, *, overwrite: bool = False, file_dtype: torch.dtype | None = None
    ) -> Path:
        """Write an ordinary Hugging Face folder: config, safetensors, model card and recipe.

        After ``import flowrank``, ``chronos.BaseChronosPipeline.from_pretrained(folder)`` opens it anywhere. The
        folder appears whole or not at all.

        Parameters
        ----------
        folder
            Where to.
        overwrite
            Whether an earlier model there may be replaced.
        file_dtype
            Type of the weights in the file, e.g. ``torch.bfloat16`` for half the size; the model opens in the type
            it has now, with the values rounded. None: as they are.

        Raises
        ------
        FlowrankError
            If ``folder`` exists and ``overwrite`` is false.
        """
        with atomic_folder(folder, overwrite=overwrite, argument="folder", owned=MODEL_FILES) as temporary:
            self._write(temporary, file_dtype)
        return Path(folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the folder of :meth:`save_pretrained` to the Hugging Face hub; returns the commit's address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            self._write(Path(temporary))
            return str(api.upload_folder(repo_id=repo_id, folder_path=temporary))

    def _write(self, folder: Path, file_dtype: torch.dtype | None = None) -> None:
        model = private_copy(self.inner_model)  # saving writes into the config
        if self.is_compressed:
            model.config.chronos_pipeline_class = type(self).__name__
        model.config.dtype = model.dtype
        weights = model.state_dict()
        if file_dtype is not None:
            weights = _cast(weights, file_dtype)
        with no_bars_of_transformers():
            model.save_pretrained(folder, state_dict=weights)
        (folder / "README.md").write_text(model_card(self.name, model, self.recipe), encoding="utf-8")
        for file in folder.iterdir():  # safetensors' own are for their owner alone
            shutil.copymode(folder / "README.md", file)
        if self.recipe is not None:
            (folder / RECIPE).write_text(json.dumps(self.recipe, indent=2) + "\n", encoding="utf-8")


def _cast(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights in another type; those that shared their memory share it still."""
    places = {name: (one.data_ptr(), one.shape) for name, one in weights.items() if one.is_floating_point()}
    cast = {places[name]: one.to(dtype) for name, one in weights.items() if name in places}
    return {name: cast[places[name]] if name in places else one for name, one in weights.items()}


def check_reach(horizon: int, reach: int, refuse: bool) -> None:
    """Warn that a horizon is further than the model was trained for, or refuse it."""
    if refuse:
        raise FlowrankError(
            "prediction_length",
            expected=f"at most {reach}, what the model was trained for",
            found=horizon,
            todo="pass limit_prediction_length=False to forecast further all the same",
        )
    warnings.warn(
        f"prediction_length {horizon} is beyond {reach}, what the model was trained for: expect less accuracy there",
        stacklevel=4,
    )
