"""A seed means the same in any thread, and forecasts under two seeds do not disturb each other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import pytest
import torch

import flowrank
from flowrank.errors import FlowrankError
from flowrank.forecasting import forecast
from flowrank.pretraining.probe import seasonal_probe
from flowrank.randomness import globally_seeded, seeded

SMALL = {"prediction_length": 4, "num_samples": 3}
REPETITIONS = 20


@pytest.fixture(params=["exact", "stock", "of chronos-forecasting"])
def sampler(request, t5_folder, t5):
    """A pipeline that draws sample paths, of each kind in turn."""
    if request.param == "of chronos-forecasting":
        return t5
    return flowrank.load(t5_folder, engine=request.param)


@pytest.fixture
def exact(t5_folder):
    return flowrank.load(t5_folder)


def in_two_threads(work) -> tuple[list, list]:
    """What ``work`` gives for the seeds 1 and 2, again and again, in two threads that begin together."""
    together = threading.Barrier(2)

    def run(seed: int) -> list:
        together.wait(60)
        return [work(seed) for _ in range(REPETITIONS)]

    with ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(run, seed) for seed in (1, 2)]
        return first.result(300), second.result(300)


def assert_undisturbed(work) -> None:
    alone = [work(seed) for seed in (1, 2)]
    assert not np.array_equal(*alone)
    for expected, found in zip(alone, in_two_threads(work), strict=True):
        for one in found:
            np.testing.assert_array_equal(one, expected)


def test_two_threads_forecast_under_two_seeds(sampler):
    series = [np.arange(20.0), np.sin(np.arange(30.0))]

    def work(seed: int) -> np.ndarray:
        frame = forecast(sampler, series, horizon=4, seed=seed, predict_kwargs={"num_samples": 3})
        return frame[["predictions", "0.1", "0.9"]].to_numpy()

    assert_undisturbed(work)


def test_two_threads_probe_under_two_seeds(sampler):
    assert_undisturbed(lambda seed: [*seasonal_probe(sampler, [4], count=2, length=16, horizon=4, seed=seed).values()])


def test_two_threads_predict_under_two_seeds(t5_folder, contexts):
    for engine in ("exact", "stock"):
        pipeline = flowrank.load(t5_folder, engine=engine)
        assert_undisturbed(lambda seed, one=pipeline: one.predict(contexts, seed=seed, **SMALL).numpy())


@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_a_seed_gives_what_it_gives_to_torch(t5_folder, contexts, engine):
    pipeline = flowrank.load(t5_folder, engine=engine)
    torch.manual_seed(11)
    expected = pipeline.predict(contexts, **SMALL)
    torch.manual_seed(12)
    state = torch.get_rng_state()
    assert torch.equal(pipeline.predict(contexts, seed=11, **SMALL), expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(pipeline.predict(contexts, **SMALL), expected)
    assert not torch.equal(torch.get_rng_state(), state)  # without a seed, chance is torch's own


def test_a_forecast_is_that_of_its_batch_after_torch_is_seeded(sampler):
    """The number of a batch comes from NumPy's seed sequence, as it did when torch itself was seeded by it."""
    series = np.sin(np.arange(30.0))
    found = forecast(sampler, [series], horizon=4, seed=7, quantile_levels=(0.2, 0.8))
    torch.manual_seed(int(np.random.SeedSequence((7, 0)).generate_state(1)[0]))
    expected, _ = sampler.predict_quantiles(
        torch.from_numpy(series).float()[None], prediction_length=4, quantile_levels=[0.2, 0.8]
    )
    np.testing.assert_array_equal(found[["0.2", "0.8"]].to_numpy(), expected[0].double().numpy())


def test_quantiles_and_data_frames_take_a_seed(exact, contexts, long_frame):
    options = {"prediction_length": 4, "quantile_levels": [0.1, 0.9], "num_samples": 5}
    one, other = (exact.predict_quantiles(contexts, seed=seed, **options)[0] for seed in (3, 4))
    assert torch.equal(one, exact.predict_quantiles(contexts, seed=3, **options)[0])
    assert not torch.equal(one, other)
    table = exact.predict_df(long_frame, prediction_length=3, num_samples=5, seed=3)
    assert table.equals(exact.predict_df(long_frame, prediction_length=3, num_samples=5, seed=3))


def test_series_that_the_engine_does_not_take_are_seeded_too(exact, contexts):
    exact.model.config.use_eos_token = False  # series without an observed value take the stock path
    nothing = [torch.full((20,), torch.nan), contexts[0]]
    one, same, other = (exact.predict(nothing, seed=seed, **SMALL) for seed in (3, 3, 4))
    assert torch.equal(one.nan_to_num(), same.nan_to_num())
    assert not torch.equal(one.nan_to_num(), other.nan_to_num())


def test_draws_of_others_do_not_disturb_the_exact_engine(exact, contexts):
    expected = exact.predict(contexts, seed=1, **SMALL)
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(1000)

    other = threading.Thread(target=draw)
    other.start()
    try:
        found = [exact.predict(contexts, seed=1, **SMALL) for _ in range(REPETITIONS)]
    finally:
        done.set()
        other.join()
    assert all(torch.equal(one, expected) for one in found)


def test_only_who_draws_from_the_global_generators_waits(exact, t5, bolt_folder):
    bolt = flowrank.load(bolt_folder)
    with ThreadPoolExecutor(1) as pool, globally_seeded(0):

        def begun(pipeline) -> None:
            with seeded(pipeline, 1):
                pass

        for free in (exact, bolt):
            pool.submit(begun, free).result(60)
        waiting = pool.submit(begun, t5)
        with pytest.raises(NotYet):
            waiting.result(0.2)
    waiting.result(60)


def test_the_global_generators_come_back_after_an_error():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"), globally_seeded(3):
        raise RuntimeError("broken")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("engine", ["exact", "stock"])
@pytest.mark.parametrize("seed", [-1, 0.5, "a", True])
def test_a_seed_is_a_whole_number(t5_folder, contexts, engine, seed):
    with pytest.raises(FlowrankError, match="seed: expected a whole number"):
        flowrank.load(t5_folder, engine=engine).predict(contexts, seed=seed, **SMALL)
