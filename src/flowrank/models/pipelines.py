"""The pipelines that `flowrank.load` returns: chronos-forecasting's own, plus saving and provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from chronos import ChronosBoltPipeline, ChronosConfig, ChronosModel, ChronosPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import PreTrainedModel, T5ForConditionalGeneration

from flowrank.files import atomic_folder, current_umask
from flowrank.models.card import model_card
from flowrank.models.checkpoint import MODEL_FILES, RECIPE, Checkpoint
from flowrank.models.config import CompressedT5Config
from flowrank.models.t5 import CompressedChronosBolt, CompressedT5ForConditionalGeneration


class _Saving:
    """What every flowrank pipeline has beside chronos-forecasting's verbs."""

    inner_model: PreTrainedModel
    name: str = "in memory"
    recipe: dict[str, Any] | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether the attention layers have widths of their own."""
        return isinstance(self.inner_model.config, CompressedT5Config)

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
        config = self.inner_model.config
        if self.is_compressed:
            config.chronos_pipeline_class = type(self).__name__
        config.dtype = self.inner_model.dtype
        weights = self.inner_model.state_dict()
        if file_dtype is not None:
            weights = _cast(weights, file_dtype)
        self.inner_model.save_pretrained(folder, state_dict=weights)
        (folder / "README.md").write_text(model_card(self.name, self.inner_model, self.recipe), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o666 & ~current_umask())
        if self.recipe is not None:
            (folder / RECIPE).write_text(json.dumps(self.recipe, indent=2) + "\n", encoding="utf-8")


def _cast(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights in another type; those that shared their memory share it still."""
    places = {name: (one.data_ptr(), one.shape) for name, one in weights.items() if one.is_floating_point()}
    cast = {places[name]: one.to(dtype) for name, one in weights.items() if name in places}
    return {name: cast[places[name]] if name in places else one for name, one in weights.items()}


class FlowrankBoltPipeline(_Saving, ChronosBoltPipeline):
    """A Chronos-Bolt pipeline, dense or compressed."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a Bolt model from a hub id or a folder, after checking its files."""
        checkpoint = Checkpoint.find(pretrained_model_name_or_path, revision=kwargs.pop("revision", None))
        compressed = isinstance(checkpoint.config, CompressedT5Config)
        model_class = CompressedChronosBolt if compressed else ChronosBoltModelForForecasting
        pipeline = cls(model=checkpoint.open(model_class, *args, **kwargs))
        pipeline.name, pipeline.recipe = checkpoint.name, checkpoint.recipe
        return pipeline


class FlowrankT5Pipeline(_Saving, ChronosPipeline):
    """A Chronos-T5 pipeline, dense or compressed."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a Chronos-T5 model from a hub id or a folder, after checking its files."""
        checkpoint = Checkpoint.find(pretrained_model_name_or_path, revision=kwargs.pop("revision", None))
        compressed = isinstance(checkpoint.config, CompressedT5Config)
        model_class = CompressedT5ForConditionalGeneration if compressed else T5ForConditionalGeneration
        model = checkpoint.open(model_class, *args, **kwargs)
        pipeline = cls.around(model)
        pipeline.name, pipeline.recipe = checkpoint.name, checkpoint.recipe
        return pipeline

    @classmethod
    def around(cls, model: PreTrainedModel) -> FlowrankT5Pipeline:
        """Pipeline for a model in memory, with the tokenizer that its config names."""
        chronos_config = ChronosConfig(**model.config.chronos_config)
        return cls(
            tokenizer=chronos_config.create_tokenizer(),
            model=ChronosModel(config=chronos_config, model=model),
        )
