from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrank.errors import FlowrankError
from flowrank.linalg import (
    Moments,
    SecondMoment,
    Spectrum,
    balanced_basis,
    balanced_scales,
    epsilon_rank,
    input_svd,
    marchenko_pastur_edge,
    moment_root,
)

EPS = torch.finfo(torch.float64).eps


def gaussian(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10_000), st.floats(-9, 9), st.integers(1, 6))
def test_balanced_factors_have_the_same_product_and_equal_sizes(seed, exponent, rank):
    left, right = gaussian(seed, 7, rank) * 10**exponent, gaussian(seed + 1, rank, 4)
    left[:, 0] = 0.0
    a, b = balanced_scales(left, right)
    # A sum of `rank` products, each factor scaled once: what its terms lose, however much of them cancels.
    rounding = (rank + 4) * EPS * (left.abs() @ right.abs())
    assert ((a @ b - left @ right).abs() <= rounding).all()
    sizes = a.square().mean(dim=0)[1:], b.square().mean(dim=1)[1:]
    assert torch.allclose(*sizes, rtol=32 * EPS, atol=0.0)


def test_epsilon_rank_of_a_known_spectrum():
    q = torch.linalg.qr(gaussian(0, 5, 5)).Q
    matrix = q @ torch.diag(torch.tensor([10.0, 5.0, 0.2, 0.05, 0.0], dtype=torch.float64)) @ q.T
    assert [epsilon_rank(matrix, e) for e in (0.6, 0.1, 0.01, 1e-3)] == [1, 2, 3, 4]


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=40)
def test_spectrum_agrees_with_its_gram_and_ranks_are_monotone(seed, rows, columns):
    a = gaussian(seed, rows, columns)
    direct, gram = Spectrum.of(a), Spectrum.of_gram(a.T @ a)
    n = min(rows, columns)
    assert torch.allclose(direct.sigma[:n], gram.sigma[:n], atol=1e-6)
    ranks = [direct.epsilon_rank(e) for e in (0.0, 0.01, 0.1, 0.5, 0.99)]
    assert ranks == sorted(ranks, reverse=True)
    assert 1 - 1e-9 <= direct.stable_rank <= n + 1e-9
    assert 1 - 1e-9 <= direct.effective_rank <= n + 1e-9


def test_zero_matrix_has_rank_zero():
    zero = Spectrum.of(torch.zeros(3, 4))
    assert (zero.epsilon_rank(0.0), zero.stable_rank, zero.effective_rank) == (0, 0.0, 0.0)
    assert Spectrum(torch.zeros(0)).stable_rank == 0.0


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 2.0])
def test_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(FlowrankError, match="epsilon"):
        epsilon_rank(torch.eye(2), epsilon)


def test_streamed_moment_equals_the_whole():
    x = gaussian(1, 100, 6).float()
    moment = SecondMoment(6)
    for part in x.split([7, 13, 80]):
        moment.update(part.reshape(-1, 1, 6))
    assert torch.allclose(moment.mean()[0], (x.T @ x / 100).double(), atol=1e-5)
    assert SecondMoment(3).mean().abs().sum() == 0


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(0, 9))
@settings(max_examples=40)
def test_moment_root_is_a_root_even_when_singular(seed, n, rows):
    x = gaussian(seed, rows, n)
    moment = x.T @ x
    root = moment_root(moment, ridge=1e-9)
    scale = moment.diagonal().mean().clamp_min(1e-12)
    if rows:
        assert torch.allclose(root @ root.T, moment, atol=1e-6 * float(scale) + 1e-9)
    else:
        assert torch.equal(root, torch.eye(n, dtype=torch.float64))


def test_indefinite_rounding_does_not_break_the_root():
    moment = torch.diag(torch.tensor([1.0, -1e-6, 0.0], dtype=torch.float64))
    root = moment_root(moment, ridge=1e-9)
    assert torch.isfinite(root).all()
    assert torch.allclose(root @ root.T, moment.clamp_min(0), atol=1e-5)


def test_moment_that_is_not_finite_is_refused():
    with pytest.raises(FlowrankError, match="moment"):
        moment_root(torch.tensor([[float("nan")]]))


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6), st.integers(1, 5))
@settings(max_examples=30)
def test_input_svd_loses_exactly_the_discarded_energy_and_nothing_beats_it(seed, m, n, rank):
    w, x = gaussian(seed, m, n), gaussian(seed + 1, 50, m) * torch.logspace(0, -2, m, dtype=torch.float64)
    moment = x.T @ x / 50
    root = moment_root(moment, ridge=0.0)
    a, sigma, b = input_svd(w, root)
    assert torch.allclose(a @ b, w, atol=1e-8)
    rank = min(rank, len(sigma))

    def loss(replacement):
        return float((x @ (w - replacement)).square().sum() / 50)

    ours = loss(a[:, :rank] @ b[:rank])
    assert ours == pytest.approx(float(sigma[rank:].square().sum()), rel=1e-6, abs=1e-10)
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    assert ours <= loss((u[:, :rank] * s[:rank]) @ v[:rank]) + 1e-10


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 5))
@settings(max_examples=40)
def test_balanced_basis_is_the_optimal_joint_truncation(seed, width, rank):
    """Against the definition: the truncated SVD of L_Xᵀ W_Q W_Kᵀ L_Y at full size."""
    d = 7
    w_q, w_k = gaussian(seed, d, width), gaussian(seed + 1, d, width)
    c_x, c_y = (x.T @ x for x in (gaussian(seed + 2, 30, d), gaussian(seed + 3, 30, d)))
    s, t, sigma = balanced_basis(w_q.T @ c_x @ w_q, w_k.T @ c_y @ w_k, ridge=0.0)
    assert torch.allclose(s @ t.T, torch.eye(width, dtype=torch.float64), atol=1e-7)
    rank = min(rank, width)
    l_x, l_y = moment_root(c_x, 0.0), moment_root(c_y, 0.0)
    full = l_x.T @ w_q @ w_k.T @ l_y
    ours = l_x.T @ (w_q @ s[:, :rank]) @ (w_k @ t[:, :rank]).T @ l_y
    u, values, v = torch.linalg.svd(full)
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    assert torch.allclose(sigma, values[:width], rtol=1e-6, atol=1e-8)
    assert torch.allclose(ours, best, atol=1e-6 * float(values[0]))
    assert float((full - ours).square().sum()) == pytest.approx(float(sigma[rank:].square().sum()), rel=1e-6, abs=1e-8)


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 6), st.booleans())
def test_moments_are_those_of_all_rows(dim, count, outputs, biased):
    """In blocks above the diagonal, in two parts; and of a linear image of the rows."""
    generator = torch.Generator().manual_seed(dim * 100 + count)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64) + 1
    weight = torch.randn(outputs, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64) if biased else None
    moments = Moments(dim)
    moments.update(rows[: count // 3])
    moments.update(rows[count // 3 :].reshape(-1, 1, dim))
    assert moments.count == count
    torch.testing.assert_close(moments.total, rows.sum(dim=0))
    torch.testing.assert_close(moments.gram(), rows.T @ rows)
    image = rows @ weight.T if bias is None else rows @ weight.T + bias
    torch.testing.assert_close(moments.image(weight, bias), image.T @ image)


@pytest.mark.parametrize("shape", [(300, 300), (400, 100), (64, 768)])
@pytest.mark.parametrize("planted", [0, 1, 5])
def test_what_was_planted_in_noise_stands_above_its_edge(shape, planted):
    generator = torch.Generator().manual_seed(planted)
    noise = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    left, _ = torch.linalg.qr(torch.randn(shape[0], 5, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(shape[1], 5, generator=generator, dtype=torch.float64))
    strength = 3 * 0.3 * (shape[0] ** 0.5 + shape[1] ** 0.5)
    sigma = torch.linalg.svdvals(noise + strength * left[:, :planted] @ right[:, :planted].T)
    edge = marchenko_pastur_edge(sigma, shape)
    assert edge == pytest.approx(0.3 * (shape[0] ** 0.5 + shape[1] ** 0.5), rel=0.03)
    assert int((sigma > 1.05 * edge).sum()) == planted


def test_a_matrix_of_low_rank_is_all_signal():
    sigma = torch.cat([torch.arange(3.0, 0.0, -1.0), torch.zeros(7)])
    edge = marchenko_pastur_edge(sigma, (10, 20))
    assert int((sigma > edge).sum()) == 3
