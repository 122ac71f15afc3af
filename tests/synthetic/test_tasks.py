"""Tasks are the same everywhere, keep their shares and can be used; what drives a target explains it."""

from __future__ import annotations

import numpy as np
import pytest

from flowrank.errors import FlowrankError
from flowrank.synthetic import driven as driven_module
from flowrank.synthetic.driven import driven
from flowrank.synthetic.drivers import DRIVERS, holidays, price, promotions
from flowrank.synthetic.latents import Latents, carried_forward, delayed
from flowrank.synthetic.mixture import Mixture
from flowrank.synthetic.multivariate import cointegrated, factors, lagged, shared_season
from flowrank.synthetic.tasks import MOST, SHARES, Task, TaskMixture, synthetic_tasks


def supply(seed: int = 0, length: int = 400) -> tuple[np.random.Generator, Latents]:
    rng = np.random.default_rng(seed)
    return rng, Latents(rng, Mixture(), length, expected=200)


def explained(target: np.ndarray, features: list[np.ndarray]) -> float:
    """R² of a least-squares regression."""
    design = np.stack([np.ones(len(target)), *features], axis=1)
    rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return 1 - float(rest @ rest) / float(((target - target.mean()) ** 2).sum())


def test_task_depends_on_seed_length_and_number_only():
    many = list(synthetic_tasks(300, length=64))
    np.random.default_rng(0).random(5)
    for count in (1, 257):
        few = list(synthetic_tasks(count, length=64))
        assert len(few) == count
        for one, same in zip(few, many, strict=False):
            assert one.kind == same.kind
            np.testing.assert_array_equal(one.values, same.values)
            np.testing.assert_array_equal(one.known, same.known)
    assert list(synthetic_tasks(0)) == []
    others = [next(synthetic_tasks(1, length=64, seed=1)), next(synthetic_tasks(1, length=65)), many[256]]
    assert all(not np.array_equal(other.values, many[0].values) for other in others)


@pytest.mark.parametrize("length", [20, 33, 200])
def test_always_usable(length):
    tasks = list(synthetic_tasks(512, length=length, seed=length))
    assert {task.kind for task in tasks} == set(SHARES)
    sizes = {task.size for task in tasks}
    assert min(sizes) == 1
    assert max(sizes) <= MOST
    for task in tasks:
        assert task.values.shape == (len(task.known), length)
        assert not task.known[0], "targets come first"
        for values, known in zip(task.values, task.known, strict=True):
            observed = values[~np.isnan(values)]
            assert np.isfinite(observed).all(), task.kind
            assert known or len(observed) >= 3
            assert known or observed.min() < observed.max()
            assert not known or len(observed) == length, "what is known ahead is complete"
    assert any(np.isnan(task.values).any() for task in tasks if task.size > 1)


def test_shares_are_kept():
    shares = {"single": 1, "price": 3}
    kinds = [task.kind for task in synthetic_tasks(2048, length=20, shares=shares)]
    assert abs(kinds.count("price") / 2048 - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 2048)
    assert set(kinds) == set(shares)


@pytest.mark.parametrize("shares", [{"tides": 1.0}, {"price": -1.0}, {"price": 0.0}, {}, {"price": float("nan")}, None])
def test_bad_shares(shares):
    with pytest.raises(FlowrankError, match="shares"):
        TaskMixture(shares)


def test_bad_arguments():
    with pytest.raises(FlowrankError, match="length"):
        synthetic_tasks(1, length=19)
    with pytest.raises(FlowrankError, match="count"):
        synthetic_tasks(-1)
    with pytest.raises(FlowrankError, match="values"):
        Task(np.zeros((2, 30)), np.zeros(3, dtype=bool))


def test_delayed_against_its_definition():
    rng = np.random.default_rng(0)
    values, lags, decays = rng.standard_normal((4, 30)), np.array([0, 1, 5, 29]), np.array([0.0, 0.5, 0.9, 0.3])
    expected = np.zeros_like(values)
    for row in range(4):
        for time in range(30):
            expected[row, time] = sum(
                decays[row] ** (time - lags[row] - source) * values[row, source]
                for source in range(max(0, time - lags[row] + 1))
            )
    np.testing.assert_allclose(delayed(values, lags, decays), expected, atol=1e-12)


def test_carried_forward_against_its_definition():
    rng = np.random.default_rng(0)
    values, marked = rng.standard_normal((5, 40)), rng.random((5, 40)) < 0.2
    for row, found in enumerate(carried_forward(values, marked)):
        latest = values[row, 0]
        for time in range(40):
            latest = values[row, time] if marked[row, time] else latest
            assert found[time] == latest


def test_hidden_series_have_zero_mean_and_unit_spread():
    _, latents = supply()
    values = latents.standard(500, warm=True)
    assert values.shape == (500, latents.past + latents.length)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_a_driver_explains_its_target_and_an_irrelevant_one_does_not(monkeypatch, name):
    """Next to noise of spread 1 an effect of spread g explains g² / (1 + g²), g log-uniform in [0.32, 3.2]: half."""
    monkeypatch.setattr(driven_module, "_observed", lambda rng, values, owner: values)
    monkeypatch.setattr(driven_module, "_own", lambda rng, rows, latents: rng.standard_normal((rows, latents.length)))
    monkeypatch.setattr(driven_module, "_PAST_ONLY", 0.0)  # so that covariates are told by what is known
    monkeypatch.setattr(driven_module, "DRIVERS", {name: DRIVERS[name]})
    rng, latents = supply()
    found: dict[str, list[float]] = {}
    for kind in (name, "irrelevant"):
        values, owner, known = driven(rng, 60, latents, kind)
        for group in range(60):
            target, driver = values[owner == group][0], values[(owner == group) & known]
            found.setdefault(kind, []).append(explained(target[40:], _features(name, driver)))
    assert np.median(found[name]) > 0.3
    assert np.median(found["irrelevant"]) < 0.25  # several dozen features of 360 values
    assert np.median(found[name]) > np.median(found["irrelevant"]) + 0.15


def _features(name: str, drivers: np.ndarray) -> list[np.ndarray]:
    shifts = {"series": range(33), "holidays": range(-3, 4), "promotions": range(6), "weather": (0, 1, 4)}.get(
        name, (0,)
    )
    features = [np.roll(row, shift)[40:] for row in drivers[:2] for shift in shifts]
    if name == "price":
        features += [np.log(row[40:]) for row in drivers]
    if name == "weather":
        features += [np.abs(row - np.quantile(row, q))[40:] for row in drivers for q in (0.2, 0.35, 0.5, 0.65, 0.8)]
    return features


def test_price_acts_by_an_elasticity_below_zero(monkeypatch):
    monkeypatch.setattr(driven_module, "_observed", lambda rng, values, owner: values)
    monkeypatch.setattr(driven_module, "_own", lambda rng, rows, latents: np.zeros((rows, latents.length)))
    rng, latents = supply()
    values, owner, _ = driven(rng, 40, latents, "price")
    for group in range(40):
        rows = values[owner == group]
        if len(rows) == 2 and np.ptp(rows[1]) > 0:  # one target, one price: a line in the logarithm
            slope = np.polyfit(np.log(rows[1]), rows[0], 1)
            assert slope[0] < 0
            np.testing.assert_allclose(rows[0], np.polyval(slope, np.log(rows[1])), atol=1e-6)


def test_share_of_covariates_that_are_not_known_ahead():
    rng, latents = supply(length=40)
    _, owner, known = driven(rng, 1000, latents, "several")
    ahead = np.array([known[owner == group].any() for group in range(1000)])
    assert abs(ahead.mean() - 0.85) < 5 * np.sqrt(0.85 * 0.15 / 1000)
    for group in range(1000):
        flags = known[owner == group]
        assert (np.diff(flags.astype(int)) >= 0).all(), "targets come first"


def test_a_promotion_has_no_effect_before_it_and_lifts():
    rng, latents = supply()
    shown, effect = promotions(rng, 300, latents)
    assert shown.max(axis=1).min() > 0
    assert shown.max() <= 1
    for one, what in zip(shown, effect, strict=True):
        assert not what[: int(np.argmax(one > 0))].any()
        assert (what[one > 0] > 0).all()
        assert (what[one == 0] <= 0).all()
    dips = (effect < 0).any(axis=1).mean()
    assert 0.3 < dips < 0.65
    assert 0.25 < np.mean([len(set(one)) > 2 for one in shown]) < 0.45  # depths of their own, where there are several


def test_a_holiday_is_felt_three_days_around_it_at_most():
    rng, latents = supply()
    marks, effect = holidays(rng, 300, latents)
    assert set(np.unique(marks)) == {0, 1, 2}
    near = np.array([np.convolve(row > 0, np.ones(7), "same") > 0 for row in marks])
    assert not effect[~near].any()
    assert (effect[marks == 1] != 0).all()
    assert (np.abs(effect).sum(axis=1) > 0).all()


def test_a_price_stays_until_it_changes():
    rng, latents = supply()
    shown, _ = price(rng, 300, latents)
    assert (shown > 0).all()
    changes = (np.diff(shown, axis=1) != 0).mean(axis=1)
    assert changes.max() < 0.35
    assert np.median(changes) < 0.08


def test_a_cause_comes_before_what_it_causes():
    """Of each follower, the lag at which the cause explains most is 1 at least, and there it explains a lot."""
    rng, latents = supply()
    values, owner, known = lagged(rng, 60, latents)
    assert not known.any()
    best, strongest = [], []
    for group in range(60):
        *followers, cause = np.log1p(values[owner == group] - values[owner == group].min(axis=1, keepdims=True))
        for follower in followers:
            at = [
                abs(np.corrcoef(np.diff(follower[40:]), np.diff(np.roll(cause, lag)[40:]))[0, 1]) for lag in range(34)
            ]
            best.append(int(np.nanargmax(at)))
            strongest.append(np.nanmax(at))
    strong = np.array(strongest) > 0.5
    assert strong.mean() > 0.4
    assert np.mean(np.array(best)[strong] >= 1) > 0.9


@pytest.mark.parametrize("make", [factors, cointegrated, shared_season])
def test_series_of_a_group_explain_one_another_and_those_of_another_group_do_not(make):
    rng, latents = supply()
    values, owner, known = make(rng, 80, latents)
    assert not known.any()
    sizes = np.bincount(owner)
    assert sizes.min() == 2
    assert sizes.max() <= MOST
    changes = np.diff(np.sign(values) * np.log1p(np.abs(values) / np.abs(values).mean(axis=1, keepdims=True)), axis=1)
    inside, outside = [], []
    for group in range(79):
        one, two = changes[owner == group][:2]
        other = changes[owner == group + 1][0]
        inside.append(abs(np.corrcoef(one, two)[0, 1]))
        outside.append(abs(np.corrcoef(one, other)[0, 1]))
    assert np.median(inside) > 2 * np.median(outside)


def test_cointegrated_walks_stay_together():
    """What is left of one after a regression on another moves far less than the walks do."""
    rng, latents = supply()
    values, owner, _ = cointegrated(rng, 60, latents)
    logs = np.sign(values) * np.log1p(np.abs(values) / np.abs(values).mean(axis=1, keepdims=True))
    fits = [explained(logs[owner == group][0], [logs[owner == group][1]]) for group in range(60)]
    assert np.median(fits) > 0.8
