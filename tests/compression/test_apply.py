from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

import flowrank
from flowrank import (
    Budget,
    Epsilon,
    FlowOfRanks,
    FlowrankError,
    InputSVD,
    JointHeads,
    Uniform,
    WeightSVD,
    WholeModel,
)
from flowrank.compression.children import pipeline_of
from flowrank.family import tensor_digest
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear
from tests.conftest import make_bolt, make_t5, outputs, relative_gap, small_mlps, with_own_widths
from tests.layers import attention_layers, attention_parameters, mlp_layers

METHODS = [JointHeads, InputSVD, WeightSVD]
SMALL = {"calibration_series": 12, "calibration_points": 64}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("allocation", [Uniform(1.0), Budget(1.0), Epsilon(0.0), FlowOfRanks(d0=6, alpha=0)])
def test_full_rank_reproduces_the_dense_model(pipeline, method, allocation, contexts):
    expected = outputs(pipeline, contexts)
    child = flowrank.compress(pipeline, method(allocation), **SMALL)
    assert relative_gap(outputs(child, contexts), expected) <= 1e-4
    assert child.inner_model.num_parameters() <= pipeline.inner_model.num_parameters()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "allocation", [Uniform(0.4), Budget(0.4), Epsilon(ratio=0.4), FlowOfRanks(ratio=0.4, alpha=0.3)]
)
def test_children_are_really_smaller(pipeline, method, allocation, contexts, tmp_path):
    child = flowrank.compress(pipeline, method(allocation), **SMALL)
    parent_count, child_count = (attention_parameters(p.inner_model) for p in (pipeline, child))
    assert 0.15 * parent_count < child_count <= 0.4 * parent_count
    assert child.recipe["parameters"]["attention_child"] == child_count
    assert torch.isfinite(outputs(child, contexts)).all()
    child.save_pretrained(tmp_path / "child")
    saved, dense = ((tmp_path / name / "model.safetensors") for name in ("child", "parent"))
    pipeline.save_pretrained(tmp_path / "parent")
    assert dense.stat().st_size - saved.stat().st_size > 0.5 * 4 * (parent_count - child_count)


def test_heads_of_a_layer_are_equal_unless_asked(pipeline):
    for per_head in (False, True):
        child = flowrank.compress(pipeline, JointHeads(Budget(0.4), per_head=per_head), **SMALL)
        widths = flowrank.rank_table(child).query("kind == 'cross'").groupby(["layer", "part"])["kept"].nunique()
        assert (widths.max() > 1) == per_head


@pytest.mark.parametrize("method", METHODS)
def test_the_parent_is_left_as_it_was(pipeline, method):
    model = pipeline.inner_model
    before = (tensor_digest(model), model.config.to_dict(), model.config._attn_implementation)
    gradients = {name: p.requires_grad for name, p in model.named_parameters()}
    flowrank.compress(pipeline, method(Budget(0.3)), **SMALL)
    assert (tensor_digest(model), model.config.to_dict(), model.config._attn_implementation) == before
    assert {name: p.requires_grad for name, p in model.named_parameters()} == gradients
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_same_seed_same_child(pipeline):
    one, two = (flowrank.compress(pipeline, JointHeads(Budget(0.3)), seed=4, **SMALL) for _ in range(2))
    assert tensor_digest(one.inner_model) == tensor_digest(two.inner_model)


def test_weight_svd_at_a_rank_is_the_truncated_svd(pipeline):
    child = flowrank.compress(pipeline, WeightSVD(Uniform(0.5)))
    for name, layer in attention_layers(child.inner_model).items():
        weight = attention_layers(pipeline.inner_model)[name].q.weight.double()
        u, s, v = torch.linalg.svd(weight)
        rank = layer.q.rank
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert torch.allclose((layer.q.up.weight @ layer.q.down.weight).double(), best, atol=1e-5)


def low_rank_parent(pipeline, rank: int):
    """Make every head's W_Q W_Kᵀ and W_V W_O exactly of a small rank."""
    with torch.no_grad():
        for layer in attention_layers(pipeline.inner_model).values():
            for name in ("q", "k", "v"):
                weight = getattr(layer, name).weight
                heads = weight.view(layer.n_heads, layer.key_value_proj_dim, -1)
                u, s, v = torch.linalg.svd(heads, full_matrices=False)
                weight.copy_(((u[..., :rank] * s[:, None, :rank]) @ v[:, :rank]).reshape_as(weight))
    return pipeline


def test_joint_heads_find_an_exact_low_rank(pipeline, contexts):
    """Queries, keys and values of rank 2: width 2 a head must lose nothing."""
    parent = low_rank_parent(pipeline, 2)
    expected = outputs(parent, contexts)
    child = flowrank.compress(parent, JointHeads(FlowOfRanks(d0=2, alpha=0)), **SMALL)
    assert relative_gap(outputs(child, contexts), expected) < 1e-3
    assert attention_parameters(child.inner_model) <= attention_parameters(parent.inner_model) / 3 + 1


@pytest.mark.parametrize("method", [JointHeads, InputSVD, WholeModel])
def test_both_sides_of_a_component_are_of_one_size(pipeline, method):
    """Training moves all weights alike: beside queries a thousand times smaller, keys would not move at all."""
    options = {"parts": ("heads", "ends"), "refit": False} if method is WholeModel else {}
    child = flowrank.compress(pipeline, method(Budget(0.4), **options), calibration_series=24, calibration_points=64)
    pairs = []
    for module in child.inner_model.modules():
        if isinstance(module, FactoredLinear):
            pairs.append((module.down.weight, module.up.weight.T))
        elif isinstance(module, FactoredEmbedding):
            pairs.append((module.codes.weight.T, module.basis.weight.T))
        elif method is not InputSVD and isinstance(module, T5Attention):
            pairs += [(module.q.weight, module.k.weight), (module.v.weight, module.o.weight.T)]
    pairs = [(one, other) for one, other in pairs if one.numel()]
    assert pairs
    for one, other in pairs:
        sizes = one.square().mean(dim=1).sqrt(), other.square().mean(dim=1).sqrt()
        torch.testing.assert_close(*sizes, rtol=1e-3, atol=1e-7)


def test_budget_never_spends_on_queries_of_bolts_one_token_decoder(bolt_folder):
    parent = flowrank.load(bolt_folder)
    child = flowrank.compress(parent, JointHeads(Budget(0.9)), **SMALL)
    table = flowrank.rank_table(child).query("stack == 'decoder' and kind == 'self'")
    assert not table.query("part == 'QK'")["kept"].any()


@pytest.mark.parametrize("method", METHODS)
def test_rank_table_adds_up(pipeline, method):
    child = flowrank.compress(pipeline, method(Budget(0.35)), **SMALL)
    table = flowrank.rank_table(child).query("kind in ('self', 'cross')")
    assert table["cost"].sum() == attention_parameters(child.inner_model)
    assert table["full_cost"].sum() == attention_parameters(pipeline.inner_model)
    dense = flowrank.rank_table(pipeline)
    assert (dense["kept"] == dense["full"]).all()
    assert (dense["cost"] == dense["full_cost"]).all()


@pytest.mark.parametrize("activation", ["relu", "gated-gelu"])
@pytest.mark.parametrize("make", [make_bolt, make_t5])
def test_neurons_in_the_rank_table_add_up(tmp_path, make, activation):
    parent = flowrank.load(make(tmp_path / "model", feed_forward_proj=activation))
    count = sum(p.numel() for layer in mlp_layers(parent.inner_model).values() for p in layer.parameters())
    child = with_own_widths(parent.inner_model, mlp=small_mlps(parent.inner_model))
    table = flowrank.rank_table(pipeline_of(child)).query("part == 'neurons'")
    layers = mlp_layers(child)
    assert table["cost"].sum() == sum(p.numel() for layer in layers.values() for p in layer.parameters()) < count
    assert table["full_cost"].sum() == count
    assert table["kept"].tolist() == [7, 0, 9, 32, 5, 7] if make is make_bolt else [5, 0, 9, 32]
    assert set(table["full"]) == {32}
    assert set(table["head"]) == {-1}
    places = [("encoder", "mlp", 0, 0), ("encoder", "mlp", 1, 1), ("decoder", "mlp", 0, 2), ("decoder", "mlp", 1, 3)]
    blocks = [("encoder", "block", -1, 0), ("decoder", "block", 2, 4)]
    expected = [blocks[0], *places, blocks[1]] if make is make_bolt else places
    assert sorted(table[["stack", "kind", "layer", "depth"]].itertuples(index=False, name=None)) == sorted(expected)


def test_compressing_twice_is_refused(pipeline):
    child = flowrank.compress(pipeline, WeightSVD(Uniform(0.5)))
    with pytest.raises(FlowrankError, match="dense model"):
        flowrank.compress(child, WeightSVD(Uniform(0.5)))


def test_what_is_no_pipeline_or_method_is_refused(pipeline):
    with pytest.raises(FlowrankError, match="pipeline"):
        flowrank.compress("flow-bolt-mini", WeightSVD(Uniform(0.5)))
    with pytest.raises(FlowrankError, match="method"):
        flowrank.compress(pipeline, Budget(0.5), **SMALL)


class TestCalibration:
    """The user's own series: used where they say something, refused where none does."""

    def compress(self, pipeline, series, **options):
        return flowrank.compress(pipeline, JointHeads(Uniform(0.5)), series=series, calibration_points=64, **options)

    def test_own_series_are_used_and_named(self, pipeline, long_frame, tmp_path):
        path = tmp_path / "mine.csv"
        long_frame.to_csv(path, index=False)
        recipe = self.compress(pipeline, path).recipe
        assert recipe["calibration"] == {
            "source": "mine.csv; synthetic, seed 0",
            "series": 32,
            "own": 3,
            "points": 64,
            "skipped": {},
        }
        renamed = long_frame.rename(columns={"item_id": "sku", "target": "sales"})
        again = self.compress(pipeline, renamed, id_column="sku", target="sales")
        assert again.recipe["calibration"]["own"] == 3

    def test_useless_series_are_left_out_and_counted(self, pipeline):
        rng = np.random.default_rng(0)
        series = [
            rng.normal(size=50),
            np.full(50, 3.0),
            np.full(50, np.nan),
            np.arange(3.0),
            1e30 * rng.normal(size=40),
        ]
        recipe = self.compress(pipeline, series).recipe["calibration"]
        assert recipe["own"] == 2
        assert recipe["skipped"] == {"constant": 1, "all missing": 1, "too short": 1}

    @pytest.mark.parametrize(
        ("series", "words"),
        [
            ([np.full(50, np.nan)], "1 all missing"),
            ([np.full(50, 2.0)], "1 constant"),
            ([np.arange(3.0)], "1 too short"),
            ([np.array([1.0, np.inf, 2.0, 3.0, 4.0])], "infinite"),
        ],
    )
    def test_useless_data_are_refused_by_name(self, pipeline, series, words):
        with pytest.raises(FlowrankError, match=words):
            self.compress(pipeline, series)

    def test_bad_frames_are_refused(self, pipeline, long_frame):
        with pytest.raises(FlowrankError, match="target"):
            self.compress(pipeline, long_frame.drop(columns="target"))
        with pytest.raises(FlowrankError, match="increasing"):
            self.compress(pipeline, long_frame.iloc[::-1])
        with pytest.raises(FlowrankError, match=r"duplicate|twice"):
            self.compress(pipeline, pd.concat([long_frame, long_frame.tail(1)]))

    @pytest.mark.parametrize("count", [0, -1, 2.5, True])
    def test_bad_count(self, pipeline, count):
        with pytest.raises(FlowrankError, match="calibration_series"):
            self.compress(pipeline, None, calibration_series=count)


@pytest.mark.parametrize("ratio", [0.01, 0.03])
def test_even_a_starved_model_runs_and_reloads(pipeline, ratio, contexts, tmp_path):
    child = flowrank.compress(pipeline, JointHeads(Budget(ratio)), **SMALL)
    child.save_pretrained(tmp_path / "child")
    torch.manual_seed(0)
    first = child.predict(contexts, prediction_length=3)
    torch.manual_seed(0)
    torch.testing.assert_close(flowrank.load(tmp_path / "child").predict(contexts, prediction_length=3), first)


def test_progress_bar_counts_the_series(pipeline, capsys):
    flowrank.compress(pipeline, JointHeads(Uniform(0.5)), progress=True, calibration_series=43, calibration_points=64)
    assert "43" in capsys.readouterr().out
