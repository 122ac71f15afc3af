"""Random instances of every theorem; the truth is an SVD of the matrices themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrank import FlowrankError, theory

seeds = st.integers(0, 2**31)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def decaying(seed: int, rows: int, columns: int, rate: float) -> torch.Tensor:
    """A matrix with singular values rate^j."""
    left, right = normal(seed, (rows, rows), (columns, columns))
    sigma = rate ** torch.arange(min(rows, columns), dtype=torch.float64)
    return (torch.linalg.qr(left).Q[:, : len(sigma)] * sigma) @ torch.linalg.qr(right).Q[:, : len(sigma)].T


@given(seeds, st.integers(1, 4), st.integers(4, 40))
def test_theorem_1_smooth(seed, nu, width):
    """Splines |x − c|^ν sign(x − c)^(ν+1): the ν-th derivative jumps by 2 ν! at c."""
    generator = torch.Generator().manual_seed(seed)
    knots = 1.8 * torch.rand(width, generator=generator, dtype=torch.float64) - 0.9
    x = 2 * torch.rand(200, generator=generator, dtype=torch.float64) - 1
    distance = x - knots[:, None]
    xi = distance.abs() ** nu * (distance.sign() if nu % 2 == 0 else 1)
    result = theory.theorem_1_smooth(xi, derivatives=nu, variation=2 * math.factorial(nu))
    assert len(result.actual) == max(0, min(xi.shape) - nu - 2)
    assert result.holds


@given(seeds, st.floats(1.05, 4.0), st.integers(2, 30))
def test_theorem_1_analytic(seed, rho, width):
    """Random Chebyshev series, bounded in the ellipse by the sum of |c_n| (ρ^n + ρ^−n) / 2."""
    degrees = torch.arange(60, dtype=torch.float64)
    coefficients, angles = normal(seed, (width, 60), (1, 150))
    coefficients = coefficients * (1.2 * rho) ** -degrees
    xi = coefficients @ torch.cos(degrees[:, None] * angles)
    maximum = float((coefficients.abs() @ ((rho**degrees + rho**-degrees) / 2)).max())
    result = theory.theorem_1_analytic(xi, rho=rho, maximum=maximum)
    assert len(result.actual) == min(xi.shape) - 1
    assert result.holds


@given(
    seeds,
    st.integers(1, 6),
    st.floats(0.05, 2.0),
    st.sampled_from([torch.relu, torch.tanh, torch.sin, torch.nn.functional.silu, lambda x: x]),
    st.floats(0, 10),
)
def test_theorem_2(seed, k, epsilon, activation, skip):
    x, w1, w2, w3 = normal(seed, (k, 80), (48, k), (32, 48), (32, k))
    assert theory.theorem_2(x, w1, w2, skip * w3, epsilon, activation).holds


@given(seeds, st.integers(1, 3), st.floats(0.2, 1.0))
def test_theorem_2_with_biases_counts_one_input_more(seed, k, epsilon):
    x, w1, w2, w3, b1, b2 = normal(seed, (k, 80), (48, k), (32, 48), (32, k), (48, 1), (32, 1))
    ones = torch.ones(1, 80, dtype=torch.float64)
    result = theory.theorem_2(torch.cat([x, ones]), torch.cat([w1, b1], 1), w2, torch.cat([w3, b2], 1), epsilon)
    embedded = w3 @ x + b2 + w2 @ torch.relu(w1 @ x + b1)
    norms = torch.linalg.matrix_norm(w2, 2) * torch.linalg.matrix_norm(w1 @ x + b1, 2)
    assert float(result.actual) == int((torch.linalg.svdvals(embedded) > epsilon * norms).sum())
    assert result.holds
    assert float(result.bound) == min(32, (1 + epsilon**-2) * (k + 1))


@given(seeds, st.integers(1, 12), st.floats(0.1, 0.95), st.floats(0.05, 3.0))
def test_theorem_3(seed, rank, rate, scale):
    xi = 3 * decaying(seed, 12, 60, rate)
    w_q, w_k, w_v = (scale * w for w in normal(seed + 1, (4, 12), (4, 12), (6, 12)))
    columns = torch.randint(60, (15,), generator=torch.Generator().manual_seed(seed))
    assert theory.theorem_3(xi[:, columns], xi, w_q, w_k, w_v, rank).holds


@given(seeds, st.integers(2, 10))
def test_projecting_the_input_beats_truncating_the_weights(seed, rank):
    """What the construction is about: exact on an input of rank r, where the SVD of the weights alone is not."""
    xi = decaying(seed, 12, 60, 0.9)
    xi = theory.projected_on_input((xi.T,), xi, rank)[0].T
    weights = normal(seed + 1, (4, 12), (4, 12), (12, 12))
    projected = theory.projected_on_input(tuple(weights), xi, rank)
    assert all(torch.linalg.matrix_rank(w) <= rank for w in projected)
    torch.testing.assert_close(theory.attention(xi, *projected), theory.attention(xi, *weights))


@settings(max_examples=30)
@given(seeds, st.integers(2, 8), st.floats(0.5, 1.0))
def test_theorem_3_is_tight(seed, width, rate):
    """Neither the best rank-r output nor random and projected rank-r weights come below a quarter of σ_{r+1}(Ξ)."""
    xi = decaying(seed, width, width, rate)
    weights = theory.theorem_3_hard_weights(xi)
    exact = theory.attention(xi, *weights)
    sigma = torch.linalg.svdvals(xi)
    rank = 1 + seed % (width - 1)
    assert torch.linalg.svdvals(exact)[rank] >= sigma[rank] / 4 * (1 - 1e-9)
    left, right, scale = normal(seed, (width, rank), (rank, width), (1,))
    for candidate in (left @ right, scale * left @ right, *theory.projected_on_input((weights[2],), xi, rank)):
        for q, k in (weights[:2], normal(seed + 2, (width, width), (width, width))):
            error = torch.linalg.matrix_norm(exact - theory.attention(xi, q, k, candidate), 2)
            assert error >= sigma[rank] / 4 * (1 - 1e-9)


@given(seeds, st.integers(1, 4), st.integers(1, 50), st.floats(0.3, 0.95), st.floats(0.1, 2.0))
def test_theorem_4_and_its_corollary(seed, heads, depth, rate, scale):
    """A residual attention layer with its own constants: ‖W_V‖, ‖A‖ and σ_1(Z) / σ_1(U) as they are."""
    u = decaying(seed, 12, 30, rate)
    y, values, mixings = torch.zeros_like(u), [], []
    for head in range(heads):
        w_q, w_k, w_v = (scale * w for w in normal(seed + 10 * head, (4, 12), (4, 12), (12, 12)))
        mixing = ((w_k @ u).T @ (w_q @ u)).softmax(dim=0)
        y += w_v @ u @ mixing
        values.append(float(torch.linalg.matrix_norm(w_v, 2)))
        mixings.append(float(torch.linalg.matrix_norm(mixing, 2)))
    before, after = torch.linalg.svdvals(u), torch.linalg.svdvals(u + y / depth**0.5)
    constants = {
        "heads": heads,
        "depth": depth,
        "value_norm": max(values),
        "attention_norm": max(mixings),
        "kept": float(after[0] / before[0]),
    }
    bound = theory.theorem_4(before, **constants)
    assert theory.Inequality(after / after[0], bound).holds
    corollary = theory.corollary_1(before, **constants)
    assert (corollary >= bound - 1e-12).all()


@given(seeds, st.integers(1, 3), st.floats(0.3, 0.95), st.integers(3, 20))
def test_theorem_4_when_the_heads_read_something_else(seed, heads, rate, width):
    """Cross-attention, or a norm before: Z = U + Σ W_V N A with N of another size and spectrum."""
    u, n = decaying(seed, 12, 30, rate), decaying(seed + 1, width, 40, 0.9)
    y, gains = torch.zeros_like(u), []
    for head in range(heads):
        scores, w_v = normal(seed + 10 * head, (40, 30), (12, width))
        mixing = scores.softmax(dim=0)
        y += w_v @ n @ mixing
        gains.append(float(torch.linalg.matrix_norm(w_v, 2) * torch.linalg.matrix_norm(mixing, 2)))
    before, after = torch.linalg.svdvals(u), torch.linalg.svdvals(u + y)
    constants = {"value_norm": max(gains), "attention_norm": 1.0, "kept": float(after[0] / before[0])}
    bound = theory.theorem_4(before, heads=heads, depth=1, source=torch.linalg.svdvals(n), **constants)
    assert theory.Inequality(after / after[0], bound).holds
    if after[0] > before[0]:
        reads_nothing = theory.theorem_4(before, heads=heads, depth=1, source=torch.zeros(1), **constants)
        torch.testing.assert_close(reads_nothing, (before / after[0]).clamp_max(1.0))


@given(seeds, st.floats(0.3, 0.9))
def test_the_papers_constants_hold_under_its_assumptions(seed, rate):
    """Scores in [−1, 1], ‖W_V‖ ≤ 1 and a deep model: e² bounds ‖A‖ and ½ what is kept."""
    heads = 2
    depth = math.ceil((2 * math.e**2 * heads) ** 2)
    u = decaying(seed, 10, 25, rate)
    y = torch.zeros_like(u)
    for head in range(heads):
        w_q, w_k, w_v = normal(seed + head, (4, 10), (4, 10), (10, 10))
        scores = (w_k @ u).T @ (w_q @ u)
        mixing = (scores / scores.abs().max()).softmax(dim=0)
        assert torch.linalg.matrix_norm(mixing, 2) <= math.e**2
        y += w_v / torch.linalg.matrix_norm(w_v, 2) @ u @ mixing
    after = torch.linalg.svdvals(u + y / depth**0.5)
    assert after[0] >= torch.linalg.svdvals(u)[0] / 2
    bound = theory.theorem_4(torch.linalg.svdvals(u), heads=heads, depth=depth)
    assert theory.Inequality(after / after[0], bound).holds


def test_a_violation_is_seen():
    assert not theory.Inequality(torch.tensor([1.0, 2.1]), torch.tensor([2.0, 2.0])).holds
    assert theory.Inequality(torch.tensor([1.0]), torch.tensor([3.0])).looseness.item() == 3


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: theory.theorem_1_smooth(torch.eye(4), derivatives=0, variation=1.0), "derivatives"),
        (lambda: theory.theorem_1_smooth(torch.eye(4), derivatives=1, variation=0.0), "variation"),
        (lambda: theory.theorem_1_analytic(torch.eye(4), rho=1.0, maximum=1.0), "rho"),
        (lambda: theory.theorem_2(*normal(0, (2, 5), (3, 2), (4, 3), (4, 2)), epsilon=0.0), "epsilon"),
        (lambda: theory.theorem_2(*normal(0, (2, 5), (3, 2), (4, 3), (4, 2)), 0.1, torch.exp), "activation"),
        (lambda: theory.projected_on_input((torch.eye(3),), torch.eye(3), 4), "rank"),
        (lambda: theory.theorem_3_hard_weights(torch.ones(3, 3)), "xi"),
        (lambda: theory.theorem_4(torch.zeros(3), heads=1, depth=1), "sigma"),
        (lambda: theory.theorem_4(torch.ones(3), heads=0, depth=1), "heads"),
        (lambda: theory.corollary_1(torch.ones(3), heads=1, depth=1, kept=0.0), "kept"),
    ],
)
def test_what_makes_no_sense_is_refused(call, argument):
    with pytest.raises(FlowrankError, match=f"^{argument}: expected"):
        call()
