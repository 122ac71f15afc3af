"""Seconds of a forecast, predicted: against machines whose law is known."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

import flowrank
from flowrank import Budget, WholeModel
from flowrank.compression import latency
from flowrank.compression.latency import Amount, Latency, _amounts
from flowrank.compression.whole import WholeFactorization
from flowrank.cost import Workload
from flowrank.family import cost, family_of, layout_of
from flowrank.nn.shapes import Shapes
from tests.conftest import outputs
from tests.layers import attention_layers, mlp_layers

WORKLOAD = Workload(batch_size=8, context_length=512, horizon=64)
SMALL = {"calibration_series": 24, "calibration_points": 64}


def law(rates: dict[str, Amount], overhead: float = 0.01) -> Latency:
    return Latency(overhead, rates, WORKLOAD)


def rates_of(pipeline, kinds: dict[str, Amount] | None = None) -> dict[str, Amount]:
    plain = dict.fromkeys(_amounts(pipeline.inner_model.config, WORKLOAD), Amount(1e-3, 2e-4, 1e-10))
    return plain | (kinds or {})


@pytest.fixture
def machine(monkeypatch):
    """A machine that takes exactly what a law says."""

    def install(truth: Latency) -> list[int]:
        timed: list[int] = []

        def seconds_of(pipelines, **_):
            timed.append(len(pipelines))
            for pipeline in pipelines.values():  # it must be possible to run what is timed
                pipeline.predict(torch.arange(32.0), prediction_length=2)
            return {name: truth(pipeline.inner_model.config) for name, pipeline in pipelines.items()}

        monkeypatch.setattr(latency, "seconds_of", seconds_of)
        return timed

    return install


def test_shapes_of_a_config_are_those_of_its_layers(pipeline):
    child = flowrank.compress(pipeline, WholeModel(Budget(0.5), rounds=1), **SMALL)
    for model in (pipeline.inner_model, child.inner_model):
        shapes = layout_of(model.config).shapes
        assert list(shapes.attention) == list(attention_layers(model))
        assert list(shapes.mlp) == list(mlp_layers(model))
        found = sum(sum(shape.parameters(model.config.d_model).values()) for shape in shapes.attention.values())
        assert found == sum(
            p.numel()
            for one in attention_layers(model).values()
            for n, p in one.named_parameters()
            if "relative" not in n
        )


def test_amounts_add_up_to_the_operations_of_all_layers(pipeline):
    config = pipeline.inner_model.config
    amounts = _amounts(config, WORKLOAD)
    assert all(one.flops > 0 for kind, one in amounts.items() if kind != "decoder attention")
    assert sum(one.flops for one in amounts.values()) <= cost(config, WORKLOAD).flops
    assert amounts["encoder attention"].layers == config.num_layers
    assert amounts["cross-attention"].heads == config.num_heads * config.num_decoder_layers


def test_a_law_is_found_again(pipeline, machine):
    truth = law(rates_of(pipeline, {"encoder attention": Amount(2e-3, 0.0, 3e-10)}))
    own = pipeline.inner_model.config.chronos_config
    workload = Workload(
        batch_size=8 if hasattr(pipeline, "tokenizer") else 32,
        context_length=own["context_length"],
        horizon=own["prediction_length"],
        num_samples=own.get("num_samples", 1),
    )
    truth = replace(truth, workload=workload)
    timed = machine(truth)
    found = Latency.measure(pipeline)
    assert found.workload == workload
    assert 12 <= len(timed) <= 24
    child = flowrank.compress(pipeline, WholeModel(Budget(0.5), rounds=1), **SMALL)
    for model in (pipeline, child):
        config = model.inner_model.config
        assert found(config) == pytest.approx(truth(config), rel=0.15)


def test_a_model_that_is_small_already_can_be_measured(pipeline, machine):
    """Its patch blocks and vocabulary are products of two, and some layers may be gone."""
    machine(law(rates_of(pipeline)))
    parts = ("heads", "neurons", "ends")
    small = flowrank.compress(pipeline, WholeModel(Budget(0.3), rounds=1, parts=parts, refit=False), **SMALL)
    config = small.inner_model.config
    truth = law(rates_of(pipeline))
    assert Latency.measure(small)(config) == pytest.approx(truth(config), rel=0.15)


def test_a_budget_of_seconds_is_kept(pipeline, machine, monkeypatch):
    """By the law that was measured; a budget of parameters would leave more seconds than that."""
    truth = law(rates_of(pipeline))
    machine(truth)
    measure, found = Latency.measure, []
    monkeypatch.setattr(Latency, "measure", lambda *call: found.append(measure(*call)) or found[-1])
    child = flowrank.compress(pipeline, WholeModel(Budget(0.8, unit="latency"), rounds=1), **SMALL)
    [price] = found
    assert price(child.inner_model.config) <= 0.8 * price(pipeline.inner_model.config)


def test_what_was_measured_survives_a_file(pipeline):
    truth = law(rates_of(pipeline))
    assert Latency.from_dict(json.loads(json.dumps(asdict(truth)))) == truth


def test_a_layer_that_costs_much_whatever_its_size_goes_first(bolt_folder, contexts):
    """By components alone every layer keeps some; a fixed cost is only saved by a layer that goes."""
    pipeline = flowrank.load(bolt_folder)
    whole = WholeFactorization(family_of(pipeline), contexts * 3, 0, None, parts=("heads", "neurons"))
    plain = law(rates_of(pipeline), overhead=0.0)
    heavy = law(rates_of(pipeline, {"decoder feed-forward": Amount(10.0, 0.0, 1e-10)}), overhead=0.0)

    def left(price: Latency) -> int:
        shapes = whole.shrunk(0.7 * price(pipeline.inner_model.config), price, unit="latency").shapes
        return sum(one.width > 0 for name, one in shapes.mlp.items() if name.startswith("decoder"))

    assert left(heavy) < left(plain)


def test_models_that_are_timed_keep_the_parents_tensors_where_they_fit(pipeline, contexts):
    before = outputs(pipeline, contexts)
    config = pipeline.inner_model.config
    copy = latency._like(pipeline.inner_model, family_of(pipeline).narrowed_config(config, Shapes()))
    made = family_of(pipeline).pipeline_of(copy)
    assert (outputs(made, contexts) == before).all()
