"""What every family keeps, whatever it is: one suite over all of them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import flowrank
from flowrank import Budget, InputSVD, JointHeads, WholeModel
from flowrank.cost import Workload
from flowrank.family import cost, families, family_of, private_copy, register, unregister
from flowrank.nn.int8 import Int8Linear
from tests.conftest import make_bolt, make_chronos2, make_t5, relative_gap
from tests.test_cost import ADDMM
from tests.toy_family import Toy, ToyConfig, ToyModel, ToyPipeline

SMALL = {"calibration_series": 24, "calibration_points": 64}


def toy(_folder):
    torch.manual_seed(0)
    return ToyPipeline(ToyModel(ToyConfig()).eval())


MODELS = {
    "chronos-2": lambda folder: flowrank.load(make_chronos2(folder / "chronos2")),
    "chronos-bolt": lambda folder: flowrank.load(make_bolt(folder / "bolt")),
    "chronos-t5": lambda folder: flowrank.load(make_t5(folder / "t5")),
    "toy": toy,
}


@pytest.fixture(autouse=True)
def toy_family():
    register(Toy)
    yield
    unregister(Toy)


@pytest.fixture(params=MODELS)
def parent(request, tmp_path):
    return MODELS[request.param](tmp_path)


@pytest.fixture
def series():
    """Long ones and short ones, ragged, with holes, and one that starts late."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(n, generator=generator).cumsum(0) for n in (100, 64, 33, 9)]
    found[1][10:20] = torch.nan
    found[2][:8] = torch.nan
    return found


def forecast(pipeline, series, seed=0):
    """By a seed where the family draws."""
    options = {"seed": seed} if getattr(pipeline, "takes_seed", False) else {}
    found = pipeline.predict(series, prediction_length=6, **options)
    return torch.cat(found) if isinstance(found, list) else found


def child_of(parent):
    return flowrank.compress(parent, WholeModel(Budget(0.6), rounds=1), **SMALL)


def test_every_family_that_forecasts_is_here():
    assert {family.name for family in families() if family.pipeline_class is not None} == set(MODELS)


@pytest.mark.parametrize("method", [JointHeads, InputSVD, WholeModel])
def test_full_rank_is_the_stock_model(parent, series, method):
    child = flowrank.compress(parent, method(Budget(1.0)), **SMALL)
    family, other = family_of(parent), family_of(child)
    with torch.no_grad():
        assert relative_gap(other.run(series), family.run(series)) < 1e-4


def test_the_engine_computes_the_stock_model(parent, series):
    """Quantiles of a Bolt are the same numbers; of a T5, what can be drawn is (its own tests compare the logits)."""
    if parent.path == "stock":
        pytest.skip(f"{family_of(parent).name} has no engine")
    for pipeline in (parent, child_of(parent)):
        if getattr(pipeline, "takes_seed", False):
            exact, alone = forecast(pipeline, series), [forecast(pipeline, [one]) for one in series]
            assert torch.equal(exact, torch.cat(alone))  # no path depends on a neighbour
            continue
        exact = forecast(pipeline, series)
        pipeline.engine = "stock"
        assert relative_gap(exact, forecast(pipeline, series)) < 1e-4


@pytest.mark.parametrize("engine", ["exact", "stock"])
def test_cost_is_what_torch_counts(parent, engine):
    family = family_of(parent)
    if type(family).passes.__func__ is flowrank.family.Family.passes.__func__:
        pytest.skip(f"{family.name} has no cost model")
    parent.engine = engine
    for module in parent.inner_model.modules():  # torch does not count what its fused kernel does on a CPU
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    workload = Workload(4, 48, 6, 3)
    options = {"num_samples": 3} if getattr(parent, "takes_seed", False) else {}
    batch = list(torch.randn(4, 48).cumsum(1))
    parent.predict(batch, prediction_length=6, **options)  # products of weights that are kept
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False, custom_mapping=ADDMM) as counter:
        parent.predict(batch, prediction_length=6, **options)
    assert cost(parent, workload).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


SCRIPT = """
import sys, torch
sys.path.insert(0, {root!r})
import flowrank
from flowrank.family import register
from tests.toy_family import Toy
register(Toy)
pipeline = flowrank.load({folder!r})
series = torch.load({series!r})
options = {{"seed": 0}} if getattr(pipeline, "takes_seed", False) else {{}}
torch.set_num_threads(1)
found = pipeline.predict(series, prediction_length=6, **options)
torch.save(torch.cat(found) if isinstance(found, list) else found, {out!r})
"""


def test_a_child_opens_in_a_fresh_process_with_the_same_bits(parent, series, tmp_path, request):
    child = child_of(parent)
    child.save_pretrained(tmp_path / "child")
    torch.save(series, tmp_path / "series.pt")
    script = SCRIPT.format(
        root=str(request.config.rootpath),
        folder=str(tmp_path / "child"),
        series=str(tmp_path / "series.pt"),
        out=str(tmp_path / "out.pt"),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "out.pt"), forecast(child, series))


def test_pickled_and_copied_it_is_the_same(parent, series):
    for pipeline in (parent, child_of(parent)):
        expected = forecast(pipeline, series)
        assert torch.equal(forecast(copy.deepcopy(pipeline), series), expected)
        assert torch.equal(forecast(pickle.loads(pickle.dumps(pipeline)), series), expected)


def test_two_threads_with_two_seeds(parent, series):
    expected = [forecast(parent, series, seed) for seed in (1, 2)]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def run(number):
        for _ in range(5):
            found[number].append(forecast(parent, series, number + 1))

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert len(found[number]) == 5
        assert all(torch.equal(one, expected[number]) for one in found[number])


def test_a_forecast_beside_compress(parent, series):
    expected, child, done = forecast(parent, series), [], threading.Event()

    def run():
        try:
            child.append(flowrank.compress(parent, JointHeads(Budget(0.8)), **SMALL))
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    forecasts = [forecast(parent, series)]
    while not done.is_set():
        forecasts.append(forecast(parent, series))
    thread.join()
    assert all(torch.equal(one, expected) for one in forecasts)
    alone = flowrank.compress(parent, JointHeads(Budget(0.8)), **SMALL)
    weights = child[0].inner_model.state_dict()
    assert all(torch.equal(one, weights[name]) for name, one in alone.inner_model.state_dict().items())


def test_every_linear_layer_is_found(parent):
    """Parameters of all sites, and of what is no matrix of theirs, are those of the model."""
    for pipeline in (parent, child_of(parent)):
        family, model = family_of(pipeline), pipeline.inner_model
        found = {id(p) for site in (*family.attention, *family.mlps) for p in site.module.parameters()}
        if family.vocabulary is not None:
            ends = family.vocabulary.embedding, family.vocabulary.head
            found |= {id(p) for end in ends for p in end.parameters()}
        known = {"embed.weight", "head.weight"}  # of the toy, which leaves its ends alone
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | Int8Linear) and f"{name}.weight" not in known:
                assert id(module.weight) in found, name


def test_saving_and_measuring_leave_the_model_as_it_was(parent, tmp_path):
    model = parent.inner_model
    config, training = copy.deepcopy(model.config.to_dict()), model.training
    parent.save_pretrained(tmp_path / "saved")
    flowrank.compress(parent, JointHeads(Budget(0.8)), **SMALL)
    flowrank.analyze(parent, count=4, points=48)
    assert model.config.to_dict() == config
    assert model.training is training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    twin = private_copy(model)
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
