"""Any transformer: the stream, heads and attention against what transformers itself hands out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

import flowrank
from flowrank import FlowrankError
from flowrank.family import anatomy_of

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}


def bert(kind=BertModel, config=BertConfig):
    return kind(config(vocab_size=50, **SIZES, initializer_range=0.4))


def gpt2():
    return GPT2Model(GPT2Config(vocab_size=50, n_embd=24, n_layer=3, n_head=3, initializer_range=0.4))


def vit():
    return ViTModel(ViTConfig(image_size=16, patch_size=4, num_channels=1, **SIZES, initializer_range=0.4))


def t5():
    return T5Model(T5Config(vocab_size=50, d_model=24, d_kv=8, d_ff=40, num_layers=3, num_heads=3))


MODELS = {"bert": bert, "roberta": lambda: bert(RobertaModel, RobertaConfig), "gpt2": gpt2, "vit": vit, "t5": t5}


@pytest.fixture(params=sorted(MODELS))
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def batches(model, count: int = 2):
    """Padded token batches, or images; a decoder gets tokens of its own."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        if isinstance(model, ViTModel):
            yield {"pixel_values": torch.randn(4, 1, 16, 16, generator=generator)}
            continue
        batch = {"input_ids": torch.randint(3, 50, (4, 9), generator=generator)}
        batch["attention_mask"] = torch.ones(4, 9, dtype=torch.long)
        batch["attention_mask"][1, 5:] = 0
        if isinstance(model, T5Model):
            batch["decoder_input_ids"] = torch.randint(3, 50, (4, 6), generator=generator)
            batch["decoder_attention_mask"] = torch.ones(4, 6, dtype=torch.long)
            batch["decoder_attention_mask"][2, 4:] = 0
        yield batch


def outputs(model, batch):
    """What transformers says: hidden states and attention weights of every stack, and each stack's mask."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True, output_attentions=True)
    mask = batch.get("attention_mask")
    if isinstance(model, T5Model):
        return {
            "encoder": (found.encoder_hidden_states, found.encoder_attentions, mask),
            "decoder": (found.decoder_hidden_states, found.decoder_attentions, batch["decoder_attention_mask"]),
        }
    stack = "decoder" if isinstance(model, GPT2Model) else "encoder"
    return {stack: (found.hidden_states, found.attentions, mask)}


def spectrum(rows: list[np.ndarray]) -> np.ndarray:
    sigma = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    return sigma / sigma[0]


def visible(states: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    return (states.flatten(0, 1) if mask is None else states[mask.bool()]).double().numpy()


def sigma_of(profile, **where) -> np.ndarray:
    frame = profile.spectra
    for name, value in {"head": -1, **where}.items():
        frame = frame[frame[name] == value]
    return frame.sort_values("j")["sigma"].to_numpy()


def test_the_stream_is_what_transformers_calls_hidden_states(model):
    profile = flowrank.analyze(model, batches=batches(model), epsilons=(0.1, 1e-4))
    seen = [outputs(model, batch) for batch in batches(model)]
    for stack in seen[0]:
        states = [[visible(one, mask) for one in hidden] for hidden, _, mask in (batch[stack] for batch in seen)]
        layers = len(states[0]) - 1
        expected = spectrum([batch[0] for batch in states])
        found = sigma_of(profile, stack=stack, quantity="embedding")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        for layer in range(layers - 1):  # the last hidden state has been through a final norm
            expected = spectrum([batch[layer + 1] for batch in states])
            found = sigma_of(profile, stack=stack, quantity="residual", layer=layer)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_attention_matrices_are_those_of_transformers(model):
    profile = flowrank.analyze(model, batches=batches(model))
    seen = [outputs(model, batch) for batch in batches(model)]
    for stack in seen[0]:
        for layer in range(3):
            for head in range(3):
                curves = []
                for batch in seen:
                    _, attentions, mask = batch[stack]
                    for row, weights in enumerate(attentions[layer]):
                        keep = slice(None) if mask is None else mask[row].bool()
                        sigma = torch.linalg.svdvals(weights[head][keep][:, keep].double()).numpy()
                        curves.append(np.pad(sigma / sigma[0], (0, len(weights[head]) - len(sigma))))
                found = sigma_of(profile, stack=stack, kind="self", layer=layer, quantity="attention", head=head)
                np.testing.assert_allclose(found, np.mean(curves, axis=0), rtol=1e-3, atol=1e-5)


def test_queries_keys_and_values_follow_from_the_input_of_their_layer(model):
    """Against the projections' own outputs, heads apart."""
    block = anatomy_of(model).blocks[1]
    attention = block.sublayers[0].attention
    seen = {"queries": [], "keys": [], "values": []}

    def keep(name, projection, width):
        def hook(_module, _inputs, output):
            seen[name].append(output.chunk(projection.parts, -1)[projection.part].unflatten(-1, (3, width)))

        return projection.module.register_forward_hook(hook)

    handles = [
        keep("queries", attention.query, attention.query_widths[0]),
        keep("keys", attention.key, attention.query_widths[0]),
        keep("values", attention.value, attention.value_widths[0]),
    ]
    masks = [outputs(model, batch)[block.stack][2] for batch in batches(model)]
    for handle in handles:
        handle.remove()
    profile = flowrank.analyze(model, batches=batches(model), epsilons=(0.01, 1e-5))
    for quantity, features in seen.items():
        assert len(features) == 2
        for head in (-1, 0, 2):
            chosen = [f.flatten(2) if head < 0 else f[:, :, head] for f in features]
            expected = spectrum([visible(f, mask) for f, mask in zip(chosen, masks, strict=True)])
            found = sigma_of(profile, stack=block.stack, kind="self", layer=1, quantity=quantity, head=head)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_updates_and_streams_add_up_in_the_table_of_the_flow(model):
    """A sublayer starts where the last one ended, and every change is the difference of two ranks."""
    profile = flowrank.analyze(model, batches=batches(model))
    for measure in ("rank", "effective_rank"):
        table = profile.flow(0.1, measure)
        assert len(table) == sum(len(block.sublayers) for block in anatomy_of(model).blocks)
        for _, part in table.groupby("stack"):
            assert (part["before"].to_numpy()[1:] == part["after"].to_numpy()[:-1]).all()
        np.testing.assert_allclose(table["total"], table["after"] - table["before"])
        assert table.loc[table["kind"] == "mlp", "mixing"].isna().all()
        assert table["update"].notna().all()


def test_the_model_is_left_as_it_was(model):
    model.train()
    before = model.config._attn_implementation
    flowrank.analyze(model, batches=batches(model, 1))
    assert model.training
    assert model.config._attn_implementation == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_theorem_4_holds_in_every_layer_without_biases():
    for seed in range(5):
        torch.manual_seed(seed)
        profile = flowrank.analyze(t5(), batches=batches(t5()), epsilons=(1e-6,))
        assert set(zip(profile.bounds["stack"], profile.bounds["kind"], strict=True)) == {
            ("encoder", "self"),
            ("decoder", "self"),
            ("decoder", "cross"),
        }
        assert (profile.bounds["sigma"] <= profile.bounds["bound"] * (1 + 1e-6) + 1e-6).all()
        first = profile.bounds.groupby(["stack", "kind", "layer"]).first()
        assert (first["sigma"] == 1).all()
    assert flowrank.analyze(bert(), batches=batches(bert())).bounds.empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": None}, "batches: expected dicts of keyword arguments"),
        ({"batches": []}, "batches: expected at least one batch"),
        ({"batches": [torch.zeros(1)]}, "batches: expected dicts of keyword arguments.*Tensor"),
    ],
)
def test_bad_batches_are_refused(change, message):
    with pytest.raises(FlowrankError, match=message):
        flowrank.analyze(gpt2(), **change)


def test_other_models_are_refused(bolt_folder):
    from transformers import ResNetConfig, ResNetModel

    with pytest.raises(FlowrankError, match=r"model: expected .* bert, gpt2, vit, found ResNetModel"):
        flowrank.analyze(ResNetModel(ResNetConfig(depths=[1], hidden_sizes=[8], embedding_size=8)), batches=[{}])
    with pytest.raises(FlowrankError, match="batches: expected None"):
        flowrank.analyze(flowrank.load(bolt_folder), batches=[{}])
