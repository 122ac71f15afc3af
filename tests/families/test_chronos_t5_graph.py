"""Chronos-T5 as graphs, against the exact engine, the stock class and upstream's tokenizer."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from chronos import ChronosConfig
from hypothesis import given, settings
from hypothesis import strategies as st

import flowrank
from flowrank import Budget, FlowrankError, JointHeads
from flowrank.engine.tracing import onnx_model
from flowrank.families.chronos_t5.engine import T5Engine
from flowrank.families.chronos_t5.graph import T5GraphEngine
from flowrank.family import pad_left
from flowrank.graphs import Draws, PathsGraph, Runtime, Tokens, open_driver
from flowrank.graphs.noise import first_number, uniforms
from tests.conftest import T5_TOKENS
from tests.families.test_chronos_t5_engine import MODELS, random_t5

TRACED = ("dense", "heads that are gone")
RUNTIMES = ("onnxruntime", "openvino")


class Eager(Runtime):
    """A graph that torch computes as it was written, untraced."""

    def __init__(self, graph):
        self.graph = graph.eval()

    def run(self, inputs):
        raise NotImplementedError

    def held(self, array):
        return torch.from_numpy(np.ascontiguousarray(array)).view(array.shape)

    def run_held(self, inputs, outputs):
        lists = {"past": getattr(self.graph, "pasts", []), "cross": self.graph.names}
        names = [name for name in self.graph.example() if name not in lists]
        given = {name: inputs[name] for name in names}
        if "past" in self.graph.example():
            given |= {name: [inputs[one] for one in many] for name, many in lists.items()}
        with torch.no_grad():
            found = dict(zip(self.graph.output_names(), self.graph(**given), strict=True))
        return {name: found[name] for name in outputs}

    @staticmethod
    def array(value):
        return value.numpy()


def some_series():
    """Short, long, padded and NaN-holed series, two of them of one length, one without a value."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(n, generator=generator).cumsum(0) for n in (64, 50, 33, 17, 33, 1, 90, 20)]
    drawn[1][10:20] = torch.nan
    drawn[4][[0, 5, 31]] = torch.nan
    drawn[7][:] = torch.nan
    return drawn


def tokens_of(pipeline):
    series = some_series() if pipeline.model.config.use_eos_token else some_series()[:-1]
    return pipeline.tokenizer.context_input_transform(pad_left(series, torch.device("cpu")))[:2]


def eager(model):
    parts = T5GraphEngine.traced(model)
    return PathsGraph(*(Eager(parts.graphs[name]) for name in ("encoder", "step")), parts.facts)


@pytest.fixture(scope="module")
def models():
    small = {"num_layers": 1, "num_decoder_layers": 1}
    method = JointHeads(Budget(0.03), per_head=True)
    child = flowrank.compress(random_t5(**small), method, calibration_series=8, calibration_points=64)
    return {"dense": random_t5(**small), "heads that are gone": child}


@pytest.fixture(scope="module")
def graphs(models):
    """Each traced once."""
    pytest.importorskip("onnxscript")
    made = {}
    for name, pipeline in models.items():
        parts = T5GraphEngine.traced(pipeline.inner_model)
        each = {part: onnx_model(one).SerializeToString() for part, one in parts.graphs.items()}
        made[name] = each, parts.facts
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_functions_compute_what_the_engine_does(name):
    pipeline = MODELS[name]()
    model = pipeline.inner_model
    tokens, mask = tokens_of(pipeline)
    forced = torch.randint(2, 60, (len(tokens), 15), generator=torch.Generator().manual_seed(1))
    expected = T5Engine(model).logits(tokens, mask, forced).numpy()
    driver = eager(model)
    found = driver.logits(tokens.numpy(), mask.bool().numpy(), forced.numpy())
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "chosen", [(None, None, None), (0.6, 7, None), (1.0, 0, 0.8), (1.3, 20, 0.5), (1.0, 1, None), (1.0, 9, 0.0)]
)
def test_tokens_are_drawn_as_the_engine_draws_them(chosen):
    pipeline = random_t5()
    tokens, mask = tokens_of(pipeline)
    asked = {"steps": 16, "paths": 6, "keys": list(range(len(tokens))), "sampling": pipeline.sampling(*chosen)}
    expected = T5Engine(pipeline.inner_model).sample(tokens, mask, **asked)
    asked["draws"] = asked.pop("sampling")
    for budget in (None, 1):  # one series at a time
        found = eager(pipeline.inner_model).sample(tokens.numpy(), mask.bool().numpy(), **asked, memory_budget=budget)
        assert (found == expected.numpy()).mean() > 0.98  # where rounding flips a token, the rest of its path differs


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", TRACED)
def test_runtimes_compute_the_stock_model(models, graphs, name, runtime):
    pytest.importorskip(runtime)
    pipeline, (each, facts) = models[name], graphs[name]
    model = pipeline.inner_model
    tokens, mask = tokens_of(pipeline)
    driver = open_driver(each, facts, runtime, threads=1)
    forced = torch.randint(2, 60, (len(tokens), 15), generator=torch.Generator().manual_seed(1))
    start = torch.zeros(len(tokens), 1, dtype=torch.long)
    with torch.no_grad():
        stock = model(
            input_ids=tokens, attention_mask=mask, decoder_input_ids=torch.cat([start, forced], dim=1)
        ).logits.numpy()
    for some in (slice(None), slice(2, 3), slice(5, 6)):
        found = driver.logits(tokens[some].numpy(), mask[some].bool().numpy(), forced[some].numpy())
        assert np.abs(found - stock[some]).max() <= 1e-5 * np.abs(stock).max()


@pytest.mark.parametrize("keep_spread", [False, True])
@pytest.mark.parametrize("horizon", [1, 16, 40])
def test_pipelines_forecast_the_same_with_a_runtime(models, graphs, horizon, keep_spread, monkeypatch):
    pytest.importorskip("onnxruntime")
    pipeline = copy.copy(models["dense"])
    pipeline.inference = copy.deepcopy(pipeline.inference)
    ready = iter(graphs["dense"][0].values())
    monkeypatch.setattr("flowrank.engine.graphs.onnx_model", lambda graph: Ready(next(ready)))
    asked = {"prediction_length": horizon, "num_samples": 4, "seed": 3, "keep_spread": keep_spread}
    expected = pipeline.predict(some_series(), **asked)
    for engine in ("onnxruntime", "fastest"):
        pipeline.engine = engine
        assert pipeline.path == engine
        found = pipeline.predict(some_series(), **asked)
        assert found.shape == expected.shape
        assert torch.isclose(found, expected, rtol=1e-5).float().mean() > (0.98 if horizon <= 16 else 0.8)
        again = pipeline.predict(some_series()[2:3], **asked)
        assert torch.isclose(found[2], again[0], rtol=1e-5).float().mean() > 0.8


class Ready:
    """A model that was traced before."""

    def __init__(self, graph):
        self.graph = graph

    def SerializeToString(self):
        return self.graph


def test_logits_that_are_no_numbers_are_refused():
    pipeline = random_t5()
    with torch.no_grad():
        pipeline.inner_model.shared.weight[5] = torch.nan
    tokens, mask = tokens_of(pipeline)
    with pytest.raises(FlowrankError, match="model: expected finite logits, found NaN or infinity"):
        eager(pipeline.inner_model).sample(
            tokens.numpy(), mask.bool().numpy(), steps=2, paths=2, draws=Draws(top_k=5), keys=range(len(tokens))
        )


def _floats(most):
    return st.floats(-most, most, width=32, allow_subnormal=False)


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(_floats(2.0**100), _floats(3.0), st.just(float("nan"))),
        min_size=1,
        max_size=40,
    ),
    st.booleans(),
)
def test_tokens_are_those_of_the_stock_tokenizer(values, end):
    raw = {**T5_TOKENS, "n_tokens": 4096, "use_eos_token": end}
    stock = ChronosConfig(**raw).create_tokenizer()
    mine = Tokens(-15.0, 15.0, 4096, 2, 0, 1 if end else None, 0, 20, 1.0, 50, 1.0, (), ())
    context = np.array([values], dtype=np.float32)
    tokens, visible, scale = mine.read(context)
    expected, mask, their_scale = stock.context_input_transform(torch.from_numpy(context))
    assert np.allclose(scale, their_scale.numpy(), rtol=1e-6)
    assert (visible == mask.numpy()).all()
    assert np.abs(tokens - expected.numpy()).max() <= 1  # a value on a border, by the rounding of the scale
    assert (tokens != expected.numpy()).mean() <= 0.1
    back, theirs = mine.values(expected.numpy()[:, None], scale), stock.output_transform(expected[:, None], their_scale)
    assert np.allclose(back, theirs.numpy(), rtol=1e-5, atol=1e-6 * float(scale[0]))


@given(st.integers(0, 2**63 - 1))
def test_noise_is_that_of_torchs_generator(key):
    expected = torch.empty(3, 5).uniform_(generator=torch.Generator().manual_seed(key))
    assert (uniforms([key], 3, 5)[0] == expected.numpy()).all()
    assert first_number(key) == int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(key)))


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "chronos", "pandas", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy, flowrank
model = flowrank.load(sys.argv[1], threads=1)
found = model.predict([numpy.arange(30.0), [1.0, float("nan"), 3.0]], prediction_length=16, seed=4)
numpy.save(sys.argv[2], found)
"""


def test_an_exported_folder_draws_the_paths_of_the_model(models, graphs, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    import onnx

    pipeline = models["dense"]
    ready = iter(graphs["dense"][0].values())
    monkeypatch.setattr("flowrank.exporting.writing.onnx_model", lambda graph: onnx.load_from_string(next(ready)))
    folder = flowrank.export(pipeline, tmp_path / "exported")
    assert {one.name for one in folder.iterdir()} == {"encoder.onnx", "step.onnx", "export.json", "README.md"}
    assert "draws 5 sample paths" in (folder / "README.md").read_text()
    model = flowrank.load(folder, threads=1)
    assert (model.engine, model.forecast_type.name, model.sample_paths) == ("onnxruntime", "SAMPLES", 5)
    assert model.manifest["check"]["difference"] < 1e-5
    series = [one.numpy() for one in some_series()]
    for asked in ({}, {"num_samples": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.9}, {"prediction_length": 40}):
        mine, theirs = model.predict(series, **asked, seed=1), pipeline.predict(some_series(), **asked, seed=1)
        assert mine.shape == tuple(theirs.shape)
        same = np.isclose(mine, theirs.numpy(), rtol=1e-4)  # a token that rounding flips changes its path
        assert same[:, :, :16].mean() > 0.95  # and, beyond the first block, its series
        assert same.mean() > 0.8
    levels = [0.05, 0.5, 0.81]
    mine, theirs = (
        one.predict_quantiles(many, 16, levels, seed=2) for one, many in ((model, series), (pipeline, some_series()))
    )
    for one, other in zip(mine, theirs, strict=True):
        assert np.isclose(one, other.numpy(), rtol=1e-4).mean() > 0.95
    assert (model.predict(series[:1]) != model.predict(series[:1])).any()
    frame = pd.DataFrame(
        {"item_id": "a", "timestamp": pd.date_range("2024-01-01", periods=40), "target": 1e6 + np.arange(40.0) % 7}
    )
    tables = [flowrank.forecast(one, frame, horizon=8).select_dtypes("number") for one in (model, pipeline)]
    assert np.isclose(*tables, rtol=1e-7).mean() > 0.95  # both move the series to where their bins tell it apart
    for wrong, argument in (({"top_k": -1}, "top_k"), ({"temperature": 0}, "temperature"), ({"seed": -1}, "seed")):
        with pytest.raises(FlowrankError, match=rf"^{argument}: "):
            model.predict(series, **wrong)
    with pytest.raises(FlowrankError, match=r"^prediction_length: expected at most 16"):
        model.predict(series, 17, limit_prediction_length=True)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, folder, tmp_path / "found.npy"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = pipeline.predict([torch.arange(30.0), torch.tensor([1.0, torch.nan, 3.0])], 16, seed=4)
    assert np.isclose(np.load(tmp_path / "found.npy"), expected.numpy(), rtol=1e-4).mean() > 0.95
