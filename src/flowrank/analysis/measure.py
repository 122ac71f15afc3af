"""Run a model on series, or on batches of anything, and measure the ranks of all that flows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from flowrank.analysis.positions import planes_in
from flowrank.analysis.profile import RankProfile
from flowrank.analysis.spectra import Key, Lift, WeightMatrix, activation_spectra, lifts, weight_spectra
from flowrank.analysis.streams import Streams
from flowrank.anatomy import Block
from flowrank.errors import FlowrankError, check_count
from flowrank.family import Context, Family, family_of, family_of_model, private_copy, rows_of
from flowrank.linalg import Spectrum, marchenko_pastur_edge
from flowrank.measure import POINTS, Calibration
from flowrank.measure import batches as batches_of
from flowrank.progress import progress_bar
from flowrank.versions import versions

EPSILONS = (0.1, 0.01)
"""Relative tolerances at which ranks are reported unless others are asked for."""

SINGLE_FROM = 1e-3
"""Moments are summed in float32 where no ε is smaller and the model is wide, in float64 otherwise."""

WIDE = 512
"""Widths from which float32 is worth it."""


def analyze(
    pipeline: Any,
    *,
    series: Any = None,
    batches: Iterable[Mapping[str, Any]] | None = None,
    count: int = 256,
    points: int = POINTS,
    epsilons: Sequence[float] = EPSILONS,
    seed: int = 0,
    progress: bool = False,
    **columns: Any,
) -> RankProfile:
    """Measure ranks over depth while series stream through the model, in O(d²) memory.

    Parameters
    ----------
    pipeline
        A pipeline of `flowrank.load`, dense or compressed. Or any model of transformers whose layers are like those of
        T5, BERT, GPT-2 or ViT, together with ``batches``.
    series, count, points
        Series to run (None: synthetic ones), how many at most, and how many last points of each.
    batches
        For other models: keyword arguments of their forward, batch by batch; consumed once. Tokens that
        ``attention_mask`` (of a second stack, ``decoder_attention_mask``) hides are left out.
    epsilons
        Relative tolerances ε of rank_ε(A) = #{ j : σ_j / σ_1 > ε }, each in [0, 1), at least one. Singular values of a
        model of width 512 and more are noise below about 3 · 10⁻⁴ of the largest, unless an ε below 10⁻³ is asked for,
        which takes more time and memory.
    seed
        Of the synthetic series.
    progress
        Whether to show a progress bar.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Raises
    ------
    FlowrankError
        If the model is not of a known kind, an ε or a count is out of range, or no series or batch is usable.

    Examples
    --------
    >>> import flowrank
    >>> profile = flowrank.analyze(flowrank.load("flow-bolt-mini"), count=32)
    >>> embedding = profile.ranks.query("quantity == 'embedding' and epsilon == 0.1").iloc[0]
    >>> bool(embedding["rank"] < embedding["dim"] / 2)
    True
    """
    tolerances = _tolerances(epsilons)
    check_count(count, "count")
    check_count(points, "points")
    if isinstance(pipeline, PreTrainedModel):
        return _of_model(pipeline, batches, tolerances, progress)
    family = family_of(pipeline).private()
    if batches is not None:
        raise FlowrankError(
            "batches", expected="None for a pipeline, which runs on series", found="batches", todo="pass series=..."
        )
    groups = family.reads_groups and series is None
    calibration = Calibration.read(series, count=count, points=points, seed=seed, groups=groups, **columns)
    streams = streams_of(family.model, list(family.anatomy.blocks), min(tolerances))
    with progress_bar("analyzing", total=len(calibration.contexts), show=progress) as advance, streams.watching():
        for batch in through(family, streams, calibration.contexts):
            advance(batch)
    source = {
        "source": calibration.source,
        "count": len(calibration.contexts),
        "skipped": calibration.skipped,
        "seed": seed,
    }
    about = _about(family.model, streams.blocks, str(getattr(pipeline, "name", "in memory")), tolerances)
    about["model"]["attention_parameters"] = family.anatomy.parameters_of_attention()
    return profile_of(
        streams, tolerances, {**about, "series": source, "settings": {**about["settings"], "points": points}}
    )


def streams_of(model: PreTrainedModel, blocks: list[Block], smallest: float) -> Streams:
    """What will measure a model, in the number type that its width and the smallest ε call for."""
    single = model.config.hidden_size >= WIDE and smallest >= SINGLE_FROM
    return Streams(blocks, torch.float32 if single else torch.float64)


def through(family: Family, streams: Streams, contexts: Sequence[Context]) -> Iterable[int]:
    """Run a model on series, batch by batch; its family says which tokens count."""
    with family.instrumented(gradients=False):
        for batch in batches_of(family, contexts):
            streams.see("encoder", family.attention_mask(batch), [rows_of(one) for one in batch])
            family.run(batch)
            yield len(batch)


def _of_model(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Any]] | None,
    tolerances: list[float],
    progress: bool,
) -> RankProfile:
    if batches is None:
        raise FlowrankError(
            "batches",
            expected="dicts of keyword arguments for the model's forward",
            found="None",
            todo="pass batches=...",
        )
    family, model = family_of_model(model), private_copy(model)
    streams = streams_of(model, list(family.anatomy_of(model).blocks), min(tolerances))
    stacks = [name for name in ("encoder", "decoder") if any(block.stack == name for block in streams.blocks)]
    masks = ("attention_mask", "decoder_attention_mask")
    number = 0
    bar = progress_bar("analyzing", unit="batches", show=progress)
    with bar as advance, family.explicit(model), streams.watching():
        for batch in batches:
            if not isinstance(batch, Mapping):
                raise FlowrankError("batches", expected="dicts of keyword arguments", found=type(batch).__name__)
            moved = {name: one.to(model.device) if hasattr(one, "to") else one for name, one in batch.items()}
            for stack, mask in zip(stacks, masks, strict=False):
                streams.see(stack, moved.get(mask))
            model(**moved)
            number += 1
            advance(1)
    if not number:
        raise FlowrankError("batches", expected="at least one batch", found="none")
    about = _about(model, streams.blocks, str(getattr(model, "name_or_path", "") or "in memory"), tolerances)
    return profile_of(streams, tolerances, {**about, "batches": number})


def profile_of(streams: Streams, tolerances: list[float], about: dict[str, Any]) -> RankProfile:
    """Turn moments and weights into a profile."""
    ranks: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    for key, weight in weight_spectra(streams.blocks, streams.dtype):
        _add(ranks, curves, key, weight.spectrum, tolerances, weight)
    for key, spectrum in activation_spectra(streams):
        _add(ranks, curves, key, spectrum, tolerances)
    nothing = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _BOUNDS.items()})
    return RankProfile(
        pd.DataFrame(ranks),
        pd.concat(curves, ignore_index=True),
        pd.concat([_bound(lift) for lift in lifts(streams)] or [nothing], ignore_index=True),
        about,
        planes_in(streams),
    )


_BOUNDS = {"stack": str, "kind": str, "layer": int, "depth": int, "k": int, "sigma": float, "bound": float}


def _add(
    ranks: list[dict[str, Any]],
    curves: list[pd.DataFrame],
    key: Key,
    spectrum: Spectrum,
    tolerances: list[float],
    weight: WeightMatrix | None = None,
) -> None:
    where = key._asdict()
    measures = {"effective_rank": spectrum.effective_rank, "stable_rank": spectrum.stable_rank}
    signal: dict[str, Any] = {"edge": float("nan"), "signal": float("nan")}
    if weight is not None and spectrum.sigma[0] > 0:
        edge = marchenko_pastur_edge(spectrum.sigma, weight.shape)
        signal = {"edge": edge / float(spectrum.sigma[0]), "signal": float((spectrum.sigma > edge).sum())}
    for epsilon in tolerances:
        rank = spectrum.epsilon_rank(epsilon)
        ranks.append({**where, "dim": len(spectrum.sigma), "epsilon": epsilon, "rank": rank, **measures, **signal})
    sigma = spectrum.normalised.tolist()
    curves.append(pd.DataFrame({**where, "j": range(1, len(sigma) + 1), "sigma": sigma}))


def _bound(lift: Lift) -> pd.DataFrame:
    where = {name: getattr(lift.key, name) for name in ("stack", "kind", "layer", "depth")}
    k = range(1, len(lift.actual) + 1)
    return pd.DataFrame({**where, "k": k, "sigma": lift.actual.tolist(), "bound": lift.bound.tolist()})


def _about(model: PreTrainedModel, blocks: list[Block], name: str, tolerances: list[float]) -> dict[str, Any]:
    config = model.config
    return {
        "model": {
            "name": name,
            "class": type(model).__name__,
            "d_model": config.hidden_size,
            "heads": config.num_attention_heads,
            "d_kv": getattr(config, "d_kv", None) or config.hidden_size // config.num_attention_heads,
            "layers": {stack: sum(block.stack == stack for block in blocks) for stack in ("encoder", "decoder")},
            "parameters": model.num_parameters(),
        },
        "settings": {"epsilons": tolerances},
        "versions": versions(),
        "device": str(model.device),
    }


def _tolerances(epsilons: Sequence[float]) -> list[float]:
    try:
        found = list(dict.fromkeys(map(float, epsilons)))
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 <= epsilon < 1 for epsilon in found):
        raise FlowrankError("epsilons", expected="numbers in [0, 1)", found=epsilons, todo="pass e.g. (0.1, 0.01)")
    return found
