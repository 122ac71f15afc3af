"""Configs with sizes of their own for every layer, and how they stand on disk so that nothing else misreads them.

In memory such a config is a subclass of the stock one. In ``config.json`` its ``model_type`` is a sentence that says
what the model needs, and so is one field that the stock class checks: neither transformers' Auto classes nor the stock
class itself can open it without flowrank, which would give forecasts from weights that it misreads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from flowrank.errors import FlowrankError
from flowrank.nn.shapes import KEY, Shapes

SENTENCE = "this model needs flowrank: pip install flowrank; import flowrank"
"""What stands where a program without flowrank looks for the kind of the model."""

_REFUSED = f"{SENTENCE} - then open it with flowrank.load"  # the hyphen makes it an activation function for nobody
_HELD = "held"


class NarrowConfig(PreTrainedConfig):
    """Part of a config class whose ``flowrank`` field holds sizes of layers, see `flowrank.nn.Shapes`.

    Attributes
    ----------
    family
        Name of the model family that reads it.
    tripwire
        Field of the stock config that its class checks: on disk it holds the sentence, its value stands under
        ``flowrank``.
    """

    family: ClassVar[str]
    tripwire: ClassVar[str]

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to ``config.json``."""
        raw = super().to_diff_dict()
        if not raw.get(KEY):
            return raw
        held = {"model_type": self.model_type, self.tripwire: getattr(self, self.tripwire)}
        return {
            **raw,
            "model_type": SENTENCE,
            self.tripwire: _REFUSED,
            KEY: {**raw[KEY], "family": self.family, _HELD: held},
        }

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read what `to_diff_dict` gave, or plain values."""
        raw = upgraded(config_dict)
        shapes = raw.get(KEY)
        if isinstance(shapes, dict) and _HELD in shapes:
            raw |= shapes[_HELD]
            raw[KEY] = {key: value for key, value in shapes.items() if key != _HELD}
        raw.pop("model_type", None)
        found = super().from_dict(raw, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        config.architectures = _OnlyByFlowrank(config.architectures or [cls.__name__])
        return found

    @property
    def shapes(self) -> Shapes:
        """Sizes of the layers that differ."""
        return Shapes.of(self)


class _OnlyByFlowrank(list[str]):
    """Names of classes that no other library has: one that looks one of them up is told so."""

    def __getitem__(self, index: Any) -> Any:
        raise FlowrankError(
            "pipeline",
            expected="flowrank.load, chronos.BaseChronosPipeline.from_pretrained or transformers' AutoModel classes",
            found=f"a loader that looks up the class {list(self)} and knows stock ones only",
            todo=SENTENCE,
        )


def opener(kind: str, read: Callable[..., Any]) -> type[PreTrainedConfig]:
    """A class for transformers' registry that reads configs of a ``model_type`` by a function, of whatever class."""

    class FlowrankConfig(PreTrainedConfig):
        model_type = kind

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            return read(config_dict, **kwargs)

    return FlowrankConfig


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A config of today from one that version 0.1 wrote, which named its fields one by one.

    Examples
    --------
    >>> upgraded({"mlp_shapes": {"layer": {"width": 3, "ranks": {}}}})["flowrank"]["mlp"]
    {'layer': {'width': 3, 'ranks': {}}}
    """
    fields = {"attention": "attention_shapes", "mlp": "mlp_shapes", "vocabulary": "vocabulary_ranks"}
    old = {key: raw[field] for key, field in fields.items() if raw.get(field) is not None}
    integers = raw.get("quantization")
    rest = {key: value for key, value in raw.items() if key not in (*fields.values(), "quantization")}
    if integers is not None:
        layers = integers.get("layers") if isinstance(integers, dict) and integers.get("weights") == "int8" else None
        old["int8"] = layers if layers is not None else integers
    return {**rest, KEY: {"version": 1, **old}} if old else rest


def check_place(config: Any, device_map: Any, dtype: Any) -> None:
    """Refuse to open a model of integers anywhere but on a CPU, or in another type than fp32.

    Raises
    ------
    FlowrankError
        If that was asked for.
    """
    import torch

    if not Shapes.of(config).int8:
        return
    if dtype not in (None, "auto", torch.float32):
        raise FlowrankError("dtype", expected="'auto' or 'float32' for a model of 8-bit integers", found=repr(dtype))
    if device_map is not None and str(device_map) != "cpu" and device_map != {"": "cpu"}:
        raise FlowrankError(
            "device_map",
            expected="'cpu' for a model of 8-bit integers",
            found=repr(device_map),
            todo="use the model that it was quantized from, in bfloat16, on a GPU",
        )


def refuse_quantized(model: Any, argument: str, verb: str) -> None:
    """Refuse a model of integers where weights are read or trained.

    Raises
    ------
    FlowrankError
        If it is one.
    """
    if Shapes.of(getattr(model, "config", None)).int8:
        raise FlowrankError(
            argument,
            expected="a model whose weights are floating point",
            found="one of 8-bit integers",
            todo=f"{verb} its parent, then quantize the result",
        )
