"""Where a model is low-rank: ε-ranks of weights, embeddings and activations over depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from flowrank.calibration import POINTS, Calibration
from flowrank.capture import batches
from flowrank.errors import FlowrankError, check_count
from flowrank.families import AttentionSite, Family, family_of
from flowrank.files import atomic_files
from flowrank.linalg import SecondMoment, Spectrum
from flowrank.models import attention_parameters
from flowrank.models.attention import FactoredLinear
from flowrank.progress import progress_bar
from flowrank.versions import versions

EPSILONS = (0.1, 0.01)
"""Relative tolerances at which ranks are reported unless others are asked for."""

PROFILE_FILES = ("rank_profile.parquet", "spectra.parquet", "analysis.json")
"""What a saved profile consists of."""

KEYS = ["stack", "kind", "layer", "depth", "quantity", "head"]


@dataclass(frozen=True)
class RankProfile:
    """Ranks of everything that matters in one model.

    Attributes
    ----------
    ranks
        One row a matrix and ε: stack, kind ("embedding", "residual", "self", "cross"), layer, depth, quantity
        ("embedding", "residual", "input", "W_Q", "W_K", "W_V", "W_O", "queries", "keys", "head_outputs"), head (−1:
        all), dim, epsilon, rank, effective_rank, stable_rank.
    spectra
        The same keys with j (from 1) and sigma = σ_j / σ_1.
    about
        Model, series, versions, device and settings, ready for JSON.
    """

    ranks: pd.DataFrame
    spectra: pd.DataFrame
    about: dict[str, Any]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``rank_profile.parquet``, ``spectra.parquet`` and ``analysis.json`` into a folder; others stay."""
        with atomic_files(folder, PROFILE_FILES, overwrite=overwrite) as temporary:
            self.write_into(temporary)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write the three files into an existing folder."""
        self.ranks.to_parquet(folder / "rank_profile.parquet", index=False)
        self.spectra.to_parquet(folder / "spectra.parquet", index=False)
        (folder / "analysis.json").write_text(json.dumps(self.about, indent=2) + "\n", encoding="utf-8")


def analyze(
    pipeline: Any,
    *,
    series: Any = None,
    count: int = 256,
    points: int = POINTS,
    epsilons: Sequence[float] = EPSILONS,
    seed: int = 0,
    progress: bool = False,
    **columns: Any,
) -> RankProfile:
    """Measure ε-ranks over depth while series stream through the model, in O(d²) memory.

    Parameters
    ----------
    pipeline
        A Chronos-T5 or Chronos-Bolt pipeline, dense or compressed.
    series, count, points
        Series to run (None: synthetic ones), how many at most, and how many last points of each.
    epsilons
        Relative tolerances ε of rank_ε(A) = #{ j : σ_j / σ_1 > ε }, each in [0, 1), at least one.
    seed
        Of the synthetic series.
    progress
        Whether to show a progress bar.
    **columns
        ``id_column``, ``timestamp_column``, ``target``, ``freq`` of ``series``.

    Raises
    ------
    FlowrankError
        If the pipeline is not of a known family, an ε or a count is out of range, or no series is usable.

    Examples
    --------
    >>> import flowrank
    >>> profile = flowrank.analyze(flowrank.load("seed-bolt"), count=32)
    >>> embedding = profile.ranks.query("quantity == 'embedding' and epsilon == 0.1").iloc[0]
    >>> bool(embedding["rank"] < embedding["dim"] / 2)
    True
    """
    tolerances = _tolerances(epsilons)
    check_count(count, "count")
    check_count(points, "points")
    family = family_of(pipeline)
    calibration = Calibration.read(series, count=count, points=points, seed=seed, **columns)
    spectra = weight_spectra(family)
    with progress_bar("analyzing", total=len(calibration.contexts), show=progress) as advance:
        spectra += activation_spectra(family, calibration.contexts, advance)
    ranks, curves = [], []
    for key, spectrum in spectra:
        where: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        measures = {"effective_rank": spectrum.effective_rank, "stable_rank": spectrum.stable_rank}
        for epsilon in tolerances:
            rank = spectrum.epsilon_rank(epsilon)
            ranks.append({**where, "dim": len(spectrum.sigma), "epsilon": epsilon, "rank": rank, **measures})
        sigma = spectrum.normalised.tolist()
        curves.append(pd.DataFrame({**where, "j": range(1, len(sigma) + 1), "sigma": sigma}))
    config = family.model.config
    about = {
        "model": {
            "name": str(getattr(pipeline, "name", "in memory")),
            "class": type(family.model).__name__,
            "d_model": config.d_model,
            "heads": config.num_heads,
            "d_kv": config.d_kv,
            "layers": {"encoder": config.num_layers, "decoder": config.num_decoder_layers},
            "parameters": family.model.num_parameters(),
            "attention_parameters": attention_parameters(family.model),
        },
        "series": {
            "source": calibration.source,
            "count": len(calibration.contexts),
            "skipped": calibration.skipped,
            "seed": seed,
        },
        "settings": {"epsilons": tolerances, "points": points},
        "versions": versions(),
        "device": str(family.model.device),
    }
    return RankProfile(pd.DataFrame(ranks), pd.concat(curves, ignore_index=True), about)


def _tolerances(epsilons: Sequence[float]) -> list[float]:
    try:
        found = list(dict.fromkeys(map(float, epsilons)))
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 <= epsilon < 1 for epsilon in found):
        raise FlowrankError("epsilons", expected="numbers in [0, 1)", found=epsilons, todo="pass e.g. (0.1, 0.01)")
    return found


Key = tuple[str, str, int, int, str, int]


def _key(site: AttentionSite, quantity: str) -> Key:
    return (site.stack, site.kind, site.layer, site.depth, quantity, -1)


def weight_spectra(family: Family) -> list[tuple[Key, Spectrum]]:
    """Spectra of W_Q, W_K, W_V and W_O of every site, all heads together."""
    found = []
    for site in family.sites:
        for name in ("q", "k", "v", "o"):
            weight = _matrix(getattr(site.module, name))
            if weight.numel():
                found.append((_key(site, f"W_{name.upper()}"), Spectrum.of(weight)))
    return found


def _matrix(projection: nn.Module) -> Tensor:
    if isinstance(projection, FactoredLinear):
        return (projection.up.weight.double() @ projection.down.weight.double()).detach().cpu()
    assert isinstance(projection, nn.Linear)
    return projection.weight.detach().cpu()


def activation_spectra(
    family: Family, contexts: Sequence[Tensor], on_batch: Callable[[int], None] | None = None
) -> list[tuple[Key, Spectrum]]:
    """Spectra of the embedded sequence, the residual stream and each site's inputs and features.

    Padding and missing patches are left out.
    """
    moments: dict[Key, SecondMoment] = {}
    valid: dict[str, Tensor | None] = {"encoder": None, "decoder": None}

    def add(key: Key, rows: Tensor, stack: str) -> None:
        if rows.shape[-1] == 0:
            return
        mask = valid[stack]
        rows = rows.detach()
        chosen = rows if mask is None or mask.shape != rows.shape[:2] else rows[mask]
        if key not in moments:
            moments[key] = SecondMoment(rows.shape[-1])
        moments[key].update(chosen)

    def watch_mask(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        valid["encoder"] = None if mask is None else mask.bool()

    def features(key: Key, stack: str, *, of_input: bool) -> Callable[..., None]:
        def hook(_module: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
            add(key, inputs[0] if of_input else (output[0] if isinstance(output, tuple) else output), stack)

        return hook

    model = family.model
    with family.instrumented(gradients=False), ExitStack() as stack:
        stack.callback(model.encoder.register_forward_pre_hook(watch_mask, with_kwargs=True).remove)
        for name, blocks in (("encoder", model.encoder.block), ("decoder", model.decoder.block)):
            first = features((name, "embedding", 0, 0, "embedding", -1), name, of_input=True)
            stack.callback(blocks[0].register_forward_hook(first).remove)
            for i, block in enumerate(blocks):
                after = features((name, "residual", i, i, "residual", -1), name, of_input=False)
                stack.callback(block.register_forward_hook(after).remove)
        for site in family.sites:
            source = "encoder" if site.kind == "cross" else site.stack
            for quantity, module, side, of_input in (
                ("input", site.module.q, site.stack, True),
                ("queries", site.module.q, site.stack, False),
                ("keys", site.module.k, source, False),
                ("head_outputs", site.module.o, site.stack, True),
            ):
                hook = features(_key(site, quantity), side, of_input=of_input)
                stack.callback(module.register_forward_hook(hook).remove)
        generator = torch.Generator().manual_seed(0)
        for batch in batches(family, contexts):
            family.probe(batch, generator)
            if on_batch is not None:
                on_batch(len(batch))
    return [(key, Spectrum.of_gram(moment.mean()[0])) for key, moment in moments.items()]
