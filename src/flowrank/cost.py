"""What a forecast costs before it is run: operations, bytes moved, cache, and the least time a machine needs for it.

Everything follows from the config and the workload. A multiplication and its addition are two operations. Bytes moved
are those that no schedule of the same work avoids while nothing stays in a cache of the processor: each weight once a
pass, keys and values once a query batch, each layer's input and output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowrank.errors import FlowrankError, check_count

if TYPE_CHECKING:
    import torch

_MEASURE_S = 0.25
_LARGE = 1 << 24  # floats of a copy: more than a processor's cache
_BALANCE = 15  # operations that take as long as a byte moved, in fp32: about 15 on processors and 20 on GPUs of today


@dataclass(frozen=True)
class Workload:
    """What is asked of a model.

    Attributes
    ----------
    batch_size, context_length, horizon, num_samples
        B series of T points, H steps ahead, S sample paths each (Chronos-T5 only).
    """

    batch_size: int
    context_length: int
    horizon: int
    num_samples: int = 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(value, name)


@dataclass(frozen=True)
class Part:
    """One stage of a forecast.

    Attributes
    ----------
    name
        "encoder", "cross keys and values", "decoder" or "head".
    flops
        Operations.
    moved
        Bytes.
    """

    name: str
    flops: int
    moved: int


@dataclass(frozen=True)
class Machine:
    """What a machine does at best, as measured.

    Attributes
    ----------
    flops_per_second
        Of a large matrix product.
    bytes_per_second
        Read and written, of a large copy.
    """

    flops_per_second: float
    bytes_per_second: float

    @classmethod
    def measure(cls, device: Any = "cpu", dtype: Any = None) -> Machine:
        """Time a large matrix product and a large copy, for half a second.

        Parameters
        ----------
        device
            Where.
        dtype
            Of the matrices; default: fp32.

        Examples
        --------
        >>> Machine.measure().flops_per_second > 1e8
        True
        """
        import torch

        device, dtype = torch.device(device), dtype or torch.float32
        a, b = (torch.ones(1024, 1024, dtype=dtype, device=device) for _ in range(2))
        product = torch.empty_like(a)
        source = torch.ones(_LARGE, device=device)
        target = torch.empty_like(source)
        with torch.no_grad():
            multiply = _fastest(lambda: torch.mm(a, b, out=product), device)
            copy = _fastest(lambda: target.copy_(source), device)
        return cls(2 * 1024**3 / multiply, 2 * source.nbytes / copy)


def fastest_dtype(device: Any = "cpu") -> torch.dtype:
    """bf16 where the device multiplies it clearly faster than fp32, else fp32: measured, in a second.

    Processors without bf16 instructions compute it more slowly than fp32.

    Examples
    --------
    >>> str(fastest_dtype()) in ("torch.float32", "torch.bfloat16")
    True
    """
    import torch

    single, half = (Machine.measure(device, dtype).flops_per_second for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if half > 1.2 * single else torch.float32


def _fastest(call: Any, device: torch.device) -> float:
    import torch

    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    call()
    best, until = math.inf, time.perf_counter() + _MEASURE_S
    while best == math.inf or time.perf_counter() < until:
        wait()
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class Cost:
    """Cost of one workload.

    Attributes
    ----------
    parts
        Stage by stage.
    cache_self, cache_cross
        Bytes of keys and values held at their most.
    """

    parts: tuple[Part, ...]
    cache_self: int
    cache_cross: int

    @property
    def flops(self) -> int:
        """Operations, all parts."""
        return sum(part.flops for part in self.parts)

    @property
    def moved(self) -> int:
        """Bytes moved, all parts."""
        return sum(part.moved for part in self.parts)

    def floor(self, machine: Machine) -> float:
        """Seconds that the machine needs at least: each part is bound by its operations or by its bytes."""
        return sum(
            max(part.flops / machine.flops_per_second, part.moved / machine.bytes_per_second) for part in self.parts
        )


def cost(model: Any, workload: Workload, *, engine: str | None = None, itemsize: int = 4) -> Cost:
    """Count the cost of forecasting one batch.

    Parameters
    ----------
    model
        A config of a Chronos-T5 or Chronos-Bolt model, dense or compressed, or a pipeline, whose own number type then
        counts.
    workload
        B, T, H and S.
    engine
        "exact" or "stock": which code path is counted. None: the pipeline's own; exact for a config.
    itemsize
        Bytes a number, for a config.

    Raises
    ------
    FlowrankError
        If the model is of another family.

    Notes
    -----
    With P_i the parameters of a layer's matrices, N = B · L context tokens and k_i + v_i its cached features a token,

    * the encoder takes 2 N P_i + 2 B L² (k_i + v_i) operations a layer,
    * exact Chronos-T5 decoding makes cross-attention keys and values for N tokens, stock decoding for N · S;
    * exact Chronos-T5 decodes B + B · S (H − 1) tokens, stock decoding B · S · H;
    * exact Bolt decoding makes no keys and values: a head's query costs k_i d to take to the encoder's space, 4 L d to
      read there, and v_i d to take back.

    Horizons beyond the model's are forecast in blocks, each after the last; their costs add up.

    Examples
    --------
    >>> import flowrank
    >>> workload = Workload(batch_size=8, context_length=512, horizon=64)
    >>> exact, stock = (cost(flowrank.load("flow-t5"), workload, engine=engine) for engine in ("exact", "stock"))
    >>> exact.flops < stock.flops, exact.cache_cross * 20 == stock.cache_cross
    (True, True)
    """
    inner = getattr(model, "inner_model", None)
    cross_cache = "auto"
    if inner is not None:
        engine = engine or getattr(model, "path", "stock")
        cross_cache = getattr(getattr(model, "inference", None), "cross_cache", cross_cache)
        model, itemsize = inner.config, inner.dtype.itemsize
    engine = engine or "exact"
    if engine not in ("exact", "stock"):
        raise FlowrankError("engine", expected="one of exact, stock", found=repr(engine))
    raw = getattr(model, "chronos_config", None)
    if not isinstance(raw, dict) or not hasattr(model, "num_decoder_layers"):
        raise FlowrankError(
            "model",
            expected="the config or pipeline of a Chronos-T5 or Chronos-Bolt model",
            found=type(model).__name__,
            todo="open the model with flowrank.load(…)",
        )
    exact = engine == "exact"
    stacks = _Stacks(model, even=exact)
    if "input_patch_size" in raw:
        return _bolt(stacks, workload, exact, itemsize)
    return _t5(stacks, workload, exact, itemsize, cross_cache)


def prefers_latent(d_model: int, heads: int, features: int, *, tokens: int, paths: int, series: int) -> bool:
    """Whether decoding reads the encoder's output faster than a layer's own keys and values.

    Parameters
    ----------
    d_model, heads, features
        d, h and k + v of the cross-attention layer: what a token of each cache holds is d and k + v.
    tokens, paths, series
        L, S and B.

    Notes
    -----
    A step and series costs 2 S L (k + v) operations on L (k + v) numbers with keys and values, and
    2 S (k + v + 2 h L) d on (L + (k + v) / B) d without. Whichever of operations and bytes takes longer counts.

    Examples
    --------
    >>> dense = {"d_model": 768, "heads": 12, "features": 1536, "tokens": 513, "series": 8}
    >>> prefers_latent(**dense, paths=1), prefers_latent(**dense, paths=20)
    (True, False)
    """
    own = max(2 * paths * tokens * features, _BALANCE * 4 * tokens * features)
    moved = 4 * (tokens + features / series) * d_model
    shared = max(2 * paths * (features + 2 * heads * tokens) * d_model, _BALANCE * moved)
    return shared < own


@dataclass(frozen=True)
class _Layer:
    """Sizes of one attention layer.

    Parameters of its projections, cached features, heads, and features while it attends: every head as its widest.
    """

    q: int
    k: int
    v: int
    o: int
    keys: int
    values: int
    heads: int
    attended: int

    @property
    def parameters(self) -> int:
        return self.q + self.k + self.v + self.o

    @property
    def features(self) -> int:
        return self.keys + self.values


class _Stacks:
    """The layers of a config; ``even``: as the exact engine has them, each head as wide as its layer's widest."""

    def __init__(self, config: Any, even: bool) -> None:
        from flowrank.models.config import LayerNames

        self.config, self.raw, self.even = config, config.chronos_config, even
        self.d = int(config.d_model)
        names = LayerNames.of(config.num_layers, config.num_decoder_layers)
        self.encoder, self.own, self.cross = (
            [self._layer(name) for name in some] for some in (names.encoder, names.own, names.cross)
        )
        self.encoder_mlps, self.decoder_mlps = (
            [self.mlp(name) for name in some] for some in (names.encoder_mlps, names.decoder_mlps)
        )

    def _layer(self, name: str) -> _Layer:
        from flowrank.models.config import AttentionShape, CompressedT5Config

        config = self.config
        if isinstance(config, CompressedT5Config):
            shape = config.shape_of(name)
        else:
            shape = AttentionShape.dense(config.num_heads, config.d_kv)
        alive = [(k, v) for k, v in zip(shape.d_qk, shape.d_vo, strict=True) if v > 0]
        widest = [(max(1, *(k for k, _ in alive)), max(v for _, v in alive))] * len(alive) if alive else []
        attended = sum(map(sum, widest))
        if self.even:
            alive = widest
        keys, values = sum(k for k, _ in alive), sum(v for _, v in alive)
        sizes = {
            name: (self.d + width) * shape.ranks[name] if name in shape.ranks else self.d * width
            for name, width in zip("qkvo", (keys, keys, values, values), strict=True)
        }
        return _Layer(**sizes, keys=keys, values=values, heads=len(alive), attended=attended)

    def mlp(self, name: str, inputs: int | None = None, outputs: int | None = None) -> int:
        """Parameters of a feed-forward layer or residual block of so many features in and out (default: d)."""
        from flowrank.models.config import CompressedT5Config, MlpShape, mlp_linears

        config, layers = self.config, mlp_linears(name, gated=self.config.is_gated_act)
        shape = MlpShape.dense(int(config.d_ff))
        if isinstance(config, CompressedT5Config):
            shape = config.mlp_shape_of(name, shape.width)
        if self.even and shape.width == 0 and "residual_layer" not in layers:  # the exact engine leaves it out
            return 0
        return sum(shape.parameters(inputs or self.d, outputs or self.d, layers).values())

    def vocabulary_rank(self, part: str) -> int | None:
        """Inner rank of the "embedding" or the "head"; None where it is one matrix."""
        from flowrank.models.config import CompressedT5Config

        config = self.config
        return config.vocabulary_rank_of(part) if isinstance(config, CompressedT5Config) else None

    def encode(self, rows: int, tokens: int, itemsize: int) -> Part:
        """The encoder on ``rows`` series of ``tokens`` tokens."""
        seen = rows * tokens
        parameters = sum(layer.parameters for layer in self.encoder) + sum(self.encoder_mlps)
        attention = 2 * rows * tokens**2 * sum(layer.attended for layer in self.encoder)
        moved = parameters + 2 * seen * self.d * len(self.encoder)
        return Part("encoder", 2 * seen * parameters + attention, itemsize * moved)

    def blocks(self, workload: Workload) -> Iterator[tuple[int, int]]:
        """Observations seen and steps forecast, block by block."""
        capacity, reach = int(self.raw["context_length"]), int(self.raw["prediction_length"])
        for block in range(math.ceil(workload.horizon / reach)):
            seen = min(workload.context_length + block * reach, capacity)
            yield seen, min(reach, workload.horizon - block * reach)


def _t5(stacks: _Stacks, workload: Workload, exact: bool, itemsize: int, cross_cache: str) -> Cost:
    series, paths, d = workload.batch_size, workload.num_samples, stacks.d
    end = int(stacks.raw["use_eos_token"] and stacks.raw["model_type"] == "seq2seq")
    own = sum(layer.features for layer in stacks.own)
    decoding = sum(layer.parameters for layer in stacks.own) + sum(layer.q + layer.o for layer in stacks.cross)
    decoding += sum(stacks.decoder_mlps)
    vocabulary = int(stacks.config.vocab_size)
    rank = stacks.vocabulary_rank("head")
    head = vocabulary * d if rank is None else rank * (d + vocabulary)
    embedding = (stacks.vocabulary_rank("embedding") or 0) * d
    decoding += embedding
    parts, caches = [], []
    for seen, steps in stacks.blocks(workload):
        tokens = seen + end
        rows = series + series * paths * (steps - 1) if exact else series * paths * steps
        looked = series * paths * sum(range(2, steps + 1))  # keys looked back at, the first token's own apart
        keyed, latent = list(stacks.cross), list[_Layer]()
        if exact:
            for layer in stacks.cross:
                shared = prefers_latent(d, layer.heads, layer.features, tokens=tokens, paths=paths, series=series)
                if cross_cache == "latent" or (cross_cache == "auto" and shared):
                    keyed.remove(layer)
                    latent.append(layer)
        cross = sum(layer.features for layer in keyed)
        making = sum(layer.k + layer.v for layer in keyed)
        encoder = stacks.encode(series, tokens, itemsize)
        embedded = 2 * series * tokens * embedding
        parts.append(Part("encoder", encoder.flops + embedded, encoder.moved + itemsize * embedding))
        made = series * (1 if exact else paths) * tokens
        parts.append(Part("cross keys and values", 2 * made * making, itemsize * (making + made * cross)))
        flops = 2 * rows * decoding + 2 * rows * tokens * sum(layer.attended for layer in keyed)
        flops += 2 * looked * sum(layer.attended for layer in stacks.own)
        flops += sum(2 * rows * d * (layer.features + 2 * layer.heads * tokens) for layer in latent)
        moved = steps * (decoding + made * (cross + d * len(latent))) + looked * own
        if not exact:  # its cache is copied to grow
            flops += 2 * series * paths * sum(layer.attended for layer in stacks.own)
            moved += 2 * looked * own
        parts.append(Part("decoder", flops, itemsize * moved))
        parts.append(Part("head", 2 * rows * head, itemsize * steps * head + 4 * rows * vocabulary))
        held = made * (cross + (d if latent else 0))
        caches.append((itemsize * held, itemsize * series * paths * steps * own))
    largest = max(caches)
    return Cost(_merged(parts), cache_self=largest[1], cache_cross=largest[0])


def _bolt(stacks: _Stacks, workload: Workload, exact: bool, itemsize: int) -> Cost:
    raw, d = stacks.raw, stacks.d
    size, stride, levels = raw["input_patch_size"], raw["input_patch_stride"], len(raw["quantiles"])
    outputs = levels * raw["prediction_length"]
    embedding = stacks.mlp("input_patch_embedding", inputs=2 * size)
    head = stacks.mlp("output_patch_embedding", outputs=outputs)
    parts, caches = [], []
    for block, (seen, _) in enumerate(stacks.blocks(workload)):
        rows = workload.batch_size * (levels if block else 1)
        patches = (math.ceil(seen / size) * size - size) // stride + 1
        tokens = patches + int(raw.get("use_reg_token", False))
        encoder = stacks.encode(rows, tokens, itemsize)
        embedded = 2 * rows * patches * embedding
        parts.append(Part("encoder", encoder.flops + embedded, encoder.moved + itemsize * embedding))
        flops = parameters = 0
        layers = zip(stacks.own, stacks.cross, stacks.decoder_mlps, strict=True)
        for index, (own, cross, feed_forward) in enumerate(layers):
            first = exact and index == 0  # the same token for every series, until it has looked across
            mapped = own.v + own.o if exact else own.parameters
            flops += 2 * (1 if first else rows) * (mapped + cross.q)
            flops += 2 * rows * (cross.o + feed_forward)
            parameters += mapped + cross.parameters + feed_forward
            if exact:
                flops += 2 * (1 if first else rows) * cross.keys * d + 2 * rows * cross.values * d
                flops += 4 * rows * cross.heads * tokens * d
            else:
                flops += 2 * rows * own.attended + 2 * rows * tokens * (cross.k + cross.v + cross.attended)
        made = 0 if exact else rows * tokens * sum(layer.features for layer in stacks.cross)
        moved = parameters + 2 * made + (rows * tokens * d * len(stacks.cross) if exact else 0)
        parts.append(Part("decoder", flops, itemsize * moved))
        parts.append(Part("head", 2 * rows * head, itemsize * (head + rows * outputs)))
        own_made = 0 if exact else rows * sum(layer.features for layer in stacks.own)
        caches.append((itemsize * made, itemsize * own_made))
    largest = max(caches)
    return Cost(_merged(parts), cache_self=largest[1], cache_cross=largest[0])


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Parts of all blocks, one of each name."""
    names = dict.fromkeys(part.name for part in parts)
    return tuple(
        Part(
            name,
            sum(part.flops for part in parts if part.name == name),
            sum(part.moved for part in parts if part.name == name),
        )
        for name in names
    )
