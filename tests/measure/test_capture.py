from __future__ import annotations

import pytest
import torch

import flowrank
from flowrank.compression.factorize import JointFactorization
from flowrank.family import family_of, pad_left
from flowrank.measure import (
    HeadActivations,
    batches,
    head_moments,
    input_moments,
    rank_grid,
    rank_losses,
)
from flowrank.measure.calibration import Calibration


def random_activations(seed: int = 0) -> tuple[HeadActivations, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value, gradient = (
        torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64) for n in (5, 6, 6, 5)
    )
    bias = torch.randn(1, 3, 5, 6, generator=generator, dtype=torch.float64)
    scores = (query @ key.transpose(-1, -2) + bias).requires_grad_()
    weights = scores.softmax(-1)
    output = weights @ value
    (output * gradient).sum().backward()
    seen = HeadActivations(query, key, value, output.detach(), gradient, weights.detach(), bias)
    assert scores.grad is not None
    return seen, scores.grad


def test_score_gradient_is_what_autograd_says():
    seen, expected = random_activations()
    assert torch.allclose(seen.score_gradient(), expected)


def test_head_moments_equal_explicit_sums(bolt_folder, contexts):
    """Against sums over all pairs of tokens, written out."""
    family = family_of(flowrank.load(bolt_folder))
    moments = head_moments(family, contexts, seed=3)
    from flowrank.measure import head_taps, sweep

    site = family.sites[1]
    expected = {"queries": 0.0, "keys": 0.0, "outputs": 0.0, "gradients": 0.0}
    weight, rows = 0.0, 0

    def observe(where, seen):
        nonlocal weight, rows
        if where.name != site.name:
            return
        g2 = seen.score_gradient()[:, 0].double().square()
        q, k, a = (t[:, 0].double() for t in (seen.query, seen.key, seen.weights))
        for b in range(q.shape[0]):
            for i in range(q.shape[1]):
                centre = a[b, i] @ k[b]
                for j in range(k.shape[1]):
                    w = g2[b, i, j]
                    weight += float(w)
                    expected["queries"] += w * torch.outer(q[b, i], q[b, i])
                    expected["keys"] += w * torch.outer(k[b, j] - centre, k[b, j] - centre)
                for name, value in (("outputs", seen.output), ("gradients", seen.gradient)):
                    v = value[b, 0, i].double()
                    expected[name] += torch.outer(v, v)
                rows += 1

    sweep(family, contexts, head_taps(family, observe), seed=3)
    mine = moments[site.name]
    for name in ("queries", "keys"):
        assert torch.allclose(getattr(mine, name).mean()[0], expected[name] / weight, rtol=1e-3, atol=1e-7)
    for name in ("outputs", "gradients"):
        assert torch.allclose(getattr(mine, name).mean()[0], expected[name] / rows, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("part", ["QK", "VO"])
@pytest.mark.parametrize("site_index", [0, 3, 5])
def test_rank_losses_predict_what_truncation_does(bolt_folder, contexts, part, site_index):
    """A head is really truncated by one component; the change of the probe must be as foretold, to first order."""
    pipeline = flowrank.load(bolt_folder)
    family = family_of(pipeline)
    one = contexts[:1]
    factorization = JointFactorization(family, contexts, 0, None, measured=False, per_head=True)
    losses = rank_losses(family, one, factorization.heads.bases, seed=9)
    site = family.sites[site_index]
    rank = site.d_vo - 1
    kept = [
        torch.arange(rank)
        if (group.site.name, group.part, group.members) == (site.name, part, (0,))
        else torch.arange(group.size)
        for group in factorization.groups
    ]
    from flowrank.compression.children import child_of
    from flowrank.family.objectives import quantile_curvature

    child = child_of(family.model, factorization.plan(kept))
    batch = pad_left(one, torch.device("cpu"))
    normalised = []
    with torch.no_grad():
        for model in (family.model, child):
            raw = model(batch).quantile_preds
            _, (loc, scale) = model.instance_norm(batch)
            normalised.append((raw - loc[..., None]) / scale[..., None])
    curvature = quantile_curvature(normalised[0].double(), family.model.quantiles.double())
    signs = torch.randint(0, 2, normalised[0].shape, generator=torch.Generator().manual_seed(9)) * 2.0 - 1
    change = float((signs * curvature.sqrt() * (normalised[1] - normalised[0])).sum())
    foretold = float(losses[site.name][part][0, rank]) ** 0.5
    assert foretold == pytest.approx(abs(change), rel=0.2, abs=2e-4)


def test_losses_are_the_same_a_series_at_a_time(pipeline, contexts, monkeypatch):
    family = family_of(pipeline)
    bases = JointFactorization(family, contexts, 0, None, measured=False, per_head=True).heads.bases
    together = rank_losses(family, contexts, bases)
    monkeypatch.setattr("flowrank.measure.heads.SCORES", 1)
    alone = rank_losses(family, contexts, bases)
    for name, parts in together.items():
        for part, losses in parts.items():
            torch.testing.assert_close(alone[name][part], losses, rtol=1e-3, atol=1e-9)


def test_losses_shrink_to_nothing_at_full_rank(pipeline, contexts):
    family = family_of(pipeline)
    factorization = JointFactorization(family, contexts, 0, None, measured=False, per_head=True)
    for site in rank_losses(family, contexts, factorization.heads.bases).values():
        for loss in site.values():
            assert not loss[:, -1].any()
            assert (loss[:, 0] >= 0).all()


def test_input_moments_are_those_of_the_inputs(pipeline, contexts):
    family = family_of(pipeline)
    rows = []
    site = family.sites[0]
    moments = input_moments(family, contexts)
    with family.instrumented(gradients=False):
        hook = site.module.q.register_forward_hook(lambda _m, inputs, _o: rows.append(inputs[0].flatten(0, 1)))
        for batch in batches(family, contexts):
            family.probe(batch, torch.Generator().manual_seed(0))
        hook.remove()
    x = torch.cat(rows).double()
    mine = moments[site.name].inputs
    assert torch.allclose(mine["q"].mean()[0], x.T @ x / len(x), rtol=1e-4, atol=1e-6)
    assert mine["q"] is mine["k"] is mine["v"]  # counted once
    assert set(moments[site.name].sensitivity) == {"q", "k", "v", "o"}


def test_batches_hold_series_of_like_length_within_bounds(pipeline, monkeypatch):
    family = family_of(pipeline)
    series = [torch.arange(float(n)) for n in (5, 60, 7, 64, 9, 10)]
    assert [len(group) for group in batches(family, series)] == [6]
    tokens = family.context_tokens(64)
    room_for_two = 2 * tokens * 4 * len(family.sites) * (8 * 24 + 3 * tokens)  # vectors, and weights of three heads
    monkeypatch.setattr("flowrank.measure.sweeping.BATCH_BYTES", room_for_two)
    assert [[len(s) for s in group] for group in batches(family, series)] == [[64, 60], [10, 9, 7, 5]]
    monkeypatch.setattr("flowrank.measure.sweeping.BATCH_SERIES", 1)
    assert all(len(group) == 1 for group in batches(family, series))
    monkeypatch.setattr("flowrank.measure.sweeping.BLOCK", 2)  # no more are held in memory
    assert [len(s) for group in batches(family, series) for s in group] == [60, 5, 64, 7, 10, 9]


def test_rank_grid_covers_the_range():
    for full in (1, 2, 6, 32, 64, 128):
        grid = rank_grid(full)
        assert grid[0] == 0
        assert grid == sorted(set(grid))
        assert grid[-1] < full <= 1.4 * grid[-1] + 1
    assert len(rank_grid(64)) < 22


def test_probe_of_bolt_has_the_curvature_of_the_quantile_loss(bolt_folder, contexts):
    """½ f δ² against the expected pinball loss, where the truth is uniform between the outermost quantiles."""
    from flowrank.family.objectives import quantile_curvature

    levels = torch.arange(1, 10) / 10
    quantiles = levels.double()[None, :, None] * 10  # uniform on (0, 10)
    curvature = quantile_curvature(quantiles, levels.double())
    inner = curvature[0, 1:-1, 0] * (8.0)  # undo the division by the width of the forecast, 9 − 1
    truth = torch.linspace(0, 10, 200_001, dtype=torch.float64)
    delta = 0.5

    def loss(q, tau):
        return torch.where(truth >= q, tau * (truth - q), (1 - tau) * (q - truth)).mean()

    for k, f in zip(range(1, 8), inner, strict=True):
        tau = levels[k].double()
        rise = loss(10 * tau + delta, tau) - loss(10 * tau, tau)
        assert float(rise) == pytest.approx(float(0.5 * f * delta**2), rel=1e-2)


def test_mixed_calibration_has_short_contexts_and_whole_and_calm_ones():
    whole = Calibration.read(None, count=40, points=128, seed=1).contexts
    mixed = Calibration.read(None, count=40, points=128, seed=1, mixed=True).contexts
    assert {len(one) for one in mixed[::2]} >= {16, 32, 64}
    for number, (before, after) in enumerate(zip(whole[1::2], mixed[1::2], strict=True)):
        if number % 8:
            assert torch.equal(before.nan_to_num(), after.nan_to_num())
        else:
            seen = after[after.isfinite()]
            assert 0 < float(seen.std()) < 0.15 * abs(float(seen.mean()))
