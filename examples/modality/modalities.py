"""Series, text and images as sequences of tokens of one length: what differs between the models, and nothing else.

A token is a patch of k numbers or an index into a vocabulary. Every modality keeps a tenth of its data apart; ranks
and losses are measured on that.
"""

from __future__ import annotations

import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flowrank.synthetic import Mixture

TOKENS = 64
"""Tokens in a sequence, in every modality."""

VOCABULARY = 1024
"""Bins of a quantised series, words of the text, blocks of the images."""

PATCH = 16
"""Values in a patch, as in Chronos-Bolt: 16 of a series in time, or 4×4 pixels."""

BIN_LIMIT = 15.0  # Chronos-T5's
GREY_LEVELS = 6  # 6⁴ blocks of 2×2 pixels, of which the 1023 most frequent have a token of their own
LONGEST = 2048  # values of a generated series: 64 patches of 32
SERIES = 2048


@dataclass(frozen=True)
class Modality:
    """A source of sequences.

    Attributes
    ----------
    name
        As in results and file names.
    train, heldout
        Items, (items, values). A sequence is a random window of one item, or of several items in a row where one is
        too short.
    patch
        k, values that make one token.
    vocabulary
        Number of different tokens; None where a token is a patch of numbers.
    prepare
        Scales, or scales and quantises, the values of whole sequences, (rows, values).
    """

    name: str
    train: np.ndarray
    heldout: np.ndarray
    patch: int
    vocabulary: int | None
    prepare: Callable[[np.ndarray], np.ndarray]

    @property
    def training_tokens(self) -> int:
        """Tokens there are to train on, each counted once."""
        return self.train.size // self.patch

    def draw(self, rng: np.random.Generator, rows: int, *, heldout: bool = False, tokens: int = TOKENS) -> Tensor:
        """Draw random sequences: (rows, tokens) indices, or (rows, tokens, k) numbers."""
        items = self.heldout if heldout else self.train
        needed, length = tokens * self.patch, items.shape[1]
        chosen = rng.integers(len(items), size=(rows, -(-needed // length)))
        if chosen.shape[1] > 1:
            values = items[chosen].reshape(rows, -1)[:, :needed]
        else:
            start = rng.integers(length - needed + 1, size=(rows, 1))
            values = items[chosen, start + np.arange(needed)]
        return tokens_of(self.prepare(values), None if self.vocabulary else self.patch)


def tokens_of(values: np.ndarray, patch: int | None) -> Tensor:
    """Prepared values, (rows, values), as a model takes them: indices, or patches of k numbers."""
    if patch is None:
        return torch.from_numpy(values.astype(np.int64))
    return torch.from_numpy(values.astype(np.float32)).unflatten(1, (-1, patch))


def normalised(values: np.ndarray) -> np.ndarray:
    """Each row minus its mean, over its standard deviation (a constant row: zeros), as Chronos-Bolt scales."""
    deviation = values.std(axis=1, keepdims=True)
    centred = values - values.mean(axis=1, keepdims=True)
    return np.where(deviation > 1e-8, centred / np.maximum(deviation, 1e-8), 0.0)


def binned(values: np.ndarray) -> np.ndarray:
    """Each row over its mean absolute value, in equal bins on [−15, 15], as Chronos-T5 quantises."""
    scale = np.abs(values).mean(axis=1, keepdims=True)
    scaled = values / np.where(scale > 0, scale, 1.0)
    return np.clip((scaled + BIN_LIMIT) / (2 * BIN_LIMIT) * VOCABULARY, 0, VOCABULARY - 1).astype(np.int64)


@cache
def _series() -> tuple[np.ndarray, np.ndarray]:
    kept = []
    for _, values in Mixture().series(4 * SERIES, length=LONGEST, seed=0):
        if np.isfinite(values).all():
            kept.append(values.astype(np.float32))
        if len(kept) == SERIES:
            break
    return _split(np.stack(kept))


@cache
def _images() -> np.ndarray:
    from sklearn.datasets import load_digits

    images: np.ndarray = load_digits().images
    return images[np.random.default_rng(0).permutation(len(images))]


def _split(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = len(items) // 10
    return items[:-apart], items[-apart:]


def _blocks(images: np.ndarray, side: int) -> np.ndarray:
    count = images.shape[1] // side
    blocks = images.reshape(-1, count, side, count, side).swapaxes(2, 3)
    return blocks.reshape(len(images), count * count, side * side)


def _indices(train: Sequence[Hashable], everything: Sequence[Hashable]) -> np.ndarray:
    """Index by frequency in the training part, from 1; 0 is what is not among the 1023 most frequent."""
    index = {item: i for i, (item, _) in enumerate(Counter(train).most_common(VOCABULARY - 1), 1)}
    return np.array([index.get(item, 0) for item in everything])


def series_patches(patch: int = PATCH) -> Modality:
    """Synthetic series by flowrank, each sequence normalised, in patches of k values."""
    return Modality("series patches", *_series(), patch, None, normalised)


def series_bins() -> Modality:
    """The same series, one token a value: mean-scaled, in 1024 bins."""
    return Modality("series bins", *_series(), 1, VOCABULARY, binned)


def text_words() -> Modality:
    """The reference text that ships with Python: words and runs of one punctuation mark."""
    text = "\n".join(pydoc_data.topics.topics.values())
    words = [match.group() for match in re.finditer(r"\w+|([^\w\s])\1*", text)]
    end = len(words) - len(words) // 10
    index = _indices(words[:end], words)
    return Modality("text words", index[None, :end], index[None, end:], 1, VOCABULARY, np.asarray)


def image_patches() -> Modality:
    """Handwritten digits, 16 in a sequence, in 4×4 patches: the k, the scaling and the loss of the series."""
    values = _blocks(_images(), 4).reshape(len(_images()), -1)
    return Modality("image patches", *_split(values), PATCH, None, normalised)


def image_blocks() -> Modality:
    """The same digits, 4 in a sequence, in 2×2 blocks of 6 grey levels: a vocabulary by frequency, like the text's."""
    levels = (_images() / 17 * GREY_LEVELS).astype(np.int64)
    blocks = [tuple(block) for image in _blocks(levels, 2).tolist() for block in image]
    images = len(levels)
    index = _indices(blocks[: (images - images // 10) * 16], blocks)
    return Modality("image blocks", *_split(index.reshape(images, 16)), 1, VOCABULARY, np.asarray)


MODALITIES: dict[str, Callable[[], Modality]] = {
    "series patches": series_patches,
    "series bins": series_bins,
    "text words": text_words,
    "image patches": image_patches,
    "image blocks": image_blocks,
}


def _noise(rng: np.random.Generator, rows: int, values: int) -> np.ndarray:
    return rng.standard_normal((rows, values))


def _sinusoids(rng: np.random.Generator, rows: int, values: int) -> np.ndarray:
    frequency, phase = rng.uniform(0.4, 0.5, (rows, 1)), rng.uniform(0, 2 * np.pi, (rows, 1))
    return np.sin(2 * np.pi * frequency * np.arange(values) + phase)


def _walks(rng: np.random.Generator, rows: int, values: int) -> np.ndarray:
    """Interleave k independent random walks: a patch is one time step of k variates."""
    return rng.standard_normal((rows, values // PATCH, PATCH)).cumsum(axis=1).reshape(rows, values)


def _walk(rng: np.random.Generator, rows: int, values: int) -> np.ndarray:
    return rng.standard_normal((rows, values)).cumsum(axis=1)


HARD_SERIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "random walk": _walk,
    "sinusoids near Nyquist": _sinusoids,
    "white noise": _noise,
    "16 random walks": _walks,
}
"""Series that a model trained on `series_patches` has not seen, the smoothest first."""


def hard_patches(name: str, rng: np.random.Generator, rows: int, *, tokens: int = TOKENS) -> Tensor:
    """Draw sequences of one of `HARD_SERIES`, (rows, tokens, k), scaled like any series."""
    return tokens_of(normalised(HARD_SERIES[name](rng, rows, tokens * PATCH)), PATCH)
