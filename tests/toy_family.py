"""A model family in one file: a small encoder with rotary positions, of which `flowrank` knows nothing.

What is here is all that a family needs to be analysed, compressed, saved, opened again and served.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from flowrank.anatomy import Anatomy, Attention, Block, Ends, Mlp, Positions, Projection, Sublayer
from flowrank.engine.paths import Inference
from flowrank.errors import FlowrankError
from flowrank.family import Family, FlowrankPipeline, pad_left
from flowrank.nn.config import NarrowConfig
from flowrank.nn.factored import linear
from flowrank.nn.narrowed import NarrowModel
from flowrank.nn.shapes import KEY

BASE = 100.0


class ToyConfig(PreTrainedConfig):
    model_type = "toy"

    def __init__(
        self, d_model=24, heads=3, d_kv=8, layers=2, d_ff=40, patch=4, horizon=8, activation="relu", **kwargs
    ) -> None:
        if activation != "relu":
            raise ValueError(f"activation: expected 'relu', found {activation!r}")
        self.d_model, self.heads, self.d_kv, self.layers, self.d_ff = d_model, heads, d_kv, layers, d_ff
        self.patch, self.horizon, self.activation = patch, horizon, activation
        self.hidden_size, self.num_attention_heads = d_model, heads
        super().__init__(**kwargs)


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (B, h, L, width): planes are features p and p + width / 2."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] * BASE ** (-torch.arange(half) / half)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * angles.cos() - right * angles.sin(), left * angles.sin() + right * angles.cos()], dim=-1)


class ToyAttention(nn.Module):
    """Heads of one width of queries and keys, and each with its own of values."""

    def __init__(self, config, shape=None) -> None:
        super().__init__()
        every = range(config.heads)
        self.active = list(every) if shape is None else [h for h in every if shape.d_vo[h]]
        self.value_widths = tuple(config.d_kv if shape is None else shape.d_vo[h] for h in self.active)
        self.width = config.d_kv
        ranks = {} if shape is None else shape.ranks
        inner = self.width * len(self.active)
        self.q_proj = linear(config.d_model, inner, ranks.get("q"))
        self.k_proj = linear(config.d_model, inner, ranks.get("k"))
        self.v_proj = linear(config.d_model, sum(self.value_widths), ranks.get("v"))
        self.out_proj = linear(sum(self.value_widths), config.d_model, ranks.get("o"))

    def forward(self, x, mask):
        batch, length, _ = x.shape
        if not self.active:
            return torch.zeros_like(x), None
        q, k = (one(x).view(batch, length, len(self.active), -1).transpose(1, 2) for one in (self.q_proj, self.k_proj))
        scores = turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(self.width)
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)
        values = self.v_proj(x).split(self.value_widths, dim=-1)
        read = torch.cat([weights[:, head] @ value for head, value in enumerate(values)], dim=-1)
        return self.out_proj(read), weights


class ToyMlp(nn.Module):
    def __init__(self, config, shape=None) -> None:
        super().__init__()
        width, ranks = (config.d_ff, {}) if shape is None else (shape.width, shape.ranks)
        self.up_proj = linear(config.d_model, width, ranks.get("up_proj"))
        self.down_proj = linear(width, config.d_model, ranks.get("down_proj"))

    def forward(self, x):
        return self.down_proj(self.up_proj(x).relu())


class Half(nn.Module):
    """A sublayer around the stream."""

    def __init__(self, config, layer) -> None:
        super().__init__()
        self.norm, self.layer = nn.RMSNorm(config.d_model), layer

    def forward(self, x, *mask):
        update = self.layer(self.norm(x), *mask)
        return x + (update[0] if isinstance(update, tuple) else update)


class ToyBlock(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.attention, self.mlp = Half(config, ToyAttention(config)), Half(config, ToyMlp(config))

    def forward(self, x, mask):
        return self.mlp(self.attention(x, mask))


class ToyModel(PreTrainedModel):
    """Patches in, the horizon out, both in units of the context's spread."""

    config_class = ToyConfig

    def __init__(self, config) -> None:
        super().__init__(config)
        self.embed = nn.Linear(2 * config.patch, config.d_model, bias=False)
        self.blocks = nn.ModuleList(ToyBlock(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.horizon, bias=False)
        self.post_init()

    def _init_weights(self, module) -> None:
        if isinstance(module, nn.Linear) and module.weight.numel():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)

    def tokens(self, context):
        patch = self.config.patch
        context = nn.functional.pad(context, (-context.shape[1] % patch, 0), value=torch.nan)
        patches = context.unflatten(1, (-1, patch))
        seen = ~patches.isnan()
        return torch.cat([patches.nan_to_num(), seen.to(patches)], dim=-1), seen.any(dim=-1)

    def forward(self, context):
        scale = context.nan_to_num().abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
        x, mask = self.tokens(context / scale)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x[:, -1])) * scale


class NarrowToyConfig(NarrowConfig, ToyConfig):
    model_type = "flowrank_toy"
    family, tripwire = "toy", "activation"

    def __init__(self, flowrank=None, **kwargs) -> None:
        self.flowrank = flowrank
        super().__init__(**kwargs)


class NarrowToy(NarrowModel, ToyModel):
    config_class = NarrowToyConfig

    def narrow_attention(self, layer, shape, name):
        return ToyAttention(self.config, shape.check(self.config.heads, where=name))

    def narrow_mlp(self, layer, shape, name):
        return ToyMlp(self.config, shape.check(("up_proj", "down_proj"), where=name))


class ToyPipeline(FlowrankPipeline):
    def __init__(self, model) -> None:
        self.inner_model, self.inference = model, Inference(None)

    @torch.no_grad()
    def predict(self, inputs, prediction_length=None):
        """Forecast (series, H)."""
        steps = prediction_length or self.inner_model.config.horizon
        if steps > self.inner_model.config.horizon:
            raise FlowrankError("prediction_length", expected=f"at most {self.inner_model.config.horizon}", found=steps)
        return self.inner_model(pad_left(list(inputs), self.inner_model.device))[:, :steps]


class Toy(Family):
    name = "toy"
    config_class, stock_config_class, pipeline_class = NarrowToyConfig, ToyConfig, ToyPipeline

    @classmethod
    def has(cls, model):
        return isinstance(model, ToyModel)

    @classmethod
    def owns(cls, raw):
        return super().owns(raw) or (raw.get("model_type") == "toy" and KEY not in raw)

    @classmethod
    def model_class(cls, config):
        return NarrowToy if isinstance(config, NarrowToyConfig) else ToyModel

    @classmethod
    def anatomy_of(cls, model):
        config = model.config
        half = config.d_kv // 2
        positions = Positions("rotary", frequencies=tuple(BASE ** (-plane / half) for plane in range(half)))
        blocks = []
        for number, block in enumerate(model.blocks):
            place = f"blocks.{number}"
            layer, mlp, name = block.attention.layer, block.mlp.layer, f"{place}.attention.layer"
            attention = Attention(
                name,
                "encoder",
                "self",
                number,
                number,
                layer,
                *(
                    Projection(getattr(layer, one), f"{name}.{one}")
                    for one in ("q_proj", "k_proj", "v_proj", "out_proj")
                ),
                active=tuple(layer.active),
                query_widths=(layer.width,) * len(layer.active),
                value_widths=layer.value_widths,
                d_model=config.d_model,
                all_heads=config.heads,
                d_kv=config.d_kv,
                positions=positions,
                scale=layer.width**-0.5,
            )
            feed_forward = Mlp(
                f"{place}.mlp.layer", "encoder", number, number, config.d_model, ("up_proj",), "down_proj", None, mlp
            )
            halves = (
                Sublayer("self", block.attention.norm, attention=attention, name=f"{place}.attention"),
                Sublayer("mlp", block.mlp.norm, mlp=feed_forward, name=f"{place}.mlp"),
            )
            blocks.append(Block("encoder", number, block, halves))
        return Anatomy(tuple(blocks), Ends())

    def sources(self):
        return [self.model.embed]

    def context_tokens(self, points):
        return -(-points // self.model.config.patch)

    def run(self, contexts, encoded=None):
        return self.model(pad_left(contexts, self.model.device))

    def probe(self, contexts, generator):
        """Squared error: its Gauss-Newton matrix is that of the outputs, in units of each context."""
        forecast = self.run(contexts)
        signs = torch.randint(0, 2, forecast.shape, generator=generator) * 2 - 1
        return (signs * forecast).sum()

    def attention_mask(self, contexts):
        return self.model.tokens(pad_left(contexts, self.model.device))[1]
