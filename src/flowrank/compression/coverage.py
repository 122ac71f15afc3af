"""How many calibration series a method needs, and synthetic ones where the user gave fewer.

A layer is fitted on the second moments of its input, one token at a time. Fewer tokens than the layer has directions
leave some of them unobserved, and those are thrown away first. A Chronos-Bolt's decoder has one token a series.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flowrank.anatomy import Attention
from flowrank.compression.methods import InputSVD, JointHeads, WholeModel, passes
from flowrank.errors import CalibrationWarning
from flowrank.family import Context, Family
from flowrank.measure import Calibration

DEFAULT_SERIES = 512
"""Calibration series where the user does not say how many, unless the method needs more."""

LEAST_SERIES = 32
"""Series that a method needs however many tokens they have, since tokens of one series are much alike."""

TOKENS_A_WIDTH = 2
"""Tokens that a head needs for each feature that it has."""


def tokens_needed(method: Any, family: Family) -> dict[str, int]:
    """Tokens that the layers of the encoder and of the decoder must read in calibration.

    `JointHeads` fits heads: twice as many as the widest has features. `InputSVD` fits matrices: as many as the model is
    wide. `WholeModel` fits heads and neurons: half as many as the widest layer has neurons too. `WeightSVD` fits
    nothing. Below, the loss on held-out series rises steeply; above, it falls slowly.

    Examples
    --------
    >>> import flowrank
    >>> from flowrank.family import family_of
    >>> mini = family_of(flowrank.load("flow-bolt-mini"))  # d = 128, heads of 32 features, 512 neurons
    >>> [tokens_needed(method(flowrank.Budget(0.5)), mini)["decoder"] for method in (JointHeads, InputSVD, WholeModel)]
    [64, 128, 256]
    """
    needed = {"encoder": 0, "decoder": 0}
    if not isinstance(method, JointHeads | InputSVD | WholeModel):
        return needed
    for site in family.sites:
        width = site.d_model if isinstance(method, InputSVD) else TOKENS_A_WIDTH * _head_width(site)
        needed[site.stack] = max(needed[site.stack], width)
    if isinstance(method, WholeModel) and "neurons" in method.parts:
        for layer in family.mlps:
            needed[layer.stack] = max(needed[layer.stack], -(-layer.width // 2))
    return needed


def series_needed(method: Any) -> int:
    """Series that a method needs at least: 32, and 64 for `WholeModel`, which fits on some and measures on the others.

    Examples
    --------
    >>> import flowrank
    >>> series_needed(JointHeads(flowrank.Budget(0.5)))
    32
    """
    return 2 * LEAST_SERIES if isinstance(method, WholeModel) else LEAST_SERIES


def covered(
    method: Any, family: Family, series: Any, *, count: int | None, points: int, seed: int, **columns: Any
) -> Calibration:
    """Read calibration series, and add synthetic ones until the method has enough.

    Parameters
    ----------
    method, family
        Method of compression, and view of the model.
    series, points, seed, **columns
        As of `Calibration.read`.
    count
        Series of the source at most; None: 512, and as many more synthetic ones as the method needs.

    Returns
    -------
    Calibration
        Empty where the method reads none.

    Warns
    -----
    CalibrationWarning
        If ``series`` or ``count`` were given and are not enough.
    """
    if not passes(method):
        return Calibration([], "none needed", {})
    asked = DEFAULT_SERIES if count is None else count
    mixed = isinstance(method, WholeModel)
    groups = family.reads_groups
    found = Calibration.read(series, count=asked, points=points, seed=seed, mixed=mixed, groups=groups, **columns)
    missing = _less(tokens_needed(method, family), tokens_in(family, found.contexts))
    fewer = series_needed(method) - len(found.contexts)
    if fewer <= 0 and max(missing.values()) <= 0:
        return found
    most = max(fewer, *missing.values())  # a series has one token at least; some that are drawn cannot be used
    before = asked if series is None else 0
    drawn = Calibration.read(None, count=before + 2 * most, points=points, seed=seed, mixed=mixed)
    pool = drawn.contexts[len(found.contexts) if series is None else 0 :]
    added: list[Context] = []
    for context in pool:
        if len(added) >= fewer and max(missing.values()) <= 0:
            break
        added.append(context)
        missing = _less(missing, tokens_in(family, [context]))
    if series is not None or count is not None:
        _warn(method, found, added)
    if series is None:
        return replace(found, contexts=found.contexts + added)
    return found.mixed_with(Calibration(added, drawn.source, {}))


def tokens_in(family: Family, contexts: Iterable[Context]) -> dict[str, int]:
    """Tokens of some series that the encoder and the decoder read.

    Examples
    --------
    >>> import flowrank, torch
    >>> from flowrank.family import family_of
    >>> tokens_in(family_of(flowrank.load("flow-bolt-mini")), [torch.rand(160)] * 3)  # patches of 16, and [REG]
    {'encoder': 33, 'decoder': 3}
    """
    tokens = {"encoder": 0, "decoder": 0}
    for context in contexts:
        tokens["encoder"] += int(family.attention_mask([context]).sum())
        tokens["decoder"] += family.decoder_tokens(len(context))
    return tokens


def _less(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {stack: tokens - other[stack] for stack, tokens in one.items()}


def _head_width(site: Attention) -> int:
    """Features of the widest head; a site of a single key counts all its heads as one."""
    return max(site.d_qk, site.d_vo) // (site.all_heads if site.single_key else 1)


def _warn(method: Any, found: Calibration, added: list[Context]) -> None:
    mine, name = len(found.contexts), type(method).__name__
    warnings.warn(
        f"{mine} calibration series ({found.source}) are too few for {name} on this model, so {len(added)} synthetic "
        f"ones were added; pass {mine + len(added)} or more of this length, and calibration_series={mine + len(added)}",
        CalibrationWarning,
        stacklevel=4,
    )
