"""Chronos-2 in graph runtimes: against the exact engine, the stock code, and the pipeline where torch is not needed."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from chronos.utils import interpolate_quantiles, weighted_quantile

import flowrank
from flowrank import FlowrankError
from flowrank.engine.tracing import onnx_model
from flowrank.exporting.precision import halved
from flowrank.families.chronos2.engine import Inputs
from flowrank.families.chronos2.graph import Chronos2Graph, Chronos2GraphEngine
from flowrank.graphs import open_driver
from flowrank.graphs.groups import GroupGraph
from flowrank.graphs.levels import interpolated, masses, weighted
from flowrank.graphs.tasks import batches, tasks_of
from tests.conftest import LEVELS
from tests.families.chronos2 import largest_gap, narrow_chronos2, random_chronos2, stock, walk
from tests.families.test_chronos2_children import GROUP, layers, turning
from tests.families.test_chronos2_engine import groups, series, task
from tests.layers import mlp_layers

pytest.importorskip("onnxruntime")
NAN = torch.nan
RUNTIMES = ("onnxruntime", "openvino")
HORIZON = 11


def dense():
    return random_chronos2()


def planes():
    """Heads of their own planes and widths, one of them gone, and factors."""
    return layers(turning((0,), (), (2,), d_qk=5, d_vo=(3, 0, 8), q=4, k=3, v=4, o=5), GROUP)


def whole():
    """Every layer smaller, patch blocks too, one feed-forward layer gone."""
    block = {"width": 7, "ranks": {"hidden_layer": 2, "output_layer": 3, "residual_layer": 4}}
    names = list(mlp_layers(random_chronos2().model))
    plain = [name for name in names if "patch" not in name]
    kinds = [{"width": 9, "ranks": {"wi": 3, "wo": 2}}, {"width": 0, "ranks": {}}]
    mlp = dict(zip(plain, kinds, strict=True)) | {name: block for name in names if "patch" in name}
    return narrow_chronos2(mlp=mlp)


def univariate():
    return flowrank.univariate(random_chronos2())


MODELS = {one.__name__: one for one in (dense, planes, whole, univariate)}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def pipeline(request):
    return request.param()


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def exported(pipeline, tmp_path_factory):
    """The model as a folder that is read without torch."""
    return flowrank.load(flowrank.export(pipeline, tmp_path_factory.mktemp("exports") / "model"))


def forecasts(pipeline, inputs, engine, **options):
    """What an engine forecasts."""
    theirs = stock(pipeline) if engine == "stock" else pipeline
    if engine != "stock":
        pipeline.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return theirs.predict(inputs, **options)


def assert_equal(pipeline, inputs, runtime, within=1e-5, **options):
    """Require of a runtime the forecasts of the exact engine and of the stock code."""
    mine = forecasts(pipeline, inputs, runtime, **options)
    for other in ("exact", "stock"):
        gap = largest_gap(inputs, mine, forecasts(pipeline, inputs, other, **options))
        assert gap <= within, (other, gap)


def tasks(horizon, lengths=(80, 64, 21, 22, 3)):
    return [task(points, horizon=horizon, seed=points) for points in lengths]


def scales():
    """A walk at every scale that fp32 holds, some constant."""
    found = [walk(50, seed=n) * 10.0**power for n, power in enumerate(range(-30, 19, 2))]
    return [*found, torch.full((40,), 1e30), torch.full((40,), -1e-30), torch.zeros(9)]


def test_single_series(pipeline, runtime):
    assert_equal(pipeline, series(), runtime)
    assert_equal(pipeline, scales(), runtime)
    for count in (1, 2, 16):
        assert_equal(pipeline, series()[:1] * count, runtime, prediction_length=HORIZON)


def test_what_overflows(pipeline, runtime):
    """Squares beyond fp32 make scales without end, in every engine."""
    inputs = [walk(50) * 1e30, walk(50)]
    mine, exact = (forecasts(pipeline, inputs, one) for one in (runtime, "exact"))
    np.testing.assert_allclose(mine[1], exact[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(mine[0].isfinite(), exact[0].isfinite())


def test_groups(pipeline, runtime):
    if pipeline.univariate:
        pytest.skip("reads single series")
    for inputs in ([*series(), *groups()], groups()[3:4], groups() * 2):
        assert_equal(pipeline, inputs, runtime)
    assert_equal(pipeline, tasks(HORIZON), runtime, prediction_length=HORIZON)
    assert_equal(pipeline, series(), runtime, within=3e-5, cross_learning=True, batch_size=5)


def test_long_horizons(pipeline, runtime):
    """What is rounded otherwise moves the paths that all that follows is forecast from."""
    assert_equal(pipeline, series()[:4], runtime, prediction_length=50)
    if not pipeline.univariate:
        assert_equal(pipeline, tasks(61, (70, 33)), runtime, within=5e-4, prediction_length=61)


def test_the_fastest_engine(pipeline):
    for count in (1, 3):
        inputs = list(walk(count, 40))
        mine, exact = (forecasts(pipeline, inputs, one, prediction_length=HORIZON) for one in ("fastest", "exact"))
        assert largest_gap(inputs, mine, exact) <= 1e-5


def as_numpy(inputs):
    """The same inputs, as arrays."""
    if isinstance(inputs, dict):
        return {key: as_numpy(one) for key, one in inputs.items()}
    return inputs.numpy() if isinstance(inputs, torch.Tensor) else [as_numpy(one) for one in inputs]


def assert_as_pipeline(exported, pipeline, inputs, **options):
    """Require the pipeline's forecasts; far ahead, those by the same runtime, as rounding grows there."""
    far = options["prediction_length"] > 24 if "prediction_length" in options else False
    theirs = forecasts(pipeline, inputs, "onnxruntime" if far else "exact", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = exported.predict(as_numpy(inputs), **options)
    assert all(isinstance(one, np.ndarray) for one in mine)
    assert largest_gap(inputs, [torch.from_numpy(one) for one in mine], theirs) <= (5e-4 if far else 3e-5)


def test_exported_models_forecast_as_the_pipeline(exported, pipeline):
    assert exported.manifest["check"]["difference"] < 1e-4
    for horizon in (1, 24, 25, 61):
        assert_as_pipeline(exported, pipeline, series(), prediction_length=horizon)
    assert_as_pipeline(exported, pipeline, walk(3, 1, 40))
    if not pipeline.univariate:
        for horizon in (HORIZON, 50):
            together = [one for place, one in enumerate(groups()) if place != 5]  # there, a constant 1 takes all digits
            assert_as_pipeline(exported, pipeline, [*together, *series()[:3]], prediction_length=horizon)
            assert_as_pipeline(exported, pipeline, tasks(horizon), prediction_length=horizon)
            assert_as_pipeline(
                exported, pipeline, series(), prediction_length=horizon, cross_learning=True, batch_size=4
            )
        assert_as_pipeline(exported, pipeline, walk(3, 2, 40))


def test_exported_quantiles_at_any_level(exported, pipeline):
    inputs = series()
    for levels in ([0.1, 0.5, 0.9], [0.001, 0.12, 0.5, 0.999]):
        pipeline.engine = "exact"
        theirs, median = pipeline.predict_quantiles(inputs, prediction_length=HORIZON, quantile_levels=levels)
        mine, middle = exported.predict_quantiles(as_numpy(inputs), HORIZON, levels)
        for one, other in zip([*mine, *middle], [*theirs, *median], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.abs(other).max()))


def test_exported_models_refuse(exported, pipeline):
    words = {"target": np.arange(9.0), "past_covariates": {"day": np.array(list("abcabcabc"))}}
    refusals = {
        "past_covariates\\['day'\\]": [words],
        "an array of 2 dimensions": np.ones((2, 9)),
        "none": [],
        "keys past": [{"past": np.ones(3)}],
        "none of a in past_covariates": [{"target": np.ones(3), "future_covariates": {"a": np.ones(4)}}],
        "the same number of targets": [{"target": np.ones(3)}, {"target": np.ones((2, 3))}],
        "shape \\(2,\\)": [{"target": np.ones(3), "past_covariates": {"a": np.ones(2)}}],
        "dictionaries among arrays": [np.ones(3), {"target": np.ones(3)}],
        "type <U1": [np.array(["a"])],
    }
    for found, inputs in refusals.items():
        with pytest.raises(FlowrankError, match=found):
            exported.predict(inputs, 4)
    if pipeline.univariate:
        with pytest.raises(FlowrankError, match="single series without covariates"):
            exported.predict([np.ones((2, 9))], 4)


class Exact(GroupGraph):
    """The driver of graphs, on the exact engine."""

    def __init__(self, pipeline):
        self.engine = pipeline.inference.engine_class(pipeline.model)
        self.facts = Chronos2Graph.of(pipeline.model).facts

    def step(self, context, groups, future, patches, *, memory_budget=None):
        inputs = Inputs(*(torch.from_numpy(np.ascontiguousarray(one)) for one in (context, groups, future)))
        return self.engine.quantiles(inputs, patches).numpy()


@pytest.mark.parametrize("horizon", [7, 25, 61])
def test_steps_beyond_one_pass_without_torch(horizon):
    pipeline = dense()
    for inputs in (series(), tasks(horizon), groups()[:5]):
        exact, mine = forecasts(pipeline, inputs, "exact", prediction_length=horizon), []
        for rows, targets in batches(tasks_of(as_numpy(inputs), horizon), 9, 64, joint=False):
            found = torch.from_numpy(Exact(pipeline).predict(rows, horizon))
            mine += [found[one] for one in targets]
        assert largest_gap(inputs, mine, exact) <= 1e-4


@pytest.fixture(scope="module")
def graph():
    """A dense model and its graph."""
    pipeline = random_chronos2()
    traced = Chronos2Graph.of(pipeline.model)
    return pipeline, onnx_model(traced), traced.facts


def test_memory_budgets(graph):
    _, model, facts = graph
    driver = open_driver({"model": model.SerializeToString()}, facts, "onnxruntime")
    context, numbers = walk(40, 64).numpy(), np.repeat(np.arange(13), [1] * 7 + [4] * 3 + [7] * 3)
    whole = driver.step(context, numbers, None, 2)
    least = driver._bytes_a_group(7, 11)
    small = driver.step(context, numbers, None, 2, memory_budget=least)
    np.testing.assert_allclose(small, whole, rtol=1e-3, atol=1e-4)
    with pytest.raises(FlowrankError, match=f"at least {least:,} bytes for a group of 7 series"):
        driver.step(context, numbers, None, 2, memory_budget=least - 1)
    with pytest.raises(FlowrankError, match="at most 3"):
        driver.step(context, numbers, None, 4)


def test_weights_of_bfloat16_lose_nothing(graph):
    pipeline = copy.deepcopy(graph[0])
    with torch.no_grad():
        for one in pipeline.model.parameters():
            one.copy_(one.bfloat16().float())
    traced = Chronos2Graph.of(pipeline.model)
    plain = onnx_model(traced)
    context, numbers = walk(6, 60).numpy(), np.array([0, 0, 0, 1, 1, 2])
    found = []
    for model in (plain, halved(plain)):
        driver = open_driver({"model": model.SerializeToString()}, traced.facts, "onnxruntime")
        found.append(driver.step(context[:5], numbers[:5], None, 2))
    np.testing.assert_array_equal(*found)


def test_engines_take_the_same(graph):
    pipeline, model, facts = graph
    engine = Chronos2GraphEngine({"model": model.SerializeToString()}, facts, "onnxruntime")
    exact = pipeline.inference.engine_class(pipeline.model)
    inputs = Inputs(walk(5, 100), torch.tensor([3, 1, 3, 0, 3]), walk(5, 13))
    np.testing.assert_allclose(engine.quantiles(inputs, 3), exact.quantiles(inputs, 3), rtol=1e-3, atol=1e-3)


def test_overlapping_patches_are_refused():
    pipeline = random_chronos2(input_patch_stride=4)
    pipeline.engine = "onnxruntime"
    with pytest.raises(FlowrankError, match="patches overlap"):
        pipeline.predict([walk(40)])


def test_levels_are_those_of_chronos_forecasting():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4, 7, 189)).astype(np.float32)
    paths = LEVELS[2:-1:2]
    shares = np.outer(masses(paths), masses(LEVELS)).ravel()
    theirs = weighted_quantile(LEVELS, torch.from_numpy(np.resize(shares, 189)), torch.from_numpy(samples))
    np.testing.assert_allclose(weighted(samples, np.resize(shares, 189), LEVELS), theirs, rtol=1e-4, atol=1e-5)
    values = np.sort(samples[..., :21])
    wanted = [0.001, 0.1, 0.33, 0.995]
    theirs = interpolate_quantiles(wanted, LEVELS, torch.from_numpy(values))
    np.testing.assert_allclose(interpolated(wanted, LEVELS, values), theirs, rtol=1e-5, atol=1e-6)


KINDS = {
    "bfloat16": (lambda one: type(one)(one.model.bfloat16()), 0.03),
    "integers": (flowrank.quantize, 0.05),
    "not relu": (lambda one: one, 1e-5),
}


@pytest.mark.parametrize(("made", "within"), KINDS.values(), ids=KINDS.keys())
def test_other_numbers_and_activations(made, within):
    """Graphs compute in fp32 what the exact engine rounds."""
    sizes = {"d_model": 64, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 1}
    pipeline, inputs = made(random_chronos2(feed_forward_proj="gelu", **sizes)), [walk(40), walk(2, 50)]
    mine, exact = (forecasts(pipeline, inputs, one) for one in ("onnxruntime", "exact"))
    assert largest_gap(inputs, mine, exact) <= within
