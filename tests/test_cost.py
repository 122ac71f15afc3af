"""Operations and caches are counted from configs: both are compared with what really runs and exists."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig

import flowrank
from flowrank import Budget, FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.compression.children import pipeline_of
from flowrank.cost import Cost, Machine, Part, Workload
from flowrank.family import cost
from tests.conftest import make_bolt, make_t5, small_mlps, with_own_widths
from tests.layers import narrow_config

CONTEXT, HORIZON = 24, 6
ADDMM = {torch.ops.aten.addmm_: lambda _x, a, b, **_: 2 * math.prod(a) * b[-1]}


def _held(cache) -> int:
    return sum(
        tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


def test_t5_cache_equals_the_tensors_of_stock_generation(t5):
    batch, samples = 2, 3
    for context, horizon in ((CONTEXT, HORIZON), (50, 8)):
        tokens, mask, _ = t5.tokenizer.context_input_transform(torch.randn(batch, context))
        output = t5.inner_model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=GenerationConfig(
                min_new_tokens=horizon,
                max_new_tokens=horizon,
                do_sample=True,
                num_return_sequences=samples,
                eos_token_id=1,
                pad_token_id=0,
                return_dict_in_generate=True,
            ),
        )
        cache = output.past_key_values
        counted = cost(t5, Workload(batch, context, horizon, samples), engine="stock")
        assert counted.cache_self == _held(cache.self_attention_cache)
        assert counted.cache_cross == _held(cache.cross_attention_cache)


@pytest.mark.parametrize(("context", "horizon"), [(50, 16), (30, 40)])
def test_bolt_cache_equals_the_tensors_of_its_largest_forward(bolt, context, horizon):
    seen = []
    bolt.inner_model.decoder.register_forward_hook(lambda *call: seen.append(call[-1].past_key_values))
    bolt.predict(torch.randn(2, context), prediction_length=horizon)
    counted = cost(bolt, Workload(2, context, horizon), engine="stock")
    assert counted.cache_self == max(_held(cache.self_attention_cache) for cache in seen)
    assert counted.cache_cross == max(_held(cache.cross_attention_cache) for cache in seen)


def test_t5_cache_equals_the_tensors_of_the_exact_engine(t5_folder):
    from flowrank.families.chronos_t5.engine import T5Engine

    child = flowrank.compress(
        flowrank.load(t5_folder), JointHeads(Budget(0.3), per_head=True), calibration_series=8, calibration_points=64
    )
    tokens, mask, _ = child.tokenizer.context_input_transform(torch.randn(2, CONTEXT))
    with torch.inference_mode():
        decoder = T5Engine(child.inner_model).decoder(tokens, mask, paths=3, steps=HORIZON)
    counted = cost(child, Workload(2, CONTEXT, HORIZON, 3))
    assert counted.cache_self == sum(tensor.nbytes for pair in decoder.past if pair is not None for tensor in pair)
    held = {t.data_ptr(): t.nbytes for cache in decoder.cross if cache is not None for t in cache.tensors}
    assert counted.cache_cross == sum(held.values())


def test_the_cache_of_a_long_horizon_is_that_of_the_longest_context(t5):
    def caches(context, horizon):
        counted = cost(t5, Workload(2, context, horizon, 3))
        return counted.cache_self, counted.cache_cross

    assert caches(40, 36) == caches(64, 4)  # blocks of 16, 16, 4 on 40, 56, 64 points
    assert caches(64, 36) == caches(64, 16)


def _child(folder, method):
    return flowrank.compress(flowrank.load(folder), method, calibration_series=8, calibration_points=64)


def _small(folder, ranks=None):
    model = flowrank.load(folder).inner_model
    child = with_own_widths(model, mlp=small_mlps(model), vocabulary=ranks)
    return pipeline_of(child)


MODELS = {
    "t5": lambda folder: flowrank.load(make_t5(folder)),
    "t5 gated": lambda folder: flowrank.load(make_t5(folder, feed_forward_proj="gated-gelu")),
    "t5 many layers": lambda folder: flowrank.load(make_t5(folder, num_layers=4)),
    "t5 joint": lambda folder: _child(make_t5(folder), JointHeads(Budget(0.3))),
    "t5 factors": lambda folder: _child(make_t5(folder), WeightSVD(Uniform(0.4))),
    "bolt": lambda folder: flowrank.load(make_bolt(folder)),
    "bolt narrow": lambda folder: flowrank.load(make_bolt(folder, d_kv=2, num_layers=3, num_decoder_layers=1)),
    "t5 small": lambda folder: _small(make_t5(folder), {"head": 5, "embedding": 3}),
    "t5 small gated": lambda folder: _small(make_t5(folder, feed_forward_proj="gated-gelu", num_layers=4)),
    "bolt small": lambda folder: _small(make_bolt(folder)),
    "bolt joint": lambda folder: _child(make_bolt(folder), JointHeads(Uniform(0.4))),
}


@pytest.fixture(scope="module", params=MODELS)
def made(request, tmp_path_factory):
    """A pipeline of each kind."""
    return MODELS[request.param](tmp_path_factory.mktemp("cost") / "model")


@pytest.mark.filterwarnings("ignore:We recommend", "ignore:prediction_length")
@pytest.mark.parametrize("engine", ["exact", "stock"])
@pytest.mark.parametrize(
    "workload", [Workload(3, 24, 16, 4), Workload(2, 40, 20, 3), Workload(1, 8, 1, 1), Workload(2, 60, 5, 1)], ids=str
)
def test_operations_are_those_that_torch_counts(made, engine, workload):
    pipeline = copy.deepcopy(made)
    pipeline.engine = engine
    pipeline.inner_model.set_attn_implementation("eager")  # torch does not count its fused kernels on a CPU
    samples = {"num_samples": workload.num_samples} if hasattr(pipeline, "tokenizer") else {}
    series = torch.randn(workload.batch_size, workload.context_length)
    pipeline.predict(series, prediction_length=1, **samples)  # what is made once for a model is not counted
    # Nor does it count oneDNN's products.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False, custom_mapping=ADDMM) as counter:
        pipeline.predict(series, prediction_length=workload.horizon, **samples)
    assert cost(pipeline, workload, engine=engine).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_small_parts_cost_what_their_parameters_say(t5_folder, bolt_folder):
    """Every token of a context passes through the encoder's feed-forward layers, two operations a parameter."""
    workload = Workload(4, 64, 16, 20)

    def parts(folder, **fields):
        config = flowrank.load(folder).inner_model.config
        whole, compressed = cost(config, workload), cost(narrow_config(config, **fields), workload)
        return {
            a.name: (a.flops - b.flops, a.moved - b.moved) for a, b in zip(whole.parts, compressed.parts, strict=True)
        }

    assert not any(map(any, parts(t5_folder).values()))
    shapes = {
        "encoder.block.0.layer.1.DenseReluDense": {"width": 10, "ranks": {"wo": 2}},
        "decoder.block.1.layer.2.DenseReluDense": {"width": 0},
    }
    saved = parts(t5_folder, mlp=shapes, vocabulary={"head": 5, "embedding": 3})
    gone, basis, tokens, rows = 2 * 24 * 32 - 24 * 10 - 2 * (10 + 24), 3 * 24, 4 * 65, 4 + 4 * 20 * 15
    assert saved["encoder"] == (2 * tokens * (gone - basis), 4 * (gone - basis))
    assert saved["cross keys and values"] == (0, 0)
    assert saved["decoder"] == (2 * rows * (2 * 24 * 32 - basis), 4 * 16 * (2 * 24 * 32 - basis))
    head = 64 * 24 - 5 * (64 + 24)
    assert saved["head"] == (2 * rows * head, 4 * 16 * head)
    ranks = {"residual_layer": 4}
    saved = parts(bolt_folder, mlp={"output_patch_embedding": {"width": 3, "ranks": ranks}})
    head = 29 * (24 + 144) + 24 * 144 - 4 * (24 + 144)
    assert saved == {"encoder": (0, 0), "decoder": (0, 0), "head": (2 * 4 * head, 4 * head)}


def test_a_config_alone_is_enough_and_the_exact_engine_needs_less(t5_folder):
    pipeline = flowrank.load(t5_folder)
    workload = Workload(4, 64, 16, 20)
    exact, stock = (cost(pipeline.inner_model.config, workload, engine=engine) for engine in ("exact", "stock"))
    assert exact == cost(pipeline, workload)
    assert exact.flops < stock.flops
    assert exact.moved < stock.moved
    assert exact.cache_cross * 20 == stock.cache_cross
    assert cost(pipeline.inner_model.config, workload, itemsize=2).cache_self * 2 == exact.cache_self


def test_the_roofline_is_bound_by_operations_or_by_bytes():
    machine = Machine(flops_per_second=100.0, bytes_per_second=10.0)
    assert Cost((Part("a", 1000, 20), Part("b", 100, 50)), 0, 0).roofline(machine) == 10 + 5


def test_a_machine_is_measured():
    machine = Machine.measure()
    assert machine.flops_per_second > 1e8
    assert machine.bytes_per_second > 1e8


def test_bad_input_is_refused(t5):
    with pytest.raises(FlowrankError, match=r"engine: expected one of exact, stock, .*, found 'fast'"):
        cost(t5, Workload(1, 1, 1), engine="fast")
    with pytest.raises(FlowrankError, match="model: expected the config or pipeline"):
        cost(torch.nn.Linear(1, 1), Workload(1, 1, 1))
    with pytest.raises(FlowrankError, match="horizon: expected a whole number"):
        Workload(1, 1, 0)


def test_the_fastest_type_is_the_one_that_multiplies_faster(monkeypatch, t5_folder):
    for half, expected in ((3.0, torch.bfloat16), (1.1, torch.float32)):
        rates = {torch.float32: 1.0, torch.bfloat16: half}
        monkeypatch.setattr(Machine, "measure", lambda _device, dtype, rates=rates: Machine(rates[dtype], 1.0))
        assert flowrank.load(t5_folder, dtype="fastest").inner_model.dtype == expected
