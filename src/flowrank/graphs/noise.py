"""Noise of sample paths, which belongs to a series and a seed: the same in any batch, engine and process.

It is that of torch's generator on a CPU, a Mersenne twister, made without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_BITS = np.uint32(2**24 - 1)  # of a number of 32 bits, that make one in [0, 1)


def first_number(seed: int) -> int:
    """What ``torch.randint(2**62, ())`` gives after ``torch.manual_seed(seed)``.

    Examples
    --------
    >>> import torch
    >>> first_number(3) == int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    True
    """
    high, low = map(int, _numbers(np.random.RandomState(), seed, 2))
    return ((high << 32) | low) % 2**62


def series_keys(context: np.ndarray, seed: int, block: int) -> list[int]:
    """A number for each series of a batch (series, time) that depends only on its values, a seed and a block.

    Leading NaN do not count, so a series has the same key in any batch. Equal series have equal keys.

    Examples
    --------
    >>> a, b = np.array([[np.nan, 1.0], [2.0, 1.0]]), np.array([[1.0]])
    >>> series_keys(a, 0, 0)[0] == series_keys(b, 0, 0)[0] != series_keys(b, 1, 0)[0]
    True
    """
    values = np.array(context, dtype=np.float32)
    missing = np.isnan(values)
    values[missing] = np.nan  # one bit pattern for all of them
    starts = np.logical_and.accumulate(missing, axis=1).sum(axis=1)
    key = seed.to_bytes(8, "little") + block.to_bytes(8, "little")
    digests = (
        hashlib.blake2b(row[start:].tobytes(), digest_size=8, key=key)
        for row, start in zip(values, starts.tolist(), strict=True)
    )
    return [int.from_bytes(digest.digest(), "little") >> 1 for digest in digests]


def path_keys(keys: Sequence[int], paths: int) -> list[int]:
    """A key for each path of each series, in the order of the series, for paths that are continued separately.

    Examples
    --------
    >>> keys = path_keys([1, 2], 2)
    >>> len(set(keys)), keys == [*path_keys([1], 2), *path_keys([2], 2)]
    (4, True)
    """
    bits = (
        hashlib.blake2b(path.to_bytes(8, "little"), digest_size=8, key=key.to_bytes(8, "little"))
        for key in keys
        for path in range(paths)
    )
    return [int.from_bytes(digest.digest(), "little") >> 1 for digest in bits]


def uniforms(keys: Sequence[int], steps: int, draws: int) -> np.ndarray:
    """Noise (series, steps, draws) in [0, 1), fp32, that depends on each series' key alone."""
    noise = np.empty((len(keys), steps * draws), dtype=np.float32)
    twister = np.random.RandomState()
    for row, key in zip(noise, keys, strict=True):
        row[:] = _numbers(twister, key, steps * draws) & _BITS
    noise *= np.float32(2.0**-24)
    return noise.reshape(len(keys), steps, draws)


def _numbers(twister: np.random.RandomState, seed: int, count: int) -> np.ndarray:
    """The first numbers of 32 bits that a Mersenne twister gives after a seed; torch takes its lower 32 bits."""
    twister.seed(seed & 0xFFFFFFFF)
    return twister.randint(0, 2**32, size=count, dtype=np.uint32)
