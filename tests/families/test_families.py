from __future__ import annotations

import json

import pytest
import torch

import flowrank
from flowrank import FlowrankError
from flowrank.family import family_of, pad_left


def test_sites_and_their_depth_follow_the_papers_count(t5_folder, bolt_folder):
    for folder in (t5_folder, bolt_folder):
        sites = family_of(flowrank.load(folder)).sites
        assert [(s.stack, s.kind, s.layer, s.depth) for s in sites] == [
            ("encoder", "self", 0, 0),
            ("encoder", "self", 1, 1),
            ("decoder", "self", 0, 0),
            ("decoder", "cross", 0, 2),
            ("decoder", "self", 1, 1),
            ("decoder", "cross", 1, 3),
        ]
        assert sum(s.dense_parameters for s in sites) == 6 * 4 * 24 * 18


def test_only_bolts_decoder_sees_a_single_key(t5_folder, bolt_folder):
    assert not any(site.single_key for site in family_of(flowrank.load(t5_folder)).sites)
    bolt = family_of(flowrank.load(bolt_folder)).sites
    assert [site.single_key for site in bolt] == [False, False, True, False, True, False]
    assert (bolt[2].heads, bolt[2].d_vo) == (1, 18)


def test_context_tokens_are_what_the_model_sees(pipeline):
    family = family_of(pipeline)
    seen = []
    hook = family.model.encoder.block[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    for points in (5, 40, 64, 100):
        pipeline.embed(torch.randn(points).cumsum(0))
        assert seen[-1] == family.context_tokens(points)
    hook.remove()


def test_a_causal_chronos_is_refused(t5_folder, tmp_path):
    config = json.loads((t5_folder / "config.json").read_text())
    config["chronos_config"]["model_type"] = "causal"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FlowrankError, match="model_type 't5'"):
        flowrank.load(tmp_path)


def test_padding_is_nan_on_the_left():
    batch = pad_left([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], torch.device("cpu"))
    assert torch.equal(batch.isnan(), torch.tensor([[False, False], [True, False]]))


def test_probe_of_t5_has_the_fisher_information_as_its_second_moment(t5_folder, contexts):
    """E[g gᵀ] at the logits must be diag(p) − p pᵀ, token by token."""
    family = family_of(flowrank.load(t5_folder))
    seen = {}

    def keep(_module, _inputs, logits):
        seen["logits"] = logits.detach()
        logits.register_hook(lambda gradient: seen.__setitem__("gradient", gradient))

    generator = torch.Generator().manual_seed(0)
    hook = family.model.lm_head.register_forward_hook(keep)
    total, draws = 0.0, 400
    with family.instrumented(gradients=True):
        for _ in range(draws):
            family.probe(contexts[:1], generator).backward()
            gradient = seen["gradient"][0].double()
            total = total + gradient[:, :, None] * gradient[:, None, :] * len(gradient)  # undo 1 / horizon
    hook.remove()
    p = seen["logits"][0].double().softmax(-1)
    fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert float((total / draws - fisher).abs().max()) < 0.08
    assert float((total / draws - fisher).mean().abs()) < 1e-6


def test_gradients_reach_activations_and_no_weight(pipeline, contexts):
    family = family_of(pipeline)
    with family.instrumented(gradients=True):
        family.probe(contexts, torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is None for parameter in family.model.parameters())
