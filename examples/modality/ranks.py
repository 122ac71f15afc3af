"""What is measured of every model: ε-ranks of its embedded tokens, its weights and its residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import flowrank
from flowrank.linalg import SecondMoment, Spectrum
from flowrank.theory import theorem_2
from model import PatchEmbedding, SequenceModel

EPSILONS = (0.1, 0.01)
ROWS = 32  # sequences in a batch


def measures(spectrum: Spectrum, **where: Any) -> list[dict[str, Any]]:
    """One row an ε: the rank and what does not depend on ε."""
    return [
        {
            **where,
            "dim": len(spectrum.sigma),
            "epsilon": epsilon,
            "rank": spectrum.epsilon_rank(epsilon),
            "effective_rank": spectrum.effective_rank,
            "stable_rank": spectrum.stable_rank,
        }
        for epsilon in EPSILONS
    ]


@torch.no_grad()
def embedding_spectra(model: SequenceModel, sequences: Tensor) -> dict[str, Spectrum]:
    """Spectra before the trunk adds positions.

    "tokens": the matrix Ξ of the embeddings of all tokens of the sequences, each as often as it occurs; "table": one
    row a word of the vocabulary; "patches": the numbers themselves, before any network.
    """
    found = {"tokens": _moment_spectrum(model.embedding(part) for part in sequences.split(ROWS))}
    if isinstance(model.embedding, nn.Embedding):
        found["table"] = Spectrum.of(model.embedding.weight)
    else:
        found["patches"] = _moment_spectrum(iter(sequences.split(ROWS)))
    return found


def _moment_spectrum(parts: Iterator[Tensor]) -> Spectrum:
    first = next(parts)
    moment = SecondMoment(first.shape[-1])
    moment.update(first)
    for part in parts:
        moment.update(part)
    return Spectrum.of_gram(moment.mean()[0])


@torch.no_grad()
def stream_ranks(model: SequenceModel, sequences: Tensor) -> pd.DataFrame:
    """Ranks over depth by `flowrank.analyze`: of the embedding with its positions, the residual stream, the weights."""
    batches = [{"inputs_embeds": model.embedding(part)} for part in sequences.split(ROWS)]
    return flowrank.analyze(model.trunk, batches=batches, epsilons=EPSILONS).ranks


@torch.no_grad()
def theorem_2_count(embedding: PatchEmbedding, sequences: Tensor, epsilon: float) -> tuple[int, float]:
    """Both sides of theorem 2 for embedded patches: singular values above its own threshold, and the bound.

    The biases make a constant 1 one more input: k + 1 in place of k.
    """
    x = sequences.flatten(0, -2).T
    x = torch.cat([x, torch.ones(1, x.shape[1])])
    w1 = torch.cat([embedding.hidden.weight, embedding.hidden.bias[:, None]], dim=1)
    w3 = torch.cat([embedding.residual.weight, (embedding.residual.bias + embedding.output.bias)[:, None]], dim=1)
    sides = theorem_2(x, w1, embedding.output.weight, w3, epsilon)
    return int(sides.actual), float(sides.bound)


def theorem_2_bound(patch: int, width: int, epsilon: float) -> float:
    """min{d, (1 + ε⁻²) (k + 1)}."""
    return min(width, (1 + epsilon**-2) * (patch + 1))


@torch.no_grad()
def projections(model: SequenceModel) -> dict[tuple[int, str], Tensor]:
    """W_Q, W_K and W_V of each layer, all heads together."""
    return {
        (layer, name): part
        for layer, block in enumerate(model.trunk.h)
        for name, part in zip(("W_Q", "W_K", "W_V"), block.attn.c_attn.weight.chunk(3, dim=1), strict=True)
    }
