from __future__ import annotations

import copy

import pytest
import torch

import flowrank
from flowrank.families._t5_stack.attention import NarrowT5Attention
from flowrank.nn.factored import FactoredLinear
from flowrank.nn.heads import HeadLayout
from flowrank.nn.shapes import AttentionShape
from tests.conftest import T5_TOKENS, outputs, relative_gap, tiny_config
from tests.layers import attention_layers, narrow_model


def uneven_child(parent, widths=((2, 0, 5), (4, 3, 0)), layers=None):
    """A compressed copy whose heads have all kinds of widths, in all layers or in these, with random weights."""
    shape = AttentionShape(*widths, ranks={"o": 2}).to_dict()
    torch.manual_seed(1)
    return narrow_model(parent, attention=dict.fromkeys(layers or attention_layers(parent), shape)).eval()


def test_dense_shapes_reproduce_the_stock_model_exactly(t5_folder, contexts):
    pipeline = flowrank.load(t5_folder)
    layers = attention_layers(pipeline.inner_model)
    twin = narrow_model(pipeline.inner_model, attention=dict.fromkeys(layers, AttentionShape.dense(3, 6).to_dict()))
    twin.eval()
    assert all(isinstance(layer, NarrowT5Attention) for layer in attention_layers(twin).values())
    twin.lm_head.weight = copy.deepcopy(twin.lm_head.weight)  # tied at construction, not in this checkpoint
    twin.load_state_dict(pipeline.inner_model.state_dict())
    expected = outputs(pipeline, contexts)
    pipeline.model.model = pipeline.inner_model = twin
    assert torch.equal(outputs(pipeline, contexts), expected)


@pytest.mark.parametrize("number", range(4))
def test_one_layer_of_dense_shape_among_stock_ones_changes_nothing(t5_folder, number):
    """Layers of both kinds hand the position bias on to each other, with or without the mask in it."""
    stock = flowrank.load(t5_folder).inner_model
    name = [layer for layer in attention_layers(stock) if layer.endswith(".SelfAttention")][number]
    twin = narrow_model(stock, attention={name: AttentionShape.dense(3, 6).to_dict()}).eval()
    assert [isinstance(layer, NarrowT5Attention) for layer in attention_layers(twin).values()].count(True) == 1
    twin.lm_head.weight = copy.deepcopy(twin.lm_head.weight)
    twin.load_state_dict(stock.state_dict())
    tokens, mask, decoder = torch.randint(2, 60, (2, 12)), torch.ones(2, 12), torch.randint(2, 60, (2, 5))
    mask[0, :7] = 0
    batch = {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": decoder}
    with torch.no_grad():
        assert relative_gap(twin(**batch).logits, stock(**batch).logits) < 1e-6


def test_uneven_heads_equal_an_explicit_loop_over_heads(t5_folder):
    """The oracle computes each head by itself from the weights, with no padding anywhere."""
    layer = uneven_child(flowrank.load(t5_folder).inner_model).encoder.block[0].layer[0].SelfAttention
    x = torch.randn(2, 9, 24)
    got = layer(x)[0]
    bias = layer.compute_bias(9, 9)
    q, k, v = (x @ p.weight.T for p in (layer.q, layer.k, layer.v))
    heads, at_qk, at_vo = [], 0, 0
    for head, (d_qk, d_vo) in enumerate(zip((2, 0), (4, 3), strict=True)):
        scores = q[..., at_qk : at_qk + d_qk] @ k[..., at_qk : at_qk + d_qk].transpose(1, 2) + bias[:, head]
        heads.append(scores.softmax(-1) @ v[..., at_vo : at_vo + d_vo])
        at_qk, at_vo = at_qk + d_qk, at_vo + d_vo
    expected = torch.cat(heads, -1) @ (layer.o.up.weight @ layer.o.down.weight).T
    assert at_qk == layer.q.weight.shape[0]  # the third head is dead, and so are its queries
    assert torch.allclose(got, expected, atol=1e-5)


def test_cached_decoding_equals_teacher_forcing_and_the_cache_holds_no_padding(t5_folder):
    child = uneven_child(flowrank.load(t5_folder).inner_model)
    tokens = torch.randint(2, 60, (2, 12))
    decoder = torch.randint(2, 60, (2, 5))
    mask = torch.ones(2, 12)
    mask[0, :7] = 0
    with torch.no_grad():
        whole = child(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder, use_cache=False).logits
        step = child(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder[:, :1], use_cache=True)
        parts, past, encoded = [step.logits], step.past_key_values, (step.encoder_last_hidden_state,)
        for i in range(1, 5):
            step = child(
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=decoder[:, i : i + 1],
                past_key_values=past,
                use_cache=True,
            )
            parts.append(step.logits)
    assert relative_gap(torch.cat(parts, 1), whole) < 1e-5
    layer = child.decoder.block[1].layer[1].EncDecAttention
    cached = past.cross_attention_cache.layers[1]
    assert cached.keys.numel() == 2 * 12 * layer.key_value_widths()[0] == 2 * 12 * 2
    assert cached.values.numel() == 2 * 12 * layer.key_value_widths()[1] == 2 * 12 * 7


@pytest.mark.parametrize(
    "widths",
    [
        ((2, 0, 5), (4, 3, 0)),
        ((0, 0, 0), (2, 2, 2)),
        ((1, 2, 3), (3, 3, 3)),
        ((3, 3, 3), (1, 0, 2)),
        ((3, 3, 3), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("layers", [None, ["decoder.block.0.layer.0.SelfAttention"]])
@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_generation_with_a_cache_gives_the_logits_of_one_without(t5_folder, widths, layers, implementation):
    """Keys and values may have heads of even widths, uneven ones, of width 0, or none: each by itself.

    The first layer's cache also tells transformers how many tokens it has seen.
    """
    child = uneven_child(flowrank.load(t5_folder).inner_model, widths=widths, layers=layers)
    tokens, mask = torch.randint(2, 60, (2, 12)), torch.ones(2, 12)
    mask[0, :7] = 0
    settings = {
        **{"input_ids": tokens, "attention_mask": mask, "min_new_tokens": 6, "max_new_tokens": 6},
        **{"do_sample": False, "output_logits": True, "return_dict_in_generate": True},
    }
    expected = torch.stack(child.generate(**settings, use_cache=False).logits)
    got = child.generate(**settings, cache_implementation=implementation, disable_compile=True)
    assert len(got.logits) == 6
    assert relative_gap(torch.stack(got.logits), expected) < 1e-5


def test_a_layer_without_heads_adds_nothing(t5_folder):
    child = uneven_child(flowrank.load(t5_folder).inner_model, widths=((3, 3, 3), (0, 0, 0)))
    layer = child.encoder.block[0].layer[0].SelfAttention
    x = torch.randn(1, 4, 24)
    output, bias = layer(x)[:2]
    assert not output.any()
    assert bias.shape == (1, 3, 4, 4)  # later layers still need the bias of all heads


def test_eager_and_sdpa_agree(t5_folder):
    child = uneven_child(flowrank.load(t5_folder).inner_model)
    tokens, mask = torch.randint(2, 60, (2, 12)), torch.ones(2, 12)
    mask[0, :5] = 0
    arguments = {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": tokens[:, :4]}
    with torch.no_grad():
        sdpa = child(**arguments).logits
        child.set_attn_implementation("eager")
        assert relative_gap(child(**arguments).logits, sdpa) < 1e-5


@pytest.mark.parametrize("widths", [(3, 3), (0, 0), (1, 4, 0, 2)])
def test_layout_round_trip(widths):
    layout = HeadLayout(widths)
    features = torch.randn(2, 5, layout.total)
    assert torch.equal(layout.join(layout.split(features).transpose(1, 2)), features)
    for by_head in (False, True):
        stored = layout.stored(features, by_head=by_head)
        assert torch.equal(layout.restored(stored, by_head=by_head), layout.split(features))


def test_initial_spread_follows_each_layers_own_width():
    config = tiny_config(T5_TOKENS, "ChronosPipeline", d_model=256, d_kv=64, num_heads=2, num_layers=1)
    narrow = AttentionShape((4, 4), (16, 16), {"v": 8}).to_dict()
    torch.manual_seed(0)
    model = narrow_model(config, attention={"encoder.block.0.layer.0.SelfAttention": narrow})
    layer = model.encoder.block[0].layer[0].SelfAttention
    assert float(layer.q.weight.std().detach()) == pytest.approx((256 * 4) ** -0.5, rel=0.1)
    assert float(layer.o.weight.std().detach()) == pytest.approx(32**-0.5, rel=0.1)
    assert isinstance(layer.v, FactoredLinear)
    assert float((layer.v.up.weight @ layer.v.down.weight).std().detach()) == pytest.approx(256**-0.5, rel=0.15)
