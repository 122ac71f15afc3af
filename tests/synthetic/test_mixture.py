"""The mixture keeps its shares, is the same everywhere, and gives series that can be used."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.synthetic import mixture
from flowrank.synthetic.mixture import EASY, FAMILIES, MIXUP, SHARES, Mixture

DIGEST = """
import hashlib
from flowrank.synthetic.mixture import Mixture
names, values = zip(*Mixture().series(150, length=100, seed=3))
print(hashlib.sha256("".join(names).encode() + b"".join(one.tobytes() for one in values)).hexdigest())
"""

SHARES_OF_ANY_KIND = st.dictionaries(st.sampled_from(sorted({*FAMILIES, MIXUP})), st.floats(0.01, 5), min_size=1)


def test_same_series_in_another_process():
    names, values = zip(*Mixture().series(150, length=100, seed=3), strict=True)
    here = hashlib.sha256("".join(names).encode() + b"".join(one.tobytes() for one in values)).hexdigest()
    there = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


def test_series_depends_on_seed_length_and_number_only():
    many = list(Mixture().series(300, length=64))
    np.random.default_rng(0).random(5)
    for count in (1, 128, 130):
        few = list(Mixture().series(count, length=64))
        assert len(few) == count
        for (name, values), (same_name, same_values) in zip(few, many, strict=False):
            assert name == same_name
            np.testing.assert_array_equal(values, same_values)
    assert list(Mixture().series(0)) == []
    assert len(list(islice(Mixture().series(10**12, length=64), 3))) == 3
    for other in (Mixture().series(1, length=64, seed=1), Mixture().series(1, length=65)):
        [(_, values)] = other
        assert not np.array_equal(values, many[0][1])
    assert not np.array_equal(many[0][1], many[128][1])  # blocks differ


@pytest.mark.parametrize(
    "shares",
    [SHARES, {"clean_season": 3, "exponential_smoothing": 1}, {"clean_season": 1.0, "calendar": 0, MIXUP: 1.0}],
    ids=["default", "two", "half combined"],
)
def test_shares_are_kept(shares):
    count = 3000
    names = [name for name, _ in Mixture(shares).series(count, length=32)]
    for name in {*FAMILIES, MIXUP}:
        chance = shares.get(name, 0) / sum(shares.values())
        assert abs(names.count(name) / count - chance) <= 5 * np.sqrt(chance * (1 - chance) / count), name


def test_families_are_in_random_order():
    names = [name for name, _ in Mixture({"clean_season": 1, "calendar": 1}).series(2000, length=32)]
    changes = sum(one != other for one, other in pairwise(names))
    assert abs(changes - 1000) < 5 * np.sqrt(500)


def test_names_belong_to_their_values(monkeypatch):
    """Families that can be told by their level."""
    for level, name in enumerate(FAMILIES):
        monkeypatch.setitem(
            mixture.FAMILIES,
            name,
            lambda rng, rows, length, level=level: 10.0 * (level + 1) + rng.uniform(-1, 1, (rows, length)),
        )
    families = list(FAMILIES)
    for name, values in Mixture().series(500, length=64):
        if name == MIXUP:
            assert abs(np.nanmean(values) - 1) < 0.2
        else:
            assert abs(np.nanmean(values) - 10 * (families.index(name) + 1)) < 1


def test_combinations_are_of_unit_scale_and_others_are_not():
    scales = [
        np.nanmean(np.abs(values)) for _, values in Mixture({"calendar": 1e-9, MIXUP: 1.0}).series(200, length=64)
    ]
    assert max(scales) < 1.3  # a convex combination of rows whose mean magnitude is 1; some are rounded
    assert np.ptp(np.log10([np.nanmean(np.abs(values)) for _, values in Mixture({"calendar": 1}).series(200)])) > 3


@pytest.mark.parametrize("length", [32, 96, 128, 576])
def test_always_usable(length):
    for name, values in Mixture().series(700, length=length, seed=length):
        observed = values[~np.isnan(values)]
        assert values.shape == (length,)
        assert values.dtype == np.float64
        assert len(observed) >= 3, name
        assert np.isfinite(observed).all(), name
        assert observed.min() < observed.max(), name


def test_some_are_rounded_and_some_have_holes(monkeypatch):
    """Of a family that never rounds and never misses: 8 % on a grid of few values, 5 % with missing ones."""
    monkeypatch.setitem(
        mixture.FAMILIES, "calendar", lambda rng, rows, length: rng.standard_normal((rows, length)) * 1e3
    )
    drawn = [values for _, values in Mixture({"calendar": 1.0}).series(4000, length=600)]
    for expected, found in (
        (0.05, [np.isnan(values).any() for values in drawn]),
        (0.08, [len(np.unique(values[~np.isnan(values)])) < 0.7 * len(values) for values in drawn]),
    ):
        assert abs(np.mean(found) - expected) < 5 * np.sqrt(expected / 4000)
    holes = [np.isnan(values).mean() for values in drawn if np.isnan(values).any()]
    assert max(holes) < 10**-0.5 + 5 * np.sqrt(0.25 / 600)
    log_uniform = (10**-0.5 - 10**-2) / (1.5 * np.log(10))  # its mean
    assert np.mean(holes) == pytest.approx(log_uniform, abs=5 * np.std(holes) / np.sqrt(len(holes)))


@given(shares=SHARES_OF_ANY_KIND, easy=st.floats(0, 1))
def test_easier(shares, easy):
    if not set(shares) & set(FAMILIES):
        return
    total = sum(shares.values())
    whole = {name: share / total for name, share in shares.items()}
    easier = Mixture(shares).easier(easy).shares
    scaled = {name: share / sum(easier.values()) for name, share in easier.items()}
    if whole.get(EASY, 0) >= easy or set(shares) == {EASY}:
        assert scaled == pytest.approx(whole)
        return
    assert scaled[EASY] == pytest.approx(easy)
    for name in set(shares) - {EASY}:  # the others keep their proportions
        assert scaled[name] == pytest.approx(whole[name] * (1 - easy) / (1 - whole.get(EASY, 0)), abs=1e-12)


def test_only_easy():
    names = {name for name, _ in Mixture().easier(1.0).series(50, length=32)}
    assert names == {EASY}


@given(SHARES_OF_ANY_KIND)
def test_share_of_combinations(shares):
    if set(shares) & set(FAMILIES):
        assert Mixture(shares).mixup_share == pytest.approx(shares.get(MIXUP, 0) / sum(shares.values()))


@pytest.mark.parametrize(
    "shares",
    [
        {"sines": 1.0},
        {"structural": 1.0, "sines": 0.0},
        {"structural": -0.1, "calendar": 1.0},
        {"structural": float("nan")},
        {"structural": float("inf")},
        {"structural": "1"},
        {"structural": None},
        {"structural": 0.0},
        {MIXUP: 1.0},
        {MIXUP: 1.0, "calendar": 0},
        {},
        [("structural", 1.0)],
        None,
        0.5,
    ],
)
def test_bad_shares(shares):
    with pytest.raises(FlowrankError, match="shares"):
        Mixture(shares)


def test_too_short():
    assert Mixture().block(np.random.default_rng(0), rows=300, length=20)[1].shape == (300, 20)
    with pytest.raises(FlowrankError, match="length"):
        Mixture().block(np.random.default_rng(0), rows=3, length=19)
    with pytest.raises(FlowrankError, match="length"):
        next(Mixture().series(1, length=5))
