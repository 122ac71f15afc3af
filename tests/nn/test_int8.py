from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline
from torch import nn

import flowrank
from flowrank import FlowrankError, JointHeads, Uniform, WeightSVD, WholeModel
from flowrank.compression.integers import stored_bytes
from flowrank.family import family_of_model, tensor_digest
from flowrank.nn.int8 import Int8Linear, Int8Weight, int8_product, quantizable
from tests.conftest import make_bolt, make_t5

SIZES = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_heads": 4}
METHODS = {"dense": None, "uneven": JointHeads(Uniform(0.5)), "factored": WeightSVD(Uniform(0.8))}


@pytest.fixture(scope="module", params=["bolt", "t5"])
def parent(request, tmp_path_factory):
    """A model with layers that are large enough."""
    make = {"bolt": make_bolt, "t5": make_t5}[request.param]
    return flowrank.load(make(tmp_path_factory.mktemp("large") / request.param, **SIZES))


def forecast(pipeline, contexts):
    torch.manual_seed(0)
    return pipeline.predict(contexts, prediction_length=8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 64), (7, 130, 33), (300, 96, 128)])
def test_product_is_that_of_the_rounded_numbers(rows, inputs, outputs, onednn):
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    x[0, 0] = 30.0  # an outlier coarsens its own row only
    w, a = weight.double(), x.double()
    w_step, a_step = w.abs().amax(1, keepdim=True) / 127, a.abs().amax(1, keepdim=True) / 127
    expected = ((a / a_step).round() * a_step) @ ((w / w_step).round() * w_step).T + bias
    with torch.backends.mkldnn.flags(enabled=onednn):
        found = int8_product(x, Int8Weight.of(weight), bias)
        assert torch.equal(int8_product(x, Int8Weight.of(weight), bias, relu=True), found.relu())
    # fp32 may put a number that lies between two steps on the other one: a step of one number, at the most
    flip = a_step @ w.abs().amax(1)[None] + a.abs().amax(1, keepdim=True) * w_step.T
    assert ((found - expected).abs() <= 1e-4 + flip).all()
    assert (found - expected).abs().mean() < 1e-3
    bound = (
        0.51 * (a_step * w.abs().sum(1) + w_step.T * a.abs().sum(1, keepdim=True)) + 0.26 * inputs * a_step * w_step.T
    )
    assert ((found - (a @ w.T + bias)).abs() <= bound).all()


WITHOUT_VNNI = """
import torch
from flowrank.nn.int8 import Int8Weight, int8_product, multiplies_exactly
torch.manual_seed(0)
x, weight = torch.randn(40, 256), Int8Weight.of(torch.randn(64, 256))
step = x.abs().amax(1, keepdim=True) / 127
expected = ((x / step).round() * step).double() @ weight.dense().double().T
assert (int8_product(x, weight) - expected).abs().mean() < 1e-3
print(multiplies_exactly(True))
"""


def test_processors_that_lose_sums_multiply_another_way():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_VNNI], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_ways_give_the_same(monkeypatch):
    from flowrank.nn import int8

    x, weight, bias = random(20, 128), Int8Weight.of(random(64, 128, seed=1)), random(64, seed=2)
    found = []
    for exact in (True, False):
        monkeypatch.setattr(int8, "multiplies_exactly", lambda _, exact=exact: exact)
        with torch.backends.mkldnn.flags(enabled=False):
            found.append(int8_product(x, weight, bias, relu=True))
    assert torch.allclose(*found, atol=1e-5)


def test_rows_do_not_depend_on_their_neighbours_and_nothing_is_something():
    weight, x = Int8Weight.of(random(64, 64)), random(2, 5, 64, seed=1)
    whole = int8_product(x, weight)
    assert whole.shape == (2, 5, 64)
    assert torch.equal(int8_product(x[1, 3:4], weight), whole[1, 3:4])
    assert torch.equal(int8_product(torch.zeros(3, 64), weight), torch.zeros(3, 64))
    assert int8_product(torch.zeros(0, 64), weight).shape == (0, 64)
    assert torch.equal(Int8Weight.of(torch.zeros(4, 4)).dense(), torch.zeros(4, 4))
    assert int8_product(torch.full((1, 64), torch.nan), weight).isnan().all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_forecasts_stay_close_and_the_parent_as_it_is(parent, method, contexts):
    if method is not None:
        parent = flowrank.compress(parent, method, calibration_series=8, calibration_points=64)
    digest, before = tensor_digest(parent.inner_model), forecast(parent, contexts)
    child = flowrank.quantize(parent)
    assert tensor_digest(parent.inner_model) == digest
    assert torch.equal(forecast(parent, contexts), before)
    assert child.path == "exact"
    assert child.is_compressed
    layers = [one for one in child.inner_model.modules() if isinstance(one, Int8Linear)]
    assert len(layers) == child.recipe["quantization"]["layers"] > 10
    if "Bolt" in type(child).__name__:
        error = (forecast(child, contexts) - before).abs().mean() / before.std(dim=-1).mean()
        assert error < 0.1  # of the forecasts' own spread; random weights do not damp it
    else:
        logits = [
            one.model.model(torch.arange(2, 32)[None], decoder_input_ids=torch.zeros(1, 1, dtype=int)).logits
            for one in (parent, child)
        ]
        assert (logits[0] - logits[1]).abs().mean() < 0.05 * logits[0].std()


def test_exact_engine_and_stock_code_agree(parent, contexts):
    for method in (None, JointHeads(Uniform(0.5))):
        dense = (
            parent if method is None else flowrank.compress(parent, method, calibration_series=8, calibration_points=64)
        )
        child = flowrank.quantize(dense)
        if "Bolt" in type(child).__name__:
            exact = forecast(child, contexts)
            child.engine = "stock"
            # a rounding that falls the other way moves a number by a step of 127, rarely
            assert (exact - forecast(child, contexts)).abs().mean() < 2e-3 * exact.std()
        else:
            model, start = child.model.model, torch.zeros(1, 1, dtype=int)
            for cache in ("auto", "keys", "latent"):
                gaps = []
                for first in range(2, 13):
                    tokens = torch.arange(first, first + 30)[None]
                    engine = child.inference.engine_for(model)
                    seen = torch.ones_like(tokens).bool()
                    decoder = engine.decoder(tokens, seen, paths=1, steps=1, cross_cache=cache)
                    with torch.inference_mode():
                        exact = decoder.first(start[0])
                        stock = model(tokens, decoder_input_ids=start).logits[:, 0]
                    gaps.append(float((exact - stock).abs().mean() / stock.std()))
                # here too: a step of one activation of the only token moves all logits by 1 %
                assert max(gaps) < 0.05
                assert cache == "latent" or np.median(gaps) < 1e-5


def test_saved_and_opened_again_it_is_the_same(parent, contexts, tmp_path):
    child = flowrank.quantize(parent)
    folder, dense = child.save_pretrained(tmp_path / "int8"), parent.save_pretrained(tmp_path / "dense")
    expected = forecast(child, contexts)
    for opened in (flowrank.load(folder), BaseChronosPipeline.from_pretrained(folder)):
        assert torch.equal(forecast(opened, contexts), expected)
        assert tensor_digest(opened.inner_model) == tensor_digest(child.inner_model)
    assert flowrank.load(folder, dtype="fastest").inner_model.dtype == torch.float32
    sizes = [(one / "model.safetensors").stat().st_size for one in (folder, dense)]
    assert sizes[0] < 0.45 * sizes[1]  # small models keep much in fp32: norms, embeddings, Bolt's keys and values
    assert stored_bytes(child.inner_model) < 0.45 * stored_bytes(parent.inner_model)
    again = flowrank.load(folder).save_pretrained(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_embeddings_and_shared_matrices_stay(tmp_path):
    model = flowrank.load(make_t5(tmp_path / "t5", **SIZES)).inner_model
    assert "lm_head" in quantizable(model)
    model.lm_head.weight = model.shared.weight
    assert "lm_head" not in quantizable(model)
    bolt = flowrank.load(make_bolt(tmp_path / "bolt", **SIZES)).inner_model
    names = quantizable(bolt, excluded=family_of_model(bolt).kept_from_int8(bolt))
    assert any("EncDecAttention.k" in name for name in quantizable(bolt))
    assert not any("EncDecAttention.k" in name or "EncDecAttention.v" in name for name in names)
    assert "output_patch_embedding.residual_layer" in names


def test_refusals(parent, tmp_path):
    child = flowrank.quantize(parent)
    for use in (
        flowrank.quantize,
        flowrank.fastest,
        lambda one: flowrank.compress(one, WholeModel(flowrank.Budget(0.5)), calibration_series=2),
        lambda one: flowrank.heal(one, parent),
    ):
        with pytest.raises(FlowrankError, match="8-bit integers"):
            use(child)
    with pytest.raises(FlowrankError, match="large enough"):
        flowrank.quantize(flowrank.load(make_bolt(tmp_path / "tiny", d_ff=16)))
    with pytest.raises(FlowrankError, match="pipeline of flowrank"):
        flowrank.quantize(nn.Linear(2, 2))
    folder = child.save_pretrained(tmp_path / "int8")
    with pytest.raises(FlowrankError, match="dtype"):
        flowrank.load(folder, dtype="bfloat16")
    with pytest.raises(FlowrankError, match="device_map"):
        flowrank.load(folder, device_map="cuda")
    half = flowrank.load(parent.save_pretrained(tmp_path / "half"), dtype="bfloat16")
    with pytest.raises(FlowrankError, match="bfloat16 on cpu"):
        flowrank.quantize(half)


@pytest.mark.parametrize("wrong", ["int8", {"layers": []}, ["no"]])
def test_a_config_that_says_something_else_is_refused(parent, wrong, tmp_path):
    folder = flowrank.quantize(parent).save_pretrained(tmp_path / "int8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "flowrank": {**config["flowrank"], "int8": wrong}}))
    with pytest.raises(FlowrankError, match=r"flowrank\.int8"):
        flowrank.load(folder)


def test_fastest_is_what_the_measurement_says(parent, monkeypatch):
    from flowrank.compression import integers as module

    def measured(**taken):
        monkeypatch.setattr(module, "seconds_of", lambda kinds, **_: taken)
        return flowrank.fastest(parent, batch_size=2)

    assert measured(float32=1.0, bfloat16=2.0, int8=0.95) is parent
    assert measured(float32=1.0, bfloat16=2.0, int8=0.5).recipe["quantization"]["weights"] == "int8"
    assert measured(float32=1.0, bfloat16=0.4, int8=0.5).inner_model.dtype == torch.bfloat16
    assert parent.inner_model.dtype == torch.float32
    monkeypatch.undo()
    taken = module.seconds_of({"a": parent}, batch_size=1, seconds=0.0)
    assert taken["a"] > 0
