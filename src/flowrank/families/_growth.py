"""Growing a trained model: a wider or deeper one, most of it random, that starts with the same forecasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flowrank.errors import FlowrankError

_SAME = ("relative_attention_num_buckets", "relative_attention_max_distance", "rope_theta")
_NO_FEWER = ("num_heads", "num_layers", "num_decoder_layers", "d_kv", "d_ff")
_SAME_OF_CHRONOS = (
    *("context_length", "prediction_length", "input_patch_size", "input_patch_stride", "quantiles", "use_reg_token"),
    *("tokenizer_kwargs", "use_eos_token", "use_arcsinh"),
)


@torch.no_grad()
def grow(
    model: PreTrainedModel, donor: PreTrainedModel, *, vocabulary: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Overwrite the weights of ``model`` so that it computes what ``donor``, which is smaller, computes.

    The residual stream of the donor is repeated side by side until it is as wide as the model's; a root mean square
    does not change by that. What writes to the stream writes the same to all copies; what reads from it has the
    donor's weights spread over the copies, plus random ones that cancel while copies are equal, so that it starts with
    full rank; what writes keeps the donor's rank until training tells the copies apart. New features of a head, new
    heads and new neurons read at random and are not read themselves yet; new layers come last in their stack and write
    nothing yet.

    The idea is that of Net2Net (Chen, Goodfellow & Shlens 2016, arXiv 1511.05641).

    Parameters
    ----------
    model
        Dense model with random weights.
    donor
        Dense model of the same class and patches, no wider in ``d_kv`` and ``d_ff``, with no more heads and layers and
        with a ``d_model`` that divides the model's. Heads that turn with their places (rotary) must be as wide as the
        model's: the angles belong to the width.
    vocabulary
        Makes the rows of the model's token embedding, shape (tokens, donor's d_model), of the donor's. Not given: both
        have the same tokens.

    Raises
    ------
    FlowrankError
        If the two do not fit together.

    Examples
    --------
    >>> from transformers import T5Config, T5Model
    >>> same = {"vocab_size": 8, "dropout_rate": 0.0, "chronos_config": {}}
    >>> small = T5Model(T5Config(d_model=16, d_kv=4, d_ff=16, num_heads=2, num_layers=1, **same)).eval()
    >>> large = T5Model(T5Config(d_model=32, d_kv=8, d_ff=48, num_heads=3, num_layers=2, **same)).eval()
    >>> grow(large, small)
    >>> tokens = torch.arange(8)[None]
    >>> wide, narrow = (one(tokens, decoder_input_ids=tokens).last_hidden_state for one in (large, small))
    >>> bool((wide[..., :16] - narrow).abs().max() < 1e-3)
    True
    """
    _check(model, donor, same_tokens=vocabulary is None)
    copies = model.config.d_model // donor.config.d_model
    heads, d_kv = model.config.num_heads, model.config.d_kv
    old_heads = donor.config.num_heads
    weights, old = model.state_dict(), donor.state_dict()
    for name, new in weights.items():
        reads, writes = _axes(name)
        if name not in old:
            if writes == "stream" and reads:
                new.zero_()  # a layer that the donor does not have
            continue
        value = old[name].double()
        if reads == "copies" and vocabulary is not None:
            value = vocabulary(value)
        spread = value.std() / copies**0.5 if value.ndim > 1 and ".k." not in name else torch.zeros(())
        if reads == "stream":
            value = _shared(value, copies)
        elif reads == "copies":
            value = value.repeat(1, copies)
        elif reads == "features":
            by_head = _pad(value.unflatten(1, (old_heads, -1)), d_kv).flatten(1)
            value = _pad(by_head, heads * d_kv)
        elif reads == "neurons":
            value = _pad(value, new.shape[1])
        elif reads == "heads":
            value = _pad(value, heads)
        if writes == "stream":
            value = value.repeat(copies, *(1,) * (value.ndim - 1))
        elif writes == "features":
            by_head = value.unflatten(0, (old_heads, -1)).transpose(0, 1)
            value = _extended(by_head, d_kv, spread).transpose(0, 1).flatten(0, 1)
            value = _extended(value, heads * d_kv, value.std())
        elif writes == "neurons":
            value = _extended(value, len(new), spread)
        if name == "decoder.final_layer_norm.weight" and "lm_head.weight" in weights:
            value = value / copies**0.5  # logits are sums over the stream, divided by √d_model
        new.copy_(value)


_AXES = {  # by module: what the last axis of a matrix reads, and what the first one writes
    **dict.fromkeys(("q", "k", "v"), ("stream", "features")),
    "o": ("features", "stream"),
    "wi": ("stream", "neurons"),
    "wo": ("neurons", "stream"),
    **dict.fromkeys(("layer_norm", "final_layer_norm"), ("", "stream")),
    **dict.fromkeys(("shared", "embed_tokens", "lm_head"), ("copies", "")),
    "input_patch_embedding.hidden_layer": ("", "neurons"),
    "input_patch_embedding.output_layer": ("neurons", "stream"),
    "input_patch_embedding.residual_layer": ("", "stream"),
    "output_patch_embedding.hidden_layer": ("stream", "neurons"),
    "output_patch_embedding.output_layer": ("neurons", ""),
    "output_patch_embedding.residual_layer": ("stream", ""),
    "relative_attention_bias": ("heads", ""),
}


def _axes(name: str) -> tuple[str, str]:
    module, kind = name.rsplit(".", 1)
    reads, writes = _AXES.get(module) or _AXES[module.rsplit(".", 1)[-1]]
    return ("" if kind == "bias" else reads), writes


def _shared(value: Tensor, copies: int) -> Tensor:
    """Weights that read from every copy of the stream: ``value`` in sum over the copies, random elsewhere."""
    noise = torch.randn(copies, *value.shape, dtype=value.dtype) * value.std() / copies
    noise -= noise.mean(dim=0)
    return torch.cat([value / copies + one for one in noise], dim=-1)


def _pad(value: Tensor, width: int) -> Tensor:
    """Zeros behind the last axis."""
    return torch.nn.functional.pad(value, (0, width - value.shape[-1]))


def _extended(value: Tensor, rows: int, spread: Tensor) -> Tensor:
    """Random rows behind the first axis."""
    fresh = torch.randn(rows - len(value), *value.shape[1:], dtype=value.dtype)
    return torch.cat([value, fresh * spread])


def _check(model: PreTrainedModel, donor: PreTrainedModel, *, same_tokens: bool) -> None:
    wide, narrow = model.config, donor.config

    def refuse(expected: str, found: Any) -> None:
        raise FlowrankError("grown_from", expected=expected, found=str(found))

    if type(model) is not type(donor):
        refuse(f"a dense model of the class {type(model).__name__}", type(donor).__name__)
    rotary = any(name.endswith("inv_freq") for name, _ in model.named_buffers())
    same = _SAME + (("vocab_size",) if same_tokens else ()) + (("d_kv",) if rotary else ())
    for name in same:
        ours, theirs = getattr(wide, name, None), getattr(narrow, name, None)
        if ours != theirs:
            refuse(f"a model with {name} = {ours}", theirs)
    for name in _SAME_OF_CHRONOS:
        ours, theirs = (config.chronos_config.get(name) for config in (wide, narrow))
        if ours != theirs:
            refuse(f"a model with {name} = {ours}", theirs)
    for name in _NO_FEWER:
        if getattr(wide, name, 0) < getattr(narrow, name, 0):
            refuse(f"a model with {name} ≤ {getattr(wide, name)}", getattr(narrow, name))
    if wide.d_model % narrow.d_model:
        refuse(f"a model whose d_model divides {wide.d_model}", narrow.d_model)
