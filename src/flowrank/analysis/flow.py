"""The flow-of-ranks as a table: what each part of each sublayer does to the rank of the stream."""

from __future__ import annotations

import pandas as pd

from flowrank.errors import FlowrankError

MEASURES = ("rank", "effective_rank", "stable_rank")
_ORDER = {"self": 0, "cross": 1, "group": 2, "mlp": 3}


def tolerance(ranks: pd.DataFrame, epsilon: float | None) -> float:
    """A measured ε: the one asked for, or the smallest."""
    known = sorted(ranks["epsilon"].unique())
    if epsilon is None:
        return float(known[0])
    if epsilon not in known:
        raise FlowrankError(
            "epsilon", expected=f"one of {', '.join(map(str, known))}, which were measured", found=epsilon
        )
    return epsilon


def flow_of(ranks: pd.DataFrame, epsilon: float | None = None, measure: str = "rank") -> pd.DataFrame:
    """As `RankProfile.flow`, from the frame of ranks."""
    if measure not in MEASURES:
        raise FlowrankError("measure", expected=f"one of {', '.join(MEASURES)}", found=repr(measure))
    frame = ranks[(ranks["epsilon"] == tolerance(ranks, epsilon)) & (ranks["head"] == -1)]
    known = frame.set_index(["stack", "kind", "layer", "quantity"])[measure].to_dict()
    rows = []
    for stack in [one for one in ("encoder", "decoder") if (one, "embedding", 0, "embedding") in known]:
        stream = known[stack, "embedding", 0, "embedding"]
        inside = frame[(frame["stack"] == stack) & frame["kind"].isin(list(_ORDER))]
        sublayers = {(int(layer), str(kind)) for layer, kind in zip(inside["layer"], inside["kind"], strict=True)}
        for layer, kind in sorted(sublayers, key=lambda one: (one[0], _ORDER[one[1]])):
            of = {
                q: known.get((stack, kind, layer, q)) for q in ("input", "values", "head_outputs", "update", "stream")
            }
            after = known.get((stack, "residual", layer, "residual")) if kind == "mlp" else of["stream"]
            if after is None:
                continue
            row = {"stack": stack, "layer": layer, "kind": kind, "before": stream, **of, "after": after}
            del row["stream"]
            row["normalisation"] = _minus(of["input"], stream)
            row["mixing"] = _minus(of["head_outputs"], of["values"])
            row["residual"] = None if of["update"] is None else after - max(stream, of["update"])
            row["total"] = after - stream
            rows.append(row)
            stream = after
    return pd.DataFrame(rows)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
