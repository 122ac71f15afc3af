"""Muon for the matrices of the blocks and AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flowrank.errors import FlowrankError
from flowrank.pretraining.recipe import Recipe


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers of torch that are stepped, saved and scheduled as one.

    Parameters
    ----------
    matrices, others
        Parameters of `torch.optim.Muon` (two axes each) and of `torch.optim.AdamW`.
    muon_lr, lr, weight_decay
        Rates of the two, and the decay of both.

    Raises
    ------
    FlowrankError
        If this torch has no Muon.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[nn.Parameter],
        *,
        muon_lr: float,
        lr: float,
        weight_decay: float,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise FlowrankError(
                "optim",
                expected="torch ≥ 2.9 for Muon",
                found=f"torch {torch.__version__}",
                todo="pass optim='adamw' or install a newer torch",
            )
        muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        # Rates are set on our groups and read by theirs: they must be the same objects.
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        muon.state = adamw.state = self.state
        self._parts = (muon, adamw)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with both."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        muon, adamw = self._parts
        muon.param_groups, adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        muon.state = adamw.state = self.state


def block_matrices(model: nn.Module) -> list[str]:
    """Names of the trainable matrices inside encoder and decoder blocks, relative position biases left out.

    Examples
    --------
    >>> from flowrank import load
    >>> block_matrices(load().inner_model)[:2]
    ['encoder.block.0.layer.0.SelfAttention.q.weight', 'encoder.block.0.layer.0.SelfAttention.k.weight']
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim == 2
        and parameter.numel() > 0
        and ".block." in name
        and "relative_attention_bias" not in name
    ]


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe asks for, over the trainable parameters of a model."""
    named = {name: one for name, one in model.named_parameters() if one.requires_grad and one.numel() > 0}
    if recipe.optim == "adamw":
        return torch.optim.AdamW(named.values(), lr=recipe.adamw_learning_rate, weight_decay=recipe.weight_decay)
    matrices = block_matrices(model)
    return MuonWithAdamW(
        [named[name] for name in matrices],
        [one for name, one in named.items() if name not in set(matrices)],
        muon_lr=recipe.muon_learning_rate,
        lr=recipe.adamw_learning_rate,
        weight_decay=recipe.weight_decay,
    )
