"""Chronos-Bolt as a graph, against the exact engine, the stock class and itself one series at a time."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from flowrank import FlowrankError
from flowrank.engine.paths import Inference
from flowrank.engine.tracing import onnx_model
from flowrank.families.chronos_bolt.engine import BoltEngine
from flowrank.families.chronos_bolt.graph import BoltGraph
from flowrank.graphs import SeriesGraph, open_graph
from flowrank.graphs.series import ending
from tests.families.test_chronos_bolt_engine import MODELS, random_bolt

TRACED = ("dense", "unequal heads", "small feed-forward layers and blocks")
RUNTIMES = ("onnxruntime", "openvino")


def some_series(count=24, longest=90, seed=0):
    """Lengths from 1 up, holes, constants, nothing at all, and scales from 1e-30 to 1e30."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        values = rng.normal(size=rng.integers(1, longest)).cumsum() + 3
        if i % 4 == 1:
            values[rng.random(len(values)) < 0.4] = np.nan
        if i % 7 == 2:
            values[:] = 5.0
        if i % 11 == 3:
            values[:] = np.nan
        made.append(values * 10.0 ** rng.choice([-30, -3, 0, 0, 0, 6, 18, 30]))
    return made


def padded(series, patch=8):
    longest = -(-max(map(len, series)) // patch) * patch
    return np.concatenate([ending(np.asarray(one, dtype=np.float32)[None], longest) for one in series])


def assert_close(mine, theirs, within=1e-5):
    """Equal up to a share of each series' largest quantile; where one overflows so does the other, and only the small
    ones are left to compare, less closely."""
    mine, theirs = np.asarray(mine, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert mine.shape == theirs.shape
    finite = np.isfinite(theirs)
    assert (np.isfinite(mine) == finite).all()
    gaps = np.abs(np.where(finite, mine, 0) - np.where(finite, theirs, 0)).reshape(len(mine), -1).max(axis=1)
    size = np.where(finite, np.abs(theirs), 0).reshape(len(mine), -1).max(axis=1)
    within = np.where(finite.reshape(len(mine), -1).all(axis=1), within, 1e-3)
    wrong = gaps > within * size + 1e-37
    assert not wrong.any(), list(zip(np.flatnonzero(wrong), gaps[wrong], size[wrong], strict=True))


@pytest.fixture(scope="module")
def models():
    return {name: MODELS[name]() for name in TRACED}


@pytest.fixture(scope="module")
def graphs(models):
    """Each traced once."""
    pytest.importorskip("onnxscript")
    made = {}
    for name, pipeline in models.items():
        graph = BoltGraph.of(pipeline.inner_model)
        made[name] = onnx_model(graph).SerializeToString(), graph.facts
    return made


@pytest.mark.parametrize("name", [name for name in MODELS if name != "overlapping patches"])
def test_the_traced_function_computes_what_the_engine_does(name):
    model = MODELS[name]().inner_model
    series = [one for one in some_series() if not np.isnan(one).all() or model.chronos_config.use_reg_token]
    context = torch.from_numpy(padded(series))[:, -64:]
    with torch.no_grad():
        mine = BoltGraph.of(model)(context)
    assert_close(mine, BoltEngine(model).quantiles(context))


def test_overlapping_patches_are_refused():
    with pytest.raises(FlowrankError, match=r"model: expected patches side by side, .* 8 values every 4"):
        BoltGraph.of(MODELS["overlapping patches"]().inner_model)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", TRACED)
def test_runtimes_compute_the_stock_model(models, graphs, name, runtime):
    pytest.importorskip(runtime)
    graph, facts = graphs[name]
    driver = SeriesGraph(open_graph(graph, runtime, threads=1), facts)
    for count, longest in ((1, 5), (5, 17), (24, 90)):
        context = padded(some_series(count, longest, seed=count))
        with torch.no_grad():
            stock = models[name].inner_model(torch.from_numpy(context)).quantile_preds
        assert_close(driver.block(context), stock)


@pytest.mark.parametrize("horizon", [1, 16, 40])
def test_pipelines_forecast_the_same_with_a_runtime(models, graphs, horizon, monkeypatch):
    pytest.importorskip("onnxruntime")
    pipeline = copy.copy(models["unequal heads"])
    pipeline.inference = copy.deepcopy(pipeline.inference)
    monkeypatch.setattr("flowrank.engine.graphs.onnx_model", lambda graph: Ready(graphs["unequal heads"][0]))
    series = [torch.from_numpy(one).float() for one in some_series(8)]
    expected = pipeline.predict(series, prediction_length=horizon)
    for engine in ("onnxruntime", "fastest"):
        pipeline.engine = engine
        assert pipeline.path == engine
        assert_close(
            pipeline.predict(series, prediction_length=horizon), expected, within=1e-5 if horizon <= 16 else 1e-4
        )
    assert copy.deepcopy(pipeline.inference).name == pickle.loads(pickle.dumps(pipeline.inference)).name == "fastest"


class Ready:
    """A model that was traced before."""

    def __init__(self, graph):
        self.graph = graph

    def SerializeToString(self):
        return self.graph


def test_a_changed_weight_makes_a_new_graph():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pipeline = random_bolt(num_layers=1, num_decoder_layers=1)
    pipeline.engine = "onnxruntime"
    series = [torch.arange(20.0)]
    before = pipeline.predict(series)
    with torch.no_grad():
        pipeline.inner_model.output_patch_embedding.output_layer.bias.add_(1.0)
    after = pipeline.predict(series)
    pipeline.engine = "stock"
    assert not torch.allclose(before, after)
    assert_close(after, pipeline.predict(series))


def test_a_family_without_graphs_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(FlowrankError, match="engine: expected exact, stock or fastest, for a model of this family"):
        Inference(BoltEngine).name = "onnxruntime"
    monkeypatch.setattr("flowrank.graphs.runtimes.find_spec", lambda name: None)
    with pytest.raises(FlowrankError, match=r'expected the package openvino.*pip install "flowrank\[openvino\]"'):
        random_bolt().engine = "openvino"
    with pytest.raises(FlowrankError, match="expected one of exact, stock, onnxruntime, openvino, fastest"):
        random_bolt().engine = "tensorrt"
    bolt = random_bolt()
    bolt.inference = Inference(BoltEngine)
    bolt.engine = "fastest"
    assert bolt.path == "exact"
