"""The built-in calibration series: reproducible, varied and always usable."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest

from flowrank.errors import FlowrankError
from flowrank.synthetic import synthetic_series

DIGEST = """
import hashlib
from flowrank.synthetic import synthetic_series
targets = [series.target.tobytes() for series in synthetic_series(150, length=200, seed=3)]
print(hashlib.sha256(b"".join(targets)).hexdigest())
"""


@pytest.fixture(scope="module")
def many() -> list[np.ndarray]:
    return [series.target for series in synthetic_series(1500)]


def test_same_seed_same_series_in_another_process():
    here = hashlib.sha256(b"".join(s.target.tobytes() for s in synthetic_series(150, length=200, seed=3))).hexdigest()
    there = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


def test_count_does_not_change_the_earlier_ones(many):
    for one, other in zip(synthetic_series(140), many[:140], strict=True):
        np.testing.assert_array_equal(one.target, other)
    assert not np.array_equal(next(synthetic_series(1, seed=1)).target, many[0])


def test_stream_is_lazy():
    started = time.perf_counter()
    assert len(list(islice(synthetic_series(10**9), 3))) == 3
    assert time.perf_counter() - started < 5
    assert list(synthetic_series(0)) == []


@pytest.mark.parametrize("length", [20, 21, 64, 1024])
def test_always_usable(length):
    for series in synthetic_series(600, length=length, seed=length):
        observed = series.target[~np.isnan(series.target)]
        assert 20 <= len(series) <= length
        assert len(observed) >= 3
        assert np.isfinite(observed).all()
        assert observed.min() < observed.max()
        assert series.target.dtype == np.float64


def test_varied(many):
    shares = {
        "short": np.mean([len(target) < 1024 for target in many]),
        "missing": np.mean([np.isnan(target).any() for target in many]),
        "counts": np.mean([_whole(target) and np.nanmin(target) >= 0 for target in many]),
        "rare": np.mean([np.mean(target[~np.isnan(target)] == 0) > 0.4 for target in many]),
        "negative": np.mean([np.nanmin(target) < 0 for target in many]),
        "persistent": np.mean([_autocorrelation(target, 1) > 0.9 for target in many]),
        "rough": np.mean([_autocorrelation(target, 1) < 0.2 for target in many]),
        "weekly": np.mean([_autocorrelation(np.diff(target), 7) > 0.3 for target in many]),
        "daily": np.mean([_autocorrelation(np.diff(target), 24) > 0.3 for target in many]),
    }
    for kind, share in shares.items():
        assert 0.04 < share < 0.75, (kind, share)
    scales = np.log10([np.nanstd(target) for target in many])
    assert np.ptp(scales) > 6


def _whole(target: np.ndarray) -> bool:
    observed = target[~np.isnan(target)]
    return bool((observed == np.round(observed)).all())


def _autocorrelation(target: np.ndarray, lag: int) -> float:
    left, right = target[lag:], target[:-lag]
    both = ~(np.isnan(left) | np.isnan(right))
    if both.sum() < 10 or left[both].std() == 0 or right[both].std() == 0:
        return 0.0
    return float(np.corrcoef(left[both], right[both])[0, 1])


def test_bad_arguments():
    for arguments, word in (
        ({"count": -1}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": 1, "length": 19}, "length"),
        ({"count": 1, "seed": -1}, "seed"),
    ):
        with pytest.raises(FlowrankError, match=word):
            synthetic_series(**arguments)
