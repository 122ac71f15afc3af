"""A Chronos-2 that starts from the encoder of a Chronos-Bolt, where the two have the same shapes."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flowrank.errors import FlowrankError

_ATTENTION = "layer.0.SelfAttention"
_OURS = "layer.0.self_attention"
_SAME = {  # within a block: ours, theirs
    "layer.0.layer_norm.weight": "layer.0.layer_norm.weight",
    f"{_OURS}.v.weight": f"{_ATTENTION}.v.weight",
    f"{_OURS}.o.weight": f"{_ATTENTION}.o.weight",
    "layer.2.layer_norm.weight": "layer.1.layer_norm.weight",
    "layer.2.mlp.wi.weight": "layer.1.DenseReluDense.wi.weight",
    "layer.2.mlp.wo.weight": "layer.1.DenseReluDense.wo.weight",
}
_QUERY_AND_KEY = {f"{_OURS}.{name}.weight": f"{_ATTENTION}.{name}.weight" for name in "qk"}
_PATCHES = "input_patch_embedding"
_READS = ("hidden_layer.weight", "residual_layer.weight")  # of [time, values, mask], a Bolt's of [values, mask]
_REST = ("hidden_layer.bias", "residual_layer.bias", "output_layer.weight", "output_layer.bias")


@torch.no_grad()
def take_from_encoder(model: PreTrainedModel, donor: PreTrainedModel, *, queries: bool = True) -> list[str]:
    """Overwrite weights of a Chronos-2 by those of a Chronos-Bolt's encoder, wherever both have one of the same shape.

    Values and outputs of attention over time, feed-forward layers and norms go over block by block; the block that
    embeds patches as a whole, with weight 0 on the time that a Bolt does not read. Attention over groups starts with
    output 0, so that at first each series is read alone. Everything else stays as it is.

    Parameters
    ----------
    model
        Dense Chronos-2 model.
    donor
        Chronos-Bolt model.
    queries
        Whether queries and keys go over too. A Bolt's are made for a position bias, not for a rotation: content is
        matched as before near by, and the less the further away.

    Returns
    -------
    list of str
        Names of the parameters of ``model`` that were overwritten.

    Raises
    ------
    FlowrankError
        If nothing fits.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from flowrank import load
    >>> from flowrank.families.chronos2.training import Chronos2Training
    >>> from chronos.chronos2.model import Chronos2Model
    >>> bolt = load("flow-bolt-mini").inner_model
    >>> shape = {name: getattr(bolt.config, name) for name in ("d_model", "d_kv", "d_ff", "num_heads")}
    >>> recipe = SimpleNamespace(**shape, num_layers=1, dropout_rate=0.0, initializer_factor=1.0, input_patch_size=16,
    ...                          context_length=512, prediction_length=64, quantiles=(0.1, 0.5, 0.9))
    >>> model = Chronos2Model(Chronos2Training().config(recipe))
    >>> "encoder.block.0.layer.2.mlp.wi.weight" in take_from_encoder(model, bolt)
    True
    """
    ours, theirs = dict(model.named_parameters()), dict(donor.named_parameters())
    pairs = {f"{_PATCHES}.{name}": f"{_PATCHES}.{name}" for name in _REST}
    blocks = min(_blocks(ours), _blocks(theirs))
    within = _SAME | (_QUERY_AND_KEY if queries else {})
    for number in range(blocks):
        place = f"encoder.block.{number}."
        pairs |= {place + mine: place + other for mine, other in within.items()}
    pairs["encoder.final_layer_norm.weight"] = "encoder.final_layer_norm.weight"
    taken = []
    if not {f"encoder.block.0.{_ATTENTION}.v.weight", f"{_PATCHES}.hidden_layer.weight"} <= set(theirs):
        raise _misfit(donor)  # a norm or two of a like name would help nobody
    for mine, other in pairs.items():
        if mine in ours and other in theirs and ours[mine].shape == theirs[other].shape:
            ours[mine].copy_(theirs[other])
            taken.append(mine)
    taken += _take_patches(ours, theirs)
    if not taken:
        raise _misfit(donor)
    for number in range(blocks):
        ours[f"encoder.block.{number}.layer.1.self_attention.o.weight"].zero_()
    return taken


def _misfit(donor: PreTrainedModel) -> FlowrankError:
    return FlowrankError(
        "grown_from",
        expected="a Chronos-Bolt model with the same widths: d_model, d_ff, or num_heads and d_kv",
        found=type(donor).__name__,
        todo="pass its widths as those of the new model",
    )


def _blocks(parameters: dict[str, torch.nn.Parameter]) -> int:
    """Number of blocks of the encoder."""
    return len({name.split(".")[2] for name in parameters if name.startswith("encoder.block.")})


def _take_patches(ours: dict[str, torch.nn.Parameter], theirs: dict[str, torch.nn.Parameter]) -> list[str]:
    """Copy what reads values and masks; what reads time is 0."""
    taken = []
    for name in (f"{_PATCHES}.{one}" for one in _READS):
        mine, other = ours[name], theirs.get(name)
        if other is not None and mine.shape == (len(other), other.shape[1] // 2 * 3):
            mine.copy_(_behind_time(other))
            taken.append(name)
    return taken


def _behind_time(weight: Tensor) -> Tensor:
    """Columns for values and mask, with as many for time before them."""
    return torch.cat([torch.zeros(len(weight), weight.shape[1] // 2, dtype=weight.dtype), weight], dim=1)
