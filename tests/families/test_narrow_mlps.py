"""Feed-forward layers, residual blocks and the vocabulary at sizes of their own, against the dense model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from chronos import BaseChronosPipeline
from safetensors.torch import load_file, save_file

import flowrank
from flowrank import FlowrankError
from flowrank.families.chronos_bolt.pipeline import FlowrankBoltPipeline
from flowrank.families.chronos_t5.pipeline import FlowrankT5Pipeline
from flowrank.family import anatomy_of, layout_of, tensor_digest
from flowrank.nn.factored import FactoredEmbedding, FactoredLinear
from flowrank.nn.shapes import MlpShape
from tests.conftest import (
    BOLT_PATCHES,
    T5_TOKENS,
    make_t5,
    outputs,
    relative_gap,
    small_mlps,
    tiny_config,
    with_own_widths,
)
from tests.layers import mlp_layers


def pipeline_of(model):
    bolt = hasattr(model, "input_patch_embedding")
    return FlowrankBoltPipeline(model) if bolt else FlowrankT5Pipeline.around(model)


@pytest.fixture(params=["bolt", "t5", "t5 gated"])
def dense(request, bolt_folder, t5_folder, tmp_path):
    """A dense pipeline, with biases that are not zero."""
    if request.param == "t5 gated":
        pipeline = flowrank.load(make_t5(tmp_path / "gated", feed_forward_proj="gated-gelu"))
    else:
        pipeline = flowrank.load(bolt_folder if request.param == "bolt" else t5_folder)
    for name, parameter in pipeline.inner_model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data, std=0.5)
    return pipeline


def linears(model):
    """Every linear layer of every feed-forward layer and block: module's name, layer's name, layer."""
    for site in anatomy_of(model).mlps:
        for name, layer in site.linears.items():
            yield site.name, name, layer


def factored_twin(model, vocabulary):
    """The same model with every matrix of ours as two factors of full rank, one of them the identity."""
    shapes, state = {}, dict(model.state_dict())
    for name, linear, layer in linears(model):
        shape = shapes.setdefault(name, {"width": model.config.d_ff, "ranks": {}})
        shape["ranks"][linear] = layer.in_features
        state[f"{name}.{linear}.up.weight"] = state.pop(f"{name}.{linear}.weight")
        state[f"{name}.{linear}.down.weight"] = torch.eye(layer.in_features)
        if layer.bias is not None:
            state[f"{name}.{linear}.up.bias"] = state.pop(f"{name}.{linear}.bias")
    d = model.config.d_model
    if "head" in vocabulary:
        state["lm_head.up.weight"] = state.pop("lm_head.weight")
        state["lm_head.down.weight"] = torch.eye(d)
    if "embedding" in vocabulary:
        for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
            state[f"{name}.codes.weight"] = state.pop(f"{name}.weight")
            state[f"{name}.basis.weight"] = torch.eye(d)
    twin = with_own_widths(model, mlp=shapes, vocabulary=dict.fromkeys(vocabulary, d) or None)
    if not vocabulary and hasattr(twin, "lm_head"):
        twin.lm_head.weight = copy.deepcopy(twin.lm_head.weight)  # tied at construction, not in this checkpoint
    twin.config.scale_decoder_outputs = model.config.scale_decoder_outputs
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize("vocabulary", [(), ("head",), ("embedding",), ("head", "embedding")], ids=str)
def test_factors_of_full_rank_are_the_dense_model(dense, vocabulary, contexts):
    if vocabulary and not hasattr(dense, "tokenizer"):
        pytest.skip("Bolt has no vocabulary")
    twin = factored_twin(dense.inner_model, vocabulary)
    assert all(isinstance(layer, FactoredLinear) for _, _, layer in linears(twin))
    assert relative_gap(outputs(pipeline_of(twin), contexts), outputs(dense, contexts)) < 1e-5


def test_full_widths_are_the_dense_model_exactly(dense, contexts):
    model = dense.inner_model
    twin = with_own_widths(model, mlp=dict.fromkeys(mlp_layers(model), MlpShape.dense(32).to_dict()))
    if hasattr(twin, "lm_head"):
        twin.lm_head.weight = copy.deepcopy(twin.lm_head.weight)
    twin.config.scale_decoder_outputs = model.config.scale_decoder_outputs
    twin.load_state_dict(model.state_dict())
    assert torch.equal(outputs(pipeline_of(twin), contexts), outputs(dense, contexts))


@pytest.mark.parametrize("width", [11, 1, 0])
def test_narrow_layers_are_dense_ones_whose_other_neurons_say_nothing(dense, width, contexts):
    model = dense.inner_model
    kept = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:width]
    twin = with_own_widths(model, mlp={key: {"width": width} for key in mlp_layers(model)})
    if hasattr(twin, "lm_head"):
        twin.lm_head.weight = copy.deepcopy(twin.lm_head.weight)
    twin.config.scale_decoder_outputs = model.config.scale_decoder_outputs
    state = dict(model.state_dict())
    for name, linear, layer in linears(model):
        if linear in ("wo", "output_layer"):
            state[f"{name}.{linear}.weight"] = layer.weight.data[:, kept]
            gone = torch.ones(32, dtype=torch.bool)
            gone[kept] = False
            layer.weight.data[:, gone] = 0
        elif linear != "residual_layer":
            state[f"{name}.{linear}.weight"] = layer.weight.data[kept]
            if layer.bias is not None:
                state[f"{name}.{linear}.bias"] = layer.bias.data[kept]
    twin.load_state_dict(state)
    assert twin.num_parameters() < model.num_parameters()
    assert relative_gap(outputs(pipeline_of(twin), contexts), outputs(dense, contexts)) < 1e-5


def test_without_neurons_a_layer_adds_nothing_and_a_block_keeps_its_residual_path(bolt_folder):
    model = flowrank.load(bolt_folder).inner_model
    twin = with_own_widths(model, mlp={key: {"width": 0} for key in mlp_layers(model)})
    layer, block = twin.encoder.block[1].layer[1], twin.input_patch_embedding
    x = torch.randn(2, 3, 24)
    assert torch.equal(layer(x), x)
    patches = torch.randn(2, 3, 16)
    expected = patches @ block.residual_layer.weight.T + block.residual_layer.bias + block.output_layer.bias
    torch.testing.assert_close(block(patches), expected)


def test_layers_are_listed_in_order_and_their_parameters_counted(dense):
    model = dense.inner_model
    names = list(mlp_layers(model))
    stacks = [f"encoder.block.{i}.layer.1.DenseReluDense" for i in range(2)]
    stacks += [f"decoder.block.{i}.layer.2.DenseReluDense" for i in range(2)]
    bolt = hasattr(model, "input_patch_embedding")
    assert names == (["input_patch_embedding", *stacks, "output_patch_embedding"] if bolt else stacks)
    small = with_own_widths(model, mlp=small_mlps(model))
    ends = {"input_patch_embedding": (16, 24), "output_patch_embedding": (24, 9 * 16)}
    shapes = layout_of(small.config).shapes.mlp
    for site in anatomy_of(small).mlps:
        (inputs, outputs), width = ends.get(site.name, (24, 24)), shapes[site.name].width
        sizes = dict.fromkeys(site.reads, (inputs, width)) | {site.writes: (width, outputs)}
        if site.residual:
            sizes[site.residual] = (inputs, outputs)
        counted = shapes[site.name].parameters(sizes)
        assert set(counted) == set(site.linears)
        for layer, count in counted.items():
            matrices = [one for key, one in site.linears[layer].named_parameters() if key.endswith("weight")]
            assert count == sum(one.numel() for one in matrices), (site.name, layer)


VARIANTS = {
    "bolt": None,
    "t5 mlps": None,
    "t5 head": {"head": 3},
    "t5 embedding": {"embedding": 5},
    "t5 both": {"head": 3, "embedding": 5},
}


@pytest.fixture(params=VARIANTS)
def small(request, bolt_folder, t5_folder):
    """A pipeline with small feed-forward layers, blocks and vocabularies of all kinds."""
    model = flowrank.load(bolt_folder if request.param == "bolt" else t5_folder).inner_model
    return pipeline_of(with_own_widths(model, mlp=small_mlps(model), vocabulary=VARIANTS[request.param]))


def test_what_was_saved_is_what_is_opened(small, contexts, tmp_path):
    small.save_pretrained(tmp_path / "small")
    stored = load_file(tmp_path / "small/model.safetensors")
    assert not [name for name in stored if "embed_tokens" in name]
    opened = flowrank.load(tmp_path / "small")
    assert tensor_digest(opened.inner_model) == tensor_digest(small.inner_model)
    assert sum(one.numel() for one in stored.values()) == small.inner_model.num_parameters()
    assert opened.inner_model.num_parameters() == small.inner_model.num_parameters()
    for pipeline in (opened, BaseChronosPipeline.from_pretrained(tmp_path / "small")):
        assert torch.equal(outputs(pipeline, contexts), outputs(small, contexts))


def test_half_size_files_hold_small_models_too(small, tmp_path):
    small.save_pretrained(tmp_path / "half", file_dtype=torch.bfloat16)
    opened = flowrank.load(tmp_path / "half").inner_model.state_dict()
    for name, weights in small.inner_model.state_dict().items():
        torch.testing.assert_close(opened[name], weights.bfloat16().float(), rtol=0, atol=0)


def test_a_model_made_on_no_device_takes_the_tensors_of_another(small, contexts):
    with torch.device("meta"):
        made = type(small.inner_model)(small.inner_model.config)
    made.load_state_dict(small.inner_model.state_dict(), assign=True)
    for name, buffer in small.inner_model.named_buffers():
        module, _, attribute = name.rpartition(".")
        made.get_submodule(module).register_buffer(attribute, buffer, persistent=False)
    assert torch.equal(outputs(pipeline_of(made.eval()), contexts), outputs(small, contexts))


def test_every_parameter_learns(small, contexts):
    model = small.inner_model.train()
    if hasattr(small, "tokenizer"):
        tokens = torch.randint(2, 60, (2, 9), generator=torch.Generator().manual_seed(0))
        loss = model(input_ids=tokens, labels=tokens[:, :5].contiguous()).loss
    else:
        loss = model(torch.stack([contexts[0], contexts[0].flip(0)]), target=torch.randn(2, 16)).loss
    loss.backward()
    unused = ("layer_norm", "SelfAttention.q", "SelfAttention.k", "relative_attention_bias")
    for name, parameter in model.named_parameters():
        if parameter.numel() and not any(part in name for part in unused):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_stock_code_generates(small, contexts):
    small.engine = "stock"
    assert small.predict(contexts, prediction_length=4).isfinite().all()


@pytest.mark.parametrize("ranks", [{"head": 3}, {"embedding": 3}, {"head": 3, "embedding": 3}, None], ids=str)
def test_head_and_embedding_share_nothing_once_one_is_two_factors(t5_folder, ranks):
    model = with_own_widths(flowrank.load(t5_folder).inner_model, vocabulary=ranks)
    ours = {one.data_ptr() for one in model.lm_head.parameters()}
    assert ours.isdisjoint(one.data_ptr() for one in model.shared.parameters()) == (ranks is not None)
    model.tie_weights()
    assert ours == {one.data_ptr() for one in model.lm_head.parameters()}
    assert isinstance(model.shared, FactoredEmbedding) == bool(ranks and "embedding" in ranks)
    tokens = torch.tensor([[3, 5]])
    for stack in (model.encoder, model.decoder):
        assert torch.equal(stack.embed_tokens(tokens), model.shared(tokens))


def test_initial_spread_follows_the_own_width():
    config = tiny_config(T5_TOKENS, "ChronosPipeline", d_model=256, d_ff=512, num_layers=1, vocab_size=512)
    model = type("", (), {"config": config})
    shapes = {
        "encoder.block.0.layer.1.DenseReluDense": {"width": 64},
        "decoder.block.0.layer.2.DenseReluDense": {"width": 128, "ranks": {"wo": 16}},
    }
    made = with_own_widths(model, mlp=shapes, vocabulary={"embedding": 32, "head": 8})
    layer, factored = mlp_layers(made).values()

    def spread(matrix):
        return float(matrix.detach().std())

    assert spread(layer.wi.weight) == pytest.approx(256**-0.5, rel=0.05)
    assert spread(layer.wo.weight) == pytest.approx(64**-0.5, rel=0.05)
    assert spread(factored.wo.up.weight @ factored.wo.down.weight) == pytest.approx(128**-0.5, rel=0.1)
    assert spread(made.lm_head.up.weight @ made.lm_head.down.weight) == pytest.approx(1.0, rel=0.1)
    assert spread(made.shared(torch.arange(512))) == pytest.approx(1.0, rel=0.1)


def test_a_block_is_drawn_at_its_own_width():
    config = tiny_config({**BOLT_PATCHES, "input_patch_size": 64}, "ChronosBoltPipeline", d_model=128, d_ff=512)
    model = type("", (), {"config": config, "input_patch_embedding": None})
    made = with_own_widths(model, mlp={"input_patch_embedding": {"width": 64, "ranks": {"residual_layer": 16}}})
    block = made.input_patch_embedding
    assert float(block.output_layer.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(block.hidden_layer.weight.detach().std()) == pytest.approx(128**-0.5, rel=0.05)
    product = (block.residual_layer.up.weight @ block.residual_layer.down.weight).detach()
    assert float(product.std()) == pytest.approx(128**-0.5, rel=0.1)


@pytest.mark.parametrize("small", ["bolt", "t5 both"], indirect=True)
@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("mlp", 7),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": 7}),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": {"ranks": {}}}),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": {"width": -1}}),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": {"width": 2.5}}),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": {"width": 3, "ranks": {"wi_0": 2}}}),
        ("mlp", {"encoder.block.0.layer.1.DenseReluDense": {"width": 3, "ranks": {"wi": "2"}}}),
        ("mlp", {"encoder.block.9.layer.1.DenseReluDense": {"width": 3}}),
        ("vocabulary", [1]),
        ("vocabulary", {"head": 0}),
        ("vocabulary", {"tail": 2}),
        ("vocabulary", {"embedding": None}),
    ],
    ids=str,
)
def test_bad_values_are_refused(small, key, bad, tmp_path):
    small.save_pretrained(tmp_path / "small")
    path = tmp_path / "small/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "flowrank": {**config["flowrank"], key: bad}}))
    with pytest.raises(FlowrankError, match=rf"config\.json flowrank\.{key}"):
        flowrank.load(tmp_path / "small")


def test_a_vocabulary_is_refused_where_there_is_none(bolt_folder):
    with pytest.raises(FlowrankError, match="vocabulary"):
        with_own_widths(flowrank.load(bolt_folder).inner_model, vocabulary={"head": 3})


@pytest.mark.parametrize(
    ("ranks", "name"), [({"embedding": 5}, "lm_head.weight"), ({"head": 3}, "shared.weight")], ids=str
)
def test_what_is_no_longer_shared_must_be_there(t5_folder, ranks, name, tmp_path):
    model = with_own_widths(flowrank.load(t5_folder).inner_model, vocabulary=ranks)
    pipeline_of(model).save_pretrained(tmp_path / "small")
    tensors = load_file(tmp_path / "small/model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "small/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlowrankError, match=f"{name}.*no such tensor"):
        flowrank.load(tmp_path / "small")


def test_a_layer_named_without_a_shape_is_dense(bolt_folder):
    made = with_own_widths(flowrank.load(bolt_folder).inner_model, mlp={"input_patch_embedding": None})
    assert made.input_patch_embedding.hidden_layer.out_features == 32


def test_sizes_that_contradict_the_tensors_are_refused(small, tmp_path):
    small.save_pretrained(tmp_path / "small")
    path = tmp_path / "small/config.json"
    raw = json.loads(path.read_text())
    name = next(iter(raw["flowrank"]["mlp"]))
    raw["flowrank"]["mlp"][name]["width"] += 1
    path.write_text(json.dumps(raw))
    with pytest.raises(FlowrankError, match="of shape"):
        flowrank.load(tmp_path / "small")
