"""Recipes small enough to train in a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowrank.pretraining import Recipe

TINY = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 2,
    "context_length": 64,
    "prediction_length": 16,
    "input_patch_size": 8,
    "n_tokens": 64,
    "lengths": (32, 64),
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "save_steps": 3,
    "log_steps": 1,
    "eval_steps": 3,
    "eval_series": 8,
    "precision": "float32",
}


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        return Recipe(**{**TINY, **changes})

    return make
