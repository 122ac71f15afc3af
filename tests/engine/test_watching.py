"""A model's state has a new number after each change, and only then."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import flowrank
from flowrank.engine.watching import Watch


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()


CHANGES = {
    "in place": lambda model: model[0].weight.detach().mul_(2),
    "through data": lambda model: model[0].weight.data.mul_(2),
    "in inference mode": lambda model: torch.inference_mode()(model[3].weight.mul_)(2),
    "other data": lambda model: setattr(model[3].weight, "data", torch.ones(2, 8)),
    "another parameter": lambda model: setattr(model[3], "weight", nn.Parameter(torch.ones(2, 8))),
    "no bias": lambda model: setattr(model[3], "bias", None),
    "a buffer": lambda model: model[2].running_mean.add_(1),
    "another module": lambda model: model.__setitem__(3, nn.Linear(8, 2)),
    "one module more": lambda model: model.append(nn.ReLU()),
    "training": lambda model: model[1].train(),
    "a hook": lambda model: model[1].register_forward_hook(lambda *_: None),
    "a hook before": lambda model: model[1].register_forward_pre_hook(lambda *_: None),
    "another forward": lambda model: setattr(model[1], "forward", lambda x: x),
    "another class": lambda model: setattr(model[1], "__class__", nn.Sigmoid),
    "another type": lambda model: model.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_noticed_once(model, change):
    watch = Watch()
    assert [watch.number(model) for _ in range(3)] == [1, 1, 1]
    change(model)
    assert [watch.number(model) for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("column", [0, 5, 63])
def test_a_column_written_through_data_is_noticed(column):
    model, watch = nn.Linear(256, 256), Watch()
    watch.number(model)
    model.weight.data[:, column] = 0
    assert watch.number(model) == 2


def test_autocast_is_another_state(model):
    watch = Watch()
    assert watch.number(model) == 1
    with torch.autocast("cpu"):
        assert watch.number(model) == 2
    assert watch.number(model) == 3


def test_another_model_is_another_state(model):
    watch = Watch()
    assert (watch.number(model), watch.number(copy.deepcopy(model)), watch.number(model)) == (1, 2, 3)


class TestPipelines:
    """Engines are kept between forecasts; forecasts are those of the weights as they are."""

    @pytest.fixture
    def pipeline(self):
        return flowrank.load("flow-bolt-mini")

    @staticmethod
    def forecast(pipeline, engine="exact"):
        pipeline.engine = engine
        return pipeline.predict(torch.arange(64.0).sin())

    def test_an_engine_is_kept(self, pipeline):
        self.forecast(pipeline)
        engine = pipeline.inference.engine_for(pipeline.inner_model)
        self.forecast(pipeline)
        assert pipeline.inference.engine_for(pipeline.inner_model) is engine

    def test_forecasts_follow_the_weights(self, pipeline):
        before = self.forecast(pipeline)
        for layer in (pipeline.inner_model.encoder.block[0].layer[0].SelfAttention, pipeline.inner_model.decoder):
            for parameter in layer.parameters():
                parameter.data.mul_(1.5)
            after = self.forecast(pipeline)
            assert not torch.allclose(after, before, rtol=1e-3)
            torch.testing.assert_close(after, self.forecast(pipeline, "stock"), rtol=1e-4, atol=1e-5)
            before = after

    def test_a_hook_is_honoured(self, pipeline):
        before = self.forecast(pipeline)
        query = pipeline.inner_model.encoder.block[0].layer[0].SelfAttention.q
        handle = query.register_forward_hook(lambda module, inputs, _: linear(inputs[0], 3 * module.weight))
        assert not torch.allclose(self.forecast(pipeline), before)
        handle.remove()
        assert torch.equal(self.forecast(pipeline), before)

    @pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_a_copy_keeps_nothing_of_the_model(self, pipeline, copied):
        before = self.forecast(pipeline)
        other = copied(pipeline)
        other.memory_budget = 10**8
        other.inner_model.encoder.block[0].layer[0].SelfAttention.q.weight.data.mul_(3)
        assert not torch.allclose(self.forecast(other), before)
        torch.testing.assert_close(self.forecast(other), self.forecast(other, "stock"), rtol=1e-4, atol=1e-5)
