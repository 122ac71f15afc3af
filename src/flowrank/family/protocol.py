"""What a model family is: one class that says how its models are read, run, made smaller, counted and served.

A family has parts that hold for all its models (class methods), and is a view of one pipeline (an instance). Only
`Family.has` and `Family.anatomy_of` must be there: with them its models can be analysed. What else a family can do
depends on what it implements; the rest is refused by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.anatomy import Anatomy, Attention, Mlp, Vocabulary
from flowrank.cost import Pass, Workload
from flowrank.engine.paths import Engine
from flowrank.errors import FlowrankError
from flowrank.family.attention import explicit_attention
from flowrank.family.copies import private_copy
from flowrank.family.training import Training
from flowrank.nn.config import NarrowConfig, upgraded
from flowrank.nn.shapes import KEY, AttentionShape, MlpShape, Shapes


class Family(ABC):
    """View of a pipeline of one model family.

    Parameters
    ----------
    pipeline
        Has the Hugging Face model as ``inner_model``.

    Attributes
    ----------
    name
        How configs and errors call the family.
    config_class, stock_config_class
        Of its smaller models, and of its stock ones.
    pipeline_class
        What `flowrank.load` returns for it.
    engine_class
        Its exact engine; None: the stock code path is all there is.
    calibration_series
        How many series a search for the smallest model calibrates on, unless told.
    training
        How its models are trained; None: they are not.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[NarrowConfig] | None] = None
    stock_config_class: ClassVar[type[PreTrainedConfig]] = PreTrainedConfig
    pipeline_class: ClassVar[Any] = None
    engine_class: ClassVar[type[Engine] | None] = None
    calibration_series: ClassVar[int] = 512
    training: ClassVar[Training | None] = None

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    # What holds for all models of the family.

    @classmethod
    @abstractmethod
    def has(cls, model: nn.Module) -> bool:
        """Whether a model in memory is of this family."""

    @classmethod
    @abstractmethod
    def anatomy_of(cls, model: nn.Module) -> Anatomy:
        """Layers of a model of this family."""

    @classmethod
    def owns(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a ``config.json`` is of a model of this family; of smaller ones, if it names the family."""
        shapes = raw.get(KEY)
        return isinstance(shapes, Mapping) and shapes.get("family") == cls.name

    @classmethod
    def read_config(cls, raw: Mapping[str, Any], **kwargs: Any) -> Any:
        """Config of a model of this family from what stands in ``config.json``; keywords as of ``from_dict``."""
        plain = upgraded(dict(raw))
        config_class = cls._narrow_config_class() if KEY in plain else cls.stock_config_class
        return config_class.from_dict(plain, **kwargs)

    @classmethod
    def model_class(cls, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """Class of the model of a config."""
        raise cls.lacks("opening models")

    @classmethod
    def narrowed_config(cls, parent: PreTrainedConfig, shapes: Shapes) -> NarrowConfig:
        """A config with these sizes of layers in place of its own, layer by layer."""
        raw = parent.to_dict()
        for key in ("model_type", "architectures", KEY):
            raw.pop(key, None)
        made = Shapes.of(parent).updated(shapes)
        raw[KEY] = made.to_dict()
        return cls._narrow_config_class()(**raw)

    @classmethod
    def pipeline_of(cls, model: PreTrainedModel) -> Any:
        """Pipeline for a model in memory."""
        if cls.pipeline_class is None:
            raise cls.lacks("forecasts")
        return cls.pipeline_class(model)

    @classmethod
    def passes(
        cls, config: PreTrainedConfig, workload: Workload, *, exact: bool, itemsize: int, cross_cache: str = "auto"
    ) -> Iterator[Pass]:
        """What a forecast passes through, for counting its cost.

        Parameters
        ----------
        config
            Of a model, dense or smaller.
        workload
            What is forecast.
        exact
            Whether by the exact engine, or by the stock code path.
        itemsize
            Bytes a number.
        cross_cache
            What cross-attention keeps, as of the exact engine.
        """
        raise cls.lacks("a cost model")

    @classmethod
    def kept_from_int8(cls, model: nn.Module) -> set[str]:
        """Names of layers that stay as they are when a model becomes one of 8-bit integers."""
        return set()

    @classmethod
    def layer_kind(cls, layer: Attention | Mlp | Vocabulary) -> str:
        """What runs alike: layers of one sort in one stack, by the names of a latency model."""
        if isinstance(layer, Vocabulary):
            return "vocabulary"
        if isinstance(layer, Attention):
            apart = {"cross": "cross-attention", "group": "group attention"}
            return apart.get(layer.kind, f"{layer.stack} attention")
        return f"{layer.stack} feed-forward" if layer.kind == "mlp" else "patch blocks"

    @classmethod
    def usual_horizon(cls, config: PreTrainedConfig) -> int:
        """H, the steps ahead for which a model is measured and timed unless told."""
        given: Any = config
        return int(given.chronos_config["prediction_length"])

    @classmethod
    def lacks(cls, capability: str) -> FlowrankError:
        """The refusal of what this family cannot do."""
        return FlowrankError(
            "model",
            expected=f"a family of models that has {capability}",
            found=f"{cls.name}, which has none",
            todo="see the table of families and capabilities in the README",
        )

    @classmethod
    def _narrow_config_class(cls) -> type[NarrowConfig]:
        if cls.config_class is None:
            raise cls.lacks("smaller models")
        return cls.config_class

    @classmethod
    def explicit(cls, model: nn.Module, *, gradients: bool = False) -> AbstractContextManager[None]:
        """Within the block a model computes its attention weights, in eval mode, and its own weights are frozen."""
        return explicit_attention(model, gradients=gradients)

    # What a view of one pipeline knows.

    @property
    def model(self) -> Any:
        """The Hugging Face model inside the pipeline (a `PreTrainedModel`; its parts differ from family to family)."""
        return self.pipeline.inner_model

    def private(self) -> Family:
        """A view of a model of the same tensors that nobody else runs, so that hooks on it disturb no forecast."""
        return type(self)(self.pipeline_of(private_copy(self.model)))

    @cached_property
    def anatomy(self) -> Anatomy:
        """Layers of the model."""
        return self.anatomy_of(self.model)

    @property
    def attention(self) -> list[Attention]:
        """Every attention layer, in the order of computation."""
        return self.anatomy.attention

    @property
    def sites(self) -> list[Attention]:
        """Those that have a head left."""
        return [site for site in self.attention if site.heads]

    @property
    def mlps(self) -> list[Mlp]:
        """Every feed-forward layer and residual block, in the order of computation."""
        return self.anatomy.mlps

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The model's tokens, where it has any worth a factorisation."""
        return self.anatomy.vocabulary

    @property
    def input_step(self) -> float | None:
        """The smallest difference that its input can show, as a share of a series' mean magnitude; None: any."""
        return None

    @property
    def sample_paths(self) -> int | None:
        """S, the paths that a forecast draws unless told; None: the model gives quantiles."""
        return None

    @property
    def reads_groups(self) -> bool:
        """Whether it reads several series together (`flowrank.family.SeriesGroup`), as its pipeline says."""
        return bool(getattr(self.pipeline, "takes_groups", False))

    def univariate_layers(self) -> tuple[Shapes, dict[str, dict[str, Tensor]]]:
        """Sizes and tensors of layers that let the model read single series alone, with the same forecasts of them."""
        raise self.lacks("models for single series (univariate=True), as its models read nothing else")

    def sources(self) -> list[nn.Module]:
        """The modules whose outputs enter the stacks: gradients of a measurement begin there."""
        raise self.lacks("a calibration pass")

    def context_tokens(self, points: int) -> int:
        """L, the tokens that a context of so many points becomes."""
        raise self.lacks("a calibration pass")

    def decoder_tokens(self, points: int) -> int:
        """Tokens that the decoder reads when the model runs on a series of so many points; none without a decoder."""
        return 0

    def probe(self, contexts: Sequence[Any], generator: torch.Generator) -> Float[Tensor, ""]:
        """Run the model on series (1-D, NaN = missing; or groups, if it reads those) and return a random scalar.

        Its gradient g satisfies E[g gᵀ] = the Gauss-Newton matrix of the family's own training loss, summed over the
        series, when the parent's forecasts are taken as the truth. So one backward pass measures what a small change
        anywhere costs.
        """
        raise self.lacks("a calibration pass")

    def run(self, contexts: Sequence[Any], encoded: Float[Tensor, "batch tokens d"] | None = None) -> Tensor:
        """Run the model on series: what it forecasts them by, quantiles or logits, whose first axis is the series.

        ``encoded`` is what the encoder gives, where it is known already: it is not run then.
        """
        raise self.lacks("a calibration pass")

    def step_quantiles(
        self, contexts: Sequence[Tensor], futures: Float[Tensor, "batch horizon"], levels: Sequence[float]
    ) -> Float[Tensor, "batch horizon levels"]:
        """Quantiles of every step of a model that draws paths, given the true values before that step: without chance.

        Parameters
        ----------
        contexts
            Series (time,), NaN = missing.
        futures
            What followed each, NaN = missing or unknown.
        levels
            Quantile levels.

        Returns
        -------
        Tensor
            fp64, on the CPU, in the units of the contexts.
        """
        raise self.lacks("quantiles step by step, as its models draw no paths")

    def skipped(self, layer: nn.Module, stream: Float[Tensor, "batch tokens d"], kwargs: Mapping[str, Any]) -> Any:
        """What a layer of the stream returns, called with ``kwargs``, whose output ``stream`` is known already.

        None: it has to run, since more of it is needed than its output, or nobody knows what it returns.
        """
        return None

    def attention_mask(self, contexts: Sequence[Any]) -> Bool[Tensor, "batch tokens"]:
        """Which of the encoder's tokens are no padding when series are run together."""
        raise self.lacks("a calibration pass")

    def observed(
        self, site: Attention, kwargs: Mapping[str, Any], result: Any
    ) -> tuple[Float[Tensor, "batch heads queries keys"], Tensor | None]:
        """Attention weights that a layer gave, and what was added to its scores (position bias and mask).

        Parameters
        ----------
        site
            The layer.
        kwargs, result
            Keyword arguments of its forward and what it returned, with attention computed explicitly.

        Returns
        -------
        weights, bias
            None for the bias: whoever needs it gets it back from the weights.
        """
        weights = [one for one in result if isinstance(one, Tensor) and one.ndim == 4]
        return weights[-1].detach(), None

    @contextmanager
    def instrumented(self, *, gradients: bool) -> Iterator[None]:
        """Within the block attention weights are computed explicitly and activations, not weights, carry gradients.

        For a view of a model of one's own (`private`): forecasts of the same model meanwhile would be disturbed.
        """
        hooks = [
            module.register_forward_hook(lambda _m, _i, output: output.requires_grad_(gradients))
            for module in self.sources()
        ]
        try:
            with self.explicit(self.model, gradients=gradients):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def shapes_of(anatomy: Anatomy) -> Shapes:
    """Sizes of all layers of a model, dense ones too."""
    attention = {site.name: shape_of(site) for site in anatomy.attention}
    mlp = {one.name: MlpShape(one.width, _ranks(one.linears)) for one in anatomy.mlps}
    vocabulary = {}
    if anatomy.vocabulary is not None:
        vocabulary = _ranks({"embedding": anatomy.vocabulary.embedding, "head": anatomy.vocabulary.head})
    return Shapes(attention, mlp, vocabulary)


def shape_of(site: Attention) -> AttentionShape:
    """Sizes of an attention layer as it is."""
    widths = {"qk": [0] * site.all_heads, "vo": [0] * site.all_heads}
    for head, query, value in zip(site.active, site.query_widths, site.value_widths, strict=True):
        widths["qk"][head], widths["vo"][head] = query, value
    planes: list[tuple[int, ...]] = [()] * site.all_heads
    for head, some in zip(site.active, site.planes, strict=False):
        planes[head] = some
    ranks = _ranks({letter: one.module for letter, one in site.projections.items()})
    turning = tuple(planes) if site.planes else ()
    return AttentionShape(tuple(widths["qk"]), tuple(widths["vo"]), ranks, turning, site.merged)


def _ranks(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    return {name: int(layer.rank) for name, layer in layers.items() if hasattr(layer, "rank")}  # type: ignore[arg-type]


def pad_left(contexts: Sequence[Tensor], device: torch.device) -> Float[Tensor, "batch time"]:
    """Stack series of different lengths, with NaN on the left."""
    length = max(len(context) for context in contexts)
    batch = torch.full((len(contexts), length), torch.nan, device=device)
    for row, context in zip(batch, contexts, strict=True):
        row[length - len(context) :] = context.to(device=device, dtype=torch.float32)
    return batch
