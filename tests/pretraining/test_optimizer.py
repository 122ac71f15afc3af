"""Muon and AdamW of torch in one: the same steps as by each alone, whenever saved and loaded."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Block

from flowrank.errors import FlowrankError
from flowrank.pretraining import Widths
from flowrank.pretraining.architecture import build, trainable
from flowrank.pretraining.optimizer import MuonWithAdamW, block_matrices, optimizer_for

RATES = {"muon_lr": 0.02, "lr": 0.003, "weight_decay": 0.1}


def parameters() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices of several shapes, and others; always the same ones."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=generator))

    return [new(6, 4), new(3, 8)], [new(5), new(7, 2), new(1)]


def step(optimizers: list, parts: list[list[nn.Parameter]], number: int) -> None:
    """One step with gradients that depend on the number of the step and on the parameters."""
    for place, parameter in enumerate(one for part in parts for one in part):
        generator = torch.Generator().manual_seed(100 * number + place)
        parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.1 * parameter.detach()
    for optimizer in optimizers:
        optimizer.step()


def assert_same(one: list[list[nn.Parameter]], other: list[list[nn.Parameter]]) -> None:
    for mine, theirs in zip([p for part in one for p in part], [p for part in other for p in part], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("falling", [False, True], ids=["steady", "falling"])
def test_same_steps_as_muon_and_adamw_alone(falling):
    together, apart = parameters(), parameters()
    joint = [MuonWithAdamW(*together, **RATES)]
    muon = torch.optim.Muon(apart[0], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    separate = [muon, torch.optim.AdamW(apart[1], lr=0.003, weight_decay=0.1)]
    start = [part.detach().clone() for part in together[0] + together[1]]
    schedulers = [LambdaLR(one, lambda number: 0.5**number if falling else 1.0) for one in (*joint, *separate)]
    for number in range(3):
        step(joint, together, number)
        step(separate, apart, number)
        for scheduler in schedulers:
            scheduler.step()
    assert_same(together, apart)
    assert not any(torch.equal(was, now) for was, now in zip(start, together[0] + together[1], strict=True))


def test_gradients_are_cleared():
    parts = parameters()
    optimizer = MuonWithAdamW(*parts, **RATES)
    step([optimizer], parts, 0)
    optimizer.zero_grad()
    assert all(one.grad is None for part in parts for one in part)


def test_closure_is_evaluated():
    parts = parameters()
    optimizer = MuonWithAdamW(*parts, **RATES)
    step([optimizer], parts, 0)
    assert optimizer.step(lambda: 7.0) == 7.0


def test_saved_and_loaded_goes_on_as_if_nothing_had_happened():
    whole, cut = parameters(), parameters()
    first = MuonWithAdamW(*whole, **RATES)
    for number in range(2):
        step([first], whole, number)
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "parts": [[p.detach() for p in part] for part in whole]}, file)
    for number in range(2, 5):
        first.param_groups[0]["lr"] = 0.01 / number  # what a scheduler does
        step([first], whole, number)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for mine, stored in zip(cut[0] + cut[1], saved["parts"][0] + saved["parts"][1], strict=True):
        mine.data.copy_(stored)
    second = MuonWithAdamW(*cut, muon_lr=9.0, lr=9.0, weight_decay=0.9)
    second.load_state_dict(saved["optimizer"])
    assert [group["lr"] for group in second.param_groups] == [0.02, 0.003]
    for number in range(2, 5):
        second.param_groups[0]["lr"] = 0.01 / number
        step([second], cut, number)
    assert_same(whole, cut)


def test_state_holds_both():
    parts = parameters()
    optimizer = MuonWithAdamW(*parts, **RATES)
    step([optimizer], parts, 0)
    state = optimizer.state_dict()["state"]
    assert [sorted(state[number]) for number in range(5)] == 2 * [["momentum_buffer"]] + 3 * [
        ["exp_avg", "exp_avg_sq", "step"]
    ]


def test_torch_without_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(FlowrankError, match="optim='adamw'"):
        MuonWithAdamW(*parameters(), **RATES)


def linear_weights_of_blocks(model: nn.Module) -> set[str]:
    """The oracle goes by the classes of modules, not by names."""
    return {
        f"{name}.{inner}.weight"
        for name, block in model.named_modules()
        if isinstance(block, T5Block)
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("family", ["bolt", "t5"])
@pytest.mark.parametrize("schedule", [None, Widths((2, 4, 4, 8))], ids=["dense", "widths"])
def test_block_matrices_are_the_linear_layers_of_the_blocks(recipe, family, schedule):
    model = build(recipe(family=family, schedule=schedule)).inner_model
    names = block_matrices(model)
    assert len(names) == len(set(names)) == 2 * 6 + 2 * 10  # encoder: q k v o wi wo; decoder: two attentions
    assert set(names) == linear_weights_of_blocks(model)


def test_frozen_matrices_are_left_out():
    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 8}
    model = T5ForConditionalGeneration(T5Config(**shape))
    model.encoder.block[0].requires_grad_(False)
    names = block_matrices(model)
    assert set(names) == {name for name in linear_weights_of_blocks(model) if not name.startswith("encoder.block.0.")}


@pytest.mark.parametrize("optim", ["muon", "adamw"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_trainable_parameter_has_one_optimiser(recipe, optim, frozen):
    made = recipe(
        family="t5",
        optim=optim,
        freeze_token_embedding=frozen,
        learning_rate=0.1,
        muon_learning_rate=0.2,
        weight_decay=0.3,
    )
    model = build(made).inner_model
    trainable(model, made)
    optimizer = optimizer_for(model, made)
    held = [id(one) for group in optimizer.param_groups for one in group["params"]]
    assert sorted(held) == sorted(id(one) for one in model.parameters() if one.requires_grad)
    assert (id(model.shared.weight) in held) is not frozen
    names = {id(weights): name for name, weights in model.named_parameters()}
    if optim == "adamw":
        assert type(optimizer) is torch.optim.AdamW
        assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.3)]
    else:
        assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.2, 0.3), (0.1, 0.3)]
        with_muon = {names[id(one)] for one in optimizer.param_groups[0]["params"]}
        assert with_muon == linear_weights_of_blocks(model)
