"""Rank in position and the bounds on planes that stop turning; the truth is numpy on rotation matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowrank import FlowrankError, theory
from flowrank.theory import lags_of, merged_planes, position_rank, position_spectrum, slow_planes

FEATURES, BASE = 64, 1e4
FREQUENCIES = torch.tensor([BASE ** (-2 * p / FEATURES) for p in range(FEATURES // 2)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("tokens", "ranks", "slow"),
    [(37, [17, 18, 19], [11, 17]), (101, [24, 25, 26], [7, 13]), (577, [36, 37, 38], [1, 7])],
)
def test_ranks_of_a_head_of_64_features(tokens, ranks, slow):
    """Patches of 16 make 37 tokens of 512 → 64 points; whole distances, both ways, functions as they are."""
    assert [position_rank(FREQUENCIES, lags_of(tokens), epsilon) for epsilon in (0.1, 0.01, 0.001)] == ranks
    assert [int((FREQUENCIES * tokens < angle).sum()) for angle in (0.1, 0.5)] == slow


def test_the_spectrum_is_that_of_cosines_and_sines():
    lags = np.array([-3.0, 0.0, 0.5, 7.0])
    functions = [f(theta * lags) for theta in (1.0, 0.3) for f in (np.cos, np.sin)]
    expected = np.linalg.svd(np.stack(functions), compute_uv=False)
    found = position_spectrum(torch.tensor([1.0, 0.3], dtype=torch.float64), torch.from_numpy(lags))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_whole_turns_have_a_closed_form():
    """At θ = 2π j / n and all n places cosines and sines are orthogonal, each of squared length n / 2."""
    n = 12
    frequencies = 2 * math.pi * torch.arange(1, 5, dtype=torch.float64) / n
    sigma = position_spectrum(frequencies, torch.arange(n, dtype=torch.float64))
    np.testing.assert_allclose(sigma, [math.sqrt(n / 2)] * 8, rtol=1e-12)


def score(query: np.ndarray, key: np.ndarray, frequencies: np.ndarray, place_q: float, place_k: float) -> float:
    """Queries and keys turned by 2 × 2 matrices, each to its own place, as a model does it."""
    planes = len(frequencies)
    total = 0.0
    for p, theta in enumerate(frequencies):
        turned = []
        for features, place in ((query, place_q), (key, place_k)):
            c, s = math.cos(theta * place), math.sin(theta * place)
            turned.append(np.array([[c, -s], [s, c]]) @ features[[p, planes + p]])
        total += turned[0] @ turned[1]
    return total


def instance(seed: int, pairs: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    planes = int(rng.integers(1, 6))
    frequencies = 10 ** rng.uniform(-5, 0.5, planes)
    query, key = rng.normal(size=(2, pairs, 2 * planes)) * 10 ** rng.uniform(-1, 1, (2, 1, 2 * planes))
    return query, key, frequencies, rng.integers(0, 600, (2, pairs))


def as_complex(features: np.ndarray) -> torch.Tensor:
    first, second = np.split(features, 2, axis=1)
    return torch.from_numpy(first + 1j * second)


def test_planes_that_do_not_turn_change_scores_by_no_more_than_the_bound():
    for seed in range(2000):
        query, key, frequencies, places = instance(seed)
        lags = torch.from_numpy(places[1] - places[0]).double()
        result = slow_planes(as_complex(query), as_complex(key), torch.from_numpy(frequencies), lags)
        assert result.holds, seed
        if seed < 50:
            expected = [
                abs(score(q, k, frequencies, i, j) - q @ k) for q, k, i, j in zip(query, key, *places, strict=True)
            ]
            np.testing.assert_allclose(result.actual, expected, rtol=1e-8, atol=1e-9)


def test_the_bound_is_met_by_a_plane_at_half_a_turn():
    """|e^{iπ} − 1| = 2, and θ |Δ| = π is above it."""
    one = torch.ones(1, 1, dtype=torch.complex128)
    result = slow_planes(one, one, torch.tensor([math.pi], dtype=torch.float64), torch.ones(1))
    assert float(result.actual) == pytest.approx(2)
    assert float(result.bound) == 2


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(2, 12))
def test_a_merged_block_changes_scores_by_no_more_than_the_bound(seed, planes, width):
    rng = np.random.default_rng(seed)
    w_q, w_k = rng.normal(size=(2, 2 * planes, width)) * 0.6 ** np.arange(2 * planes)[:, None]
    x, y = rng.normal(size=(2, width, 6))
    frequencies, places = 10 ** rng.uniform(-5, 0, planes), rng.integers(0, 100, (2, 6))
    rank = int(rng.integers(1, 2 * planes + 1))
    arguments = [torch.from_numpy(one) for one in (x, y, w_q, w_k, frequencies, places[1] - places[0])]
    result = merged_planes(*arguments, rank=rank)
    assert result.holds
    u, s, v = np.linalg.svd(w_q.T @ w_k)
    s = np.where(np.arange(len(s)) < rank, s, 0.0)
    for i, (place_q, place_k) in enumerate(places.T):
        whole = score(w_q @ x[:, i], w_k @ y[:, i], frequencies, place_q, place_k)
        merged = x[:, i] @ (u * s) @ v @ y[:, i]
        assert float(result.actual[i]) == pytest.approx(abs(whole - merged), abs=1e-8)


def test_a_block_of_full_rank_costs_what_its_planes_do():
    query, key, frequencies, places = instance(3)
    lags = torch.from_numpy(places[1] - places[0]).double()
    planes = len(frequencies)
    eye = torch.eye(2 * planes, dtype=torch.float64)
    columns = [torch.from_numpy(one.T) for one in (query, key)]
    theta = torch.from_numpy(frequencies)
    whole = merged_planes(*columns, eye, eye, theta, lags, rank=2 * planes)
    turned = slow_planes(as_complex(query), as_complex(key), theta, lags)
    np.testing.assert_allclose(whole.actual, turned.actual, atol=1e-9)
    np.testing.assert_allclose(whole.bound, turned.bound, rtol=1e-12)


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(FlowrankError, match=r"epsilon: expected a number in \[0, 1\)"):
        position_rank(FREQUENCIES, lags_of(3), 1.0)
    with pytest.raises(FlowrankError, match="frequencies: expected at least one"):
        position_spectrum(torch.zeros(0), lags_of(3))
    with pytest.raises(FlowrankError, match="tokens: expected a whole number"):
        lags_of(0)
    x, w = torch.ones(3, 1), torch.ones(2, 3)
    with pytest.raises(FlowrankError, match="rank: expected at most 2"):
        merged_planes(x, x, w, w, torch.ones(1), torch.ones(1), rank=3)
    with pytest.raises(FlowrankError, match="two rows for each of 2 planes"):
        merged_planes(x, x, w, w, torch.ones(2), torch.ones(1), rank=1)
    assert theory.lags_of is lags_of
