"""Attention computed so that its weights can be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def explicit_attention(model: Any, *, gradients: bool = False) -> Iterator[None]:
    """Within the block a model of transformers computes its attention weights, in eval mode; its weights are frozen."""
    attention, training = model.config._attn_implementation, model.training
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False).eval()
    model.set_attn_implementation("eager")
    try:
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
