"""The pipelines that `flowrank.load` returns: chronos-forecasting's own verbs, faster, with saving and provenance."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from chronos import ChronosBoltPipeline, ChronosConfig, ChronosModel, ChronosPipeline
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor
from transformers import PreTrainedModel, T5ForConditionalGeneration

from flowrank.cost import fastest_dtype
from flowrank.errors import FlowrankError, check_count
from flowrank.files import atomic_folder
from flowrank.inference.bolt import BoltEngine
from flowrank.inference.engines import Inference, check_budget, check_engine
from flowrank.inference.sampling import Sampling, series_keys
from flowrank.inference.t5 import T5Engine
from flowrank.models.card import model_card
from flowrank.models.checkpoint import MODEL_FILES, RECIPE, Checkpoint
from flowrank.models.config import CompressedT5Config
from flowrank.models.embedded import DEFAULT
from flowrank.models.quantized import quantized_layers
from flowrank.models.t5 import CompressedChronosBolt, CompressedT5ForConditionalGeneration


class _Beside:
    """What every flowrank pipeline has beside chronos-forecasting's verbs.

    Attributes
    ----------
    inference
        How the model is computed: its ``name``, ``memory_budget`` and, for Chronos-T5, ``cross_cache``.
    """

    inner_model: PreTrainedModel
    inference: Inference
    name: str = "in memory"
    recipe: dict[str, Any] | None = None

    @property
    def engine(self) -> str:
        """The code path: "exact" (`flowrank.inference`) or "stock" (chronos-forecasting's and transformers' own).

        Both compute the same model; pipelines start with "exact".
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
        for file in folder.iterdir():  # safetensors' own are for their owner alone
            shutil.copymode(folder / "README.md", file)
        if self.recipe is not None:
            (folder / RECIPE).write_text(json.dumps(self.recipe, indent=2) + "\n", encoding="utf-8")


def _cast(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights in another type; those that shared their memory share it still."""
    places = {name: (one.data_ptr(), one.shape) for name, one in weights.items() if one.is_floating_point()}
    cast = {places[name]: one.to(dtype) for name, one in weights.items() if name in places}
    return {name: cast[places[name]] if name in places else one for name, one in weights.items()}


class FlowrankBoltPipeline(_Beside, ChronosBoltPipeline):
    """A Chronos-Bolt pipeline, dense or compressed."""

    def __init__(self, model: ChronosBoltModelForForecasting) -> None:
        super().__init__(model)
        self.inference = Inference(BoltEngine)

    @property
    def path(self) -> str:
        """The code path that the next forecast takes: "stock" where that is wanted, or the only one that can."""
        return self.inference.path_for(self.model)

    def predict(
        self, inputs: Any, prediction_length: int | None = None, limit_prediction_length: bool = False
    ) -> Tensor:
        """Forecast quantiles, as ``ChronosBoltPipeline.predict`` does.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN-padded on the left.
        prediction_length
            H; None: the model's own. What lies beyond is forecast in blocks, each for every quantile of the last.
        limit_prediction_length
            Whether to refuse what lies beyond.

        Returns
        -------
        Tensor
            Shape (series, quantiles, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If ``prediction_length`` is no count, or larger than allowed.
        """
        engine = self.inference.engine_for(self.model)
        context = self._prepare_and_validate_context(context=inputs)[..., -self.model_context_length :]
        nothing = context.isnan().all(dim=1).any() and not self.model.chronos_config.use_reg_token
        if engine is None or nothing:  # what sees nothing at all is the stock code's affair
            return super().predict(inputs, prediction_length, limit_prediction_length)
        reach = self.model_prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length", least=0)
        if horizon > reach:
            _beyond(horizon, reach, limit_prediction_length)
        context = context.to(device=self.model.device, dtype=torch.float32)
        blocks = [engine.quantiles(context, memory_budget=self.memory_budget)]
        if horizon > reach:
            context = context[:, None].expand(-1, len(self.quantiles), -1)
        levels = torch.tensor(self.quantiles, device=context.device)
        while len(blocks) * reach < horizon:
            # Every quantile goes on as a series of its own; the quantiles of all of theirs are the block's.
            context = torch.cat([context, blocks[-1]], dim=-1)[..., -self.model_context_length :]
            ahead = engine.quantiles(context.flatten(0, 1), memory_budget=self.memory_budget)
            ahead = ahead.unflatten(0, context.shape[:2]).flatten(1, 2)
            blocks.append(ahead.quantile(levels, dim=1).transpose(0, 1))
        forecast = torch.cat(blocks, dim=-1)[..., :horizon]
        return forecast.to(dtype=torch.float32, device="cpu")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a Bolt model from a hub id or a folder, after checking its files."""
        checkpoint = Checkpoint.find(pretrained_model_name_or_path, revision=kwargs.pop("revision", None))
        compressed = isinstance(checkpoint.config, CompressedT5Config)
        model_class = CompressedChronosBolt if compressed else ChronosBoltModelForForecasting
        pipeline = cls(model=checkpoint.open(model_class, *args, **kwargs))
        pipeline.name, pipeline.recipe = checkpoint.name, checkpoint.recipe
        return pipeline


class FlowrankT5Pipeline(_Beside, ChronosPipeline):
    """A Chronos-T5 pipeline, dense or compressed."""

    def __init__(self, tokenizer: Any, model: ChronosModel) -> None:
        super().__init__(tokenizer, model)
        self.inference = Inference(T5Engine)

    @property
    def path(self) -> str:
        """The code path that the next forecast takes: "stock" where that is wanted, or the only one that can."""
        return self.inference.path_for(self.model.model)

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        num_samples: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit_prediction_length: bool = False,
    ) -> Tensor:
        """Draw sample paths, as ``ChronosPipeline.predict`` does; None: what the model's config says.

        With the exact engine a series' paths depend on its values and on the state of torch's generator
        (``torch.manual_seed``) alone, not on the batch that it comes in. Equal series have equal paths.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN-padded on the left.
        prediction_length
            H. What lies beyond the model's own horizon is forecast in blocks, each after the median of the last.
        num_samples
            S, paths a series.
        temperature, top_k, top_p
            Of sampling, see `flowrank.inference.Sampling`.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.

        Returns
        -------
        Tensor
            Shape (series, S, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If a number makes no sense, or the horizon is larger than allowed.
        """
        engine = self.inference.engine_for(self.model.model)
        context = self._prepare_and_validate_context(context=inputs)
        config = self.model.config
        unseen = context[..., -config.context_length :].isnan().all(dim=1).any() and not config.use_eos_token
        if engine is None or unseen:  # what sees nothing at all is the stock code's affair
            return super().predict(
                inputs, prediction_length, num_samples, temperature, top_k, top_p, limit_prediction_length
            )
        reach = config.prediction_length
        horizon = reach if prediction_length is None else check_count(prediction_length, "prediction_length")
        if horizon > reach:
            _beyond(horizon, reach, limit_prediction_length)
        paths = check_count(config.num_samples if num_samples is None else num_samples, "num_samples")
        sampling = Sampling(
            temperature=config.temperature if temperature is None else temperature,
            top_k=config.top_k if top_k is None else top_k,
            top_p=config.top_p if top_p is None else top_p,
            forbidden=config.eos_token_id,
        )
        first, seed = context[..., -config.context_length :], int(torch.randint(2**62, ()))
        blocks: list[Tensor] = []
        while (done := len(blocks) * reach) < horizon:
            tokens, mask, scale = self.tokenizer.context_input_transform(context)
            drawn = engine.sample(
                tokens.to(self.model.device),
                mask.to(self.model.device),
                steps=min(horizon - done, reach),
                paths=paths,
                sampling=sampling,
                keys=series_keys(first, seed, block=len(blocks)),
                memory_budget=self.memory_budget,
                cross_cache=self.inference.cross_cache,
            )
            blocks.append(self.tokenizer.output_transform(drawn.to(scale.device), scale))
            context = torch.cat([context, blocks[-1].median(dim=1).values], dim=-1)
        return torch.cat(blocks, dim=-1).to(dtype=torch.float32, device="cpu")

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
        return cls(chronos_config.create_tokenizer(), ChronosModel(config=chronos_config, model=model))


Pipeline = FlowrankBoltPipeline | FlowrankT5Pipeline
"""What `load` returns."""


def _beyond(horizon: int, reach: int, refuse: bool) -> None:
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
        stacklevel=3,
    )


def load(
    source: str | Path = DEFAULT,
    *,
    device_map: Any = "cpu",
    dtype: Any = "auto",
    revision: str | None = None,
    engine: str = "exact",
    memory_budget: int | None = None,
) -> Pipeline:
    """Open a Chronos-T5 or Chronos-Bolt model, dense or compressed.

    Parameters
    ----------
    source
        A hub id (``"amazon/chronos-bolt-small"``), a folder, or the name of an embedded model.
    device_map
        Where the weights go: ``"cpu"``, ``"cuda"``, ``"auto"`` or what transformers accepts.
    dtype
        ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ``"float16"``, a torch dtype, or ``"fastest"``: bfloat16
        where a short measurement finds that the device multiplies it faster, else float32. A model of 8-bit integers
        (`flowrank.quantize`) opens as it is.
    revision
        Commit, branch or tag on the hub.
    engine
        "exact" (fast, the same forecasts) or "stock" (chronos-forecasting's own code path). Also a settable attribute.
    memory_budget
        Bytes for activations and caches of the exact engine; None: 2 GiB on a CPU, half of what is free on a GPU. Also
        a settable attribute.

    Returns
    -------
    FlowrankBoltPipeline or FlowrankT5Pipeline
        A chronos-forecasting pipeline: ``predict``, ``predict_quantiles``, ``predict_df``, ``predict_fev``, ``embed``.

    Raises
    ------
    FlowrankError
        If the source is not there or not such a model, or its weights are absent, truncated or contradict its
        config. Nothing is unpickled and no remote code runs.

    Examples
    --------
    >>> import torch
    >>> pipeline = load("seed-bolt")
    >>> quantiles, mean = pipeline.predict_quantiles([torch.arange(48.0)], prediction_length=12)
    >>> tuple(quantiles.shape), tuple(mean.shape)
    ((1, 12, 9), (1, 12))
    """
    check_engine(engine)
    check_budget(memory_budget)
    checkpoint = Checkpoint.find(source, revision=revision)
    if dtype == "fastest" and quantized_layers(checkpoint.config):
        dtype = "auto"
    if dtype == "fastest":
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = fastest_dtype(device_map if device_map != "auto" and isinstance(device_map, str) else auto)
    bolt = checkpoint.config.chronos_pipeline_class.endswith("BoltPipeline")
    pipeline_class = FlowrankBoltPipeline if bolt else FlowrankT5Pipeline
    pipeline = pipeline_class.from_pretrained(source, device_map=device_map, dtype=dtype, revision=revision)
    pipeline.engine, pipeline.memory_budget = engine, memory_budget
    return pipeline
