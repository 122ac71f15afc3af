"""From a measured profile to a design: a rank schedule, widths, heads, and what to compress first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flowrank.analysis import RankProfile
from flowrank.analysis.flow import tolerance
from flowrank.compression import FlowOfRanks
from flowrank.compression.rules import check_ratio
from flowrank.errors import FlowrankError
from flowrank.pretraining.schedule import layer_widths

FIRST, LAST = 0.5, 0.9
"""Shares of a head's width in use: below the first a layer is compressed early, above the last not at all."""


@dataclass(frozen=True)
class Line:
    """One piece of advice and the number that it rests on."""

    what: str
    because: str


@dataclass(frozen=True)
class Advice:
    """What a profile says about the design of a model.

    Attributes
    ----------
    epsilon, budget
        ε of the ranks it rests on, and the share of attention parameters to keep.
    alpha, fitted_d0
        d̃_0 (1 + i)^α fitted to the widths that the layers use at ε.
    r_squared
        Of that fit, in logarithms; 0: depth explains nothing.
    natural
        Share of attention parameters that the fitted schedule keeps.
    d0
        d̃_0 that the widths below have in the mean.
    widths
        Head width at each layer number of the schedule; cross-attention goes on after the encoder.
    layers
        A row an attention layer, in the order in which to compress them: stack, kind, layer, depth, d_kv, need_qk and
        need_vo (components a head uses at ε, mean over heads), single_key (every query attends to one key, so that
        queries and keys do nothing: need_qk is 0), used (the mean of both needs over d_kv), heads and heads_needed (how
        many heads of its own mean rank hold all of the layer's values), order ("first", "next" or "keep").
    d_model
        Width that holds the stream of every layer at the smallest ε measured, up to a multiple of 32.
    savings
        Share kept of: attention parameters, cache of the decoder, operations of attention.
    lines
        The same in words.
    """

    epsilon: float
    budget: float
    alpha: float
    fitted_d0: float
    r_squared: float
    natural: float
    d0: float
    widths: tuple[int, ...]
    layers: pd.DataFrame
    d_model: int
    savings: dict[str, float]
    lines: tuple[Line, ...]

    @property
    def schedule(self) -> FlowOfRanks:
        """The schedule that meets the budget, as `compress` and `pretrain` take it."""
        return FlowOfRanks(ratio=self.budget, alpha=self.alpha)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            **{name: getattr(self, name) for name in ("epsilon", "budget", "alpha", "fitted_d0", "r_squared")},
            **{name: getattr(self, name) for name in ("natural", "d0", "d_model", "savings")},
            "widths": list(self.widths),
            "layers": self.layers.to_dict("records"),
            "lines": [{"what": line.what, "because": line.because} for line in self.lines],
        }

    def __str__(self) -> str:
        return "\n".join(f"{line.what}\n    {line.because}" for line in self.lines)


def advise(profile: RankProfile, budget: float = 0.25, *, epsilon: float | None = None) -> Advice:
    """Read a design out of a measured profile.

    Parameters
    ----------
    profile
        What `analyze` returned.
    budget
        Attention parameters to keep, over dense ones, in (0, 1].
    epsilon
        One of the measured ε; None: the largest, at which the paper reads ranks.

    Returns
    -------
    Advice
        Print it, or read its fields.

    Raises
    ------
    FlowrankError
        If ``budget`` or ``epsilon`` is out of range, or the profile has no attention in it.

    Examples
    --------
    >>> import flowrank
    >>> advice = flowrank.advise(flowrank.analyze(flowrank.load("flow-bolt-mini"), count=32), budget=0.25)
    >>> len(advice.widths), advice.layers["used"].is_monotonic_increasing
    (6, True)
    """
    check_ratio(budget, "budget")
    chosen = tolerance(profile.ranks, max(profile.ranks["epsilon"]) if epsilon is None else epsilon)
    layers = _needs(profile.ranks, chosen)
    if layers.empty:
        raise FlowrankError("profile", expected="ranks of attention layers", found="none", todo="analyze a transformer")
    model = profile.about["model"]
    depths = _depths(model["layers"])
    alpha, fitted_d0, r_squared = _fit(layers)
    natural_widths = layer_widths(FlowOfRanks(d0=fitted_d0, alpha=alpha), **depths, d_kv=model["d_kv"])
    widths = layer_widths(FlowOfRanks(ratio=budget, alpha=alpha), **depths, d_kv=model["d_kv"])
    sites = list(layers["depth"])
    natural = float(np.mean([natural_widths[depth] for depth in sites]) / model["d_kv"])
    kept = float(np.mean([widths[depth] for depth in sites]) / model["d_kv"])
    decoder = layers[layers["stack"] == "decoder"]["depth"].to_list()
    savings = {"attention_parameters": kept, "attention_operations": kept}
    if decoder:
        savings["cache"] = float(np.mean([widths[depth] for depth in decoder]) / model["d_kv"])
    stream, where = _widest_stream(profile.ranks)
    d_model = min(model["d_model"], 32 * -(-stream // 32))
    advice = Advice(
        epsilon=chosen,
        budget=float(budget),
        alpha=alpha,
        fitted_d0=fitted_d0,
        r_squared=r_squared,
        natural=natural,
        d0=_d0_of(widths, alpha),
        widths=widths,
        layers=layers,
        d_model=d_model,
        savings=savings,
        lines=(),
    )
    return replace(advice, lines=tuple(_lines(advice, profile, stream, where)))


def _needs(ranks: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Components in use in every attention layer, least first."""
    frame = ranks[(ranks["epsilon"] == epsilon) & ranks["kind"].isin(["self", "cross", "group"])]
    rows = []
    for (stack, kind, layer, depth), site in frame.groupby(["stack", "kind", "layer", "depth"]):
        heads = site[site["head"] >= 0].pivot_table(index="head", columns="quantity", values="rank")
        if heads.empty or not {"queries", "keys", "values", "head_outputs"} <= set(heads):
            continue
        widths = site[site["head"] >= 0].groupby("quantity")["dim"].max()
        d_kv = max(int(widths["queries"]), int(widths["values"]))
        # A score is a product of query and key: no more components count than the poorer of the two has.
        single_key = _sees_one_key(site, str(kind))
        need_qk = 0.0 if single_key else float(np.minimum(heads["queries"], heads["keys"]).mean())
        need_vo = float(np.minimum(heads["values"], heads["head_outputs"]).mean())
        together = site[(site["head"] == -1) & (site["quantity"] == "values")]["rank"]
        each = float(heads["values"].mean())
        needed = min(len(heads), math.ceil(float(together.iloc[0]) / each - 1e-9)) if each else 0
        used = (need_qk + need_vo) / (2 * d_kv)
        rows.append(
            {
                "stack": str(stack),
                "kind": str(kind),
                "layer": int(layer),
                "depth": int(depth),
                "d_kv": d_kv,
                "need_qk": need_qk,
                "need_vo": need_vo,
                "single_key": single_key,
                "used": used,
                "heads": len(heads),
                "heads_needed": needed,
                "order": "first" if used < FIRST else "keep" if used > LAST else "next",
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["used", "depth"], ignore_index=True) if rows else table


def _sees_one_key(site: pd.DataFrame, kind: str) -> bool:
    """Attention matrices of one column: the softmax is 1 whatever queries and keys say.

    Over a group there are matrices only where two series were read together.
    """
    attention = site[site["quantity"] == "attention"]
    return kind == "group" if attention.empty else bool((attention["dim"] == 1).all())


def _fitted(layers: pd.DataFrame) -> pd.DataFrame:
    """The layers that a schedule is fitted to, by depth, with ``need``: what the wider of their two products uses.

    A layer that attends to one key is a linear map of single tokens; what it uses says nothing about depth.
    """
    part = layers if layers["single_key"].all() else layers[~layers["single_key"]]
    return part.assign(need=part[["need_qk", "need_vo"]].max(axis=1)).sort_values("depth")


def _fit(layers: pd.DataFrame) -> tuple[float, float, float]:
    """α, d̃_0 and R² of log need = log d̃_0 + α log(1 + depth)."""
    part = _fitted(layers)
    x, y = np.log1p(part["depth"].to_numpy(float)), np.log(np.maximum(part["need"].to_numpy(), 1.0))
    if np.ptp(x) == 0:
        return 0.0, float(np.exp(y.mean())), 0.0
    alpha, intercept = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - intercept - alpha * x) ** 2).sum())
    return round(float(alpha), 4), float(np.exp(intercept)), 1 - left / spread if spread > 1e-12 else 0.0


def _depths(layers: dict[str, int]) -> dict[str, int]:
    """Arguments of `layer_widths`; a decoder that stands alone counts as the first stack."""
    if not layers["encoder"]:
        return {"layers": layers["decoder"], "decoder_layers": 0}
    return {"layers": layers["encoder"], "decoder_layers": layers["decoder"]}


def _d0_of(widths: tuple[int, ...], alpha: float) -> float:
    """The d̃_0 behind widths, by the mean."""
    return float(np.mean([width / (1 + layer) ** alpha for layer, width in enumerate(widths)]))


def _widest_stream(ranks: pd.DataFrame) -> tuple[int, str]:
    """Largest rank of the stream at the smallest ε, and where it is."""
    frame = ranks[(ranks["epsilon"] == ranks["epsilon"].min()) & ranks["kind"].isin(["embedding", "residual"])]
    row = frame.loc[frame["rank"].idxmax()]
    place = "the embedding" if row["kind"] == "embedding" else f"after layer {row['layer']}"
    return int(row["rank"]), f"{place} of the {row['stack']}"


def _lines(advice: Advice, profile: RankProfile, stream: int, where: str) -> list[Line]:
    model, at = profile.about["model"], f"at ε = {advice.epsilon:g}"
    layers = advice.layers
    alpha = f"{round(advice.alpha, 2) + 0.0:.2f}"  # no minus before a zero
    fitted = _fitted(layers)
    first, last = fitted.iloc[0], fitted.iloc[-1]
    trend = 0 if abs(advice.alpha) < 0.05 else math.copysign(1, advice.alpha)
    grows = {1: "grow with depth", -1: "fall with depth", 0: "do not depend on depth"}[int(trend)]
    lines = [
        Line(
            f"Rank schedule: d̃(i) = {advice.d0:.3g} (1 + i)^{alpha}, head widths {list(advice.widths)}",
            f"widths in use {at} {grows}: fitted α = {alpha}, R² = {advice.r_squared:.2f}; "
            f"a head of the first layer uses {first['need']:.1f} components, of the last {last['need']:.1f}, of "
            f"{model['d_kv']}",
        ),
        Line(
            f"That keeps {advice.savings['attention_parameters']:.1%} of the parameters and operations of attention"
            + (f" and {advice.savings['cache']:.1%} of the decoder's cache" if "cache" in advice.savings else ""),
            f"mean width over d_kv = {model['d_kv']}; the schedule that keeps all components {at} would need "
            f"{advice.natural:.1%} (d̃_0 = {advice.fitted_d0:.3g})",
        ),
    ]
    for order, what in (("first", "Compress first"), ("keep", "Leave alone")):
        part = layers[layers["order"] == order]
        if len(part):
            names = ", ".join(f"{row.stack} {row.kind} {row.layer}" for row in part.head(6).itertuples())
            more = f" and {len(part) - 6} more" if len(part) > 6 else ""
            uses = f"{part['used'].min():.0%} to {part['used'].max():.0%} of their width in use {at}"
            lines.append(Line(f"{what}: {names}{more}", uses))
    many = layers[~layers["single_key"]]
    spare = many[many["heads_needed"] < many["heads"]]
    if len(spare):
        fewest = spare.sort_values("heads_needed").iloc[0]
        lines.append(
            Line(
                f"Fewer heads would do in {len(spare)} of {len(many)} attention layers, down to "
                f"{fewest['heads_needed']} of {fewest['heads']} in "
                f"{fewest['stack']} {fewest['kind']} {fewest['layer']}",
                f"rank of the values of all heads together over the mean rank of one head's, {at}",
            )
        )
    else:
        lines.append(
            Line("Keep the number of heads", f"the values of all heads together need that many in every layer, {at}")
        )
    lines += [*_about_groups(layers), *_about_positions(profile, advice.epsilon)]
    small = profile.ranks["epsilon"].min()
    lines.append(
        Line(
            f"Model width: {advice.d_model} would hold the stream (now {model['d_model']})",
            f"its largest rank at ε = {small:g} is {stream}, {where}",
        )
    )
    return lines


def _about_groups(layers: pd.DataFrame) -> list[Line]:
    """What to do where no two series were read together."""
    over = layers[layers["kind"] == "group"]
    if over.empty or not over["single_key"].all():
        return []
    return [
        Line(
            "If series are always forecast one by one, read them one by one: flowrank.univariate(pipeline)",
            f"no group of two series was measured: the queries and keys of {len(over)} layers that attend over a group "
            "then change nothing, and each layer is one matrix, with the same forecasts",
        )
    ]


def _about_positions(profile: RankProfile, epsilon: float) -> list[Line]:
    """What to do with planes that hardly turn."""
    if profile.positions.empty:
        return []
    heads = profile.turning(epsilon)
    mean = heads[["planes", "planes_below_0.5", "variance_below_0.5", "effective_planes", "position_rank"]].mean()
    if mean["planes_below_0.5"] < 1:
        return []
    tokens = int(heads["tokens"].max())
    return [
        Line(
            f"Merge slow planes: {mean['planes_below_0.5']:.0f} of {mean['planes']:.0f} planes of a head need not turn "
            "(JointHeads makes one small block of them where the loss allows)",
            f"over {tokens} tokens they turn by less than 0.5 radians, and hold {mean['variance_below_0.5']:.0%} of "
            f"the variance of scores; a head uses {mean['effective_planes']:.1f} planes, and its "
            f"{2 * mean['planes']:.0f} functions of distance have rank {mean['position_rank']:.0f} at ε = {epsilon:g}",
        )
    ]
