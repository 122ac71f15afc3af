"""Training configs of chronos-forecasting and of TSFM-Compression in terms of a recipe."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowrank.errors import FlowrankError
from flowrank.families.chronos_t5.training import FixedFields, settings_of
from flowrank.family import SIZES

MARKS = ("model_id", "base_tilde_d", "tokenizer_class")
"""A config with one of these keys is theirs: what it leaves out has their default, not ours."""

DEFAULTS: dict[str, Any] = {
    "family": "t5",
    "context_length": 512,
    "prediction_length": 64,
    "min_past": 64,
    "max_steps": 200_000,
    "save_steps": 50_000,
    "log_steps": 500,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 2,
    "optim": "adamw",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "model_id": "google/t5-efficient-tiny",
    "n_tokens": 4096,
    "max_missing_prop": 0.9,
}

NO_EFFECT = {
    "shuffle_buffer_length": "series are drawn in random order already",
    "tf32": "precision says how to compute",
    "output_dir": "the folder to write is named where training starts",
    "min_future": "a target has prediction_length values, or fewer where a series ends",
}
_FIXED = ("model_type", "tokenizer_class", "n_special_tokens", "pad_token_id", "eos_token_id")
_SAMPLING = ("num_samples", "temperature", "top_k", "top_p")
_OPTIMISERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"}
_BASE_TILDE_D, _BETA = 8, 0  # what TSFM-Compression takes where only the other one is given
_UNSAID = {"dropout_rate": 0.1, "initializer_factor": 0.05, "output_scale": 1.0}  # of their T5 models; no key says so


def translate(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give plain values by key of `Recipe`, and a note on every key that has no effect here, with the reason.

    Keys of a recipe go before what keys of theirs mean. Unknown keys stay: a recipe refuses them.

    Raises
    ------
    FlowrankError
        If a key of theirs asks for a model that flowrank cannot train.

    Examples
    --------
    >>> raw = {"model_id": "google/t5-efficient-mini", "random_init": True, "tie_embeddings": True, "tf32": True}
    >>> from flowrank.pretraining import Recipe
    >>> settings, notes = translate({**raw, "base_tilde_d": 3, "beta": 0.27}, Recipe(max_steps=1).to_dict())
    >>> settings["d_model"], settings["optim"], settings["schedule"]
    (384, 'adamw', {'name': 'FlowOfRanks', 'd0': 3, 'alpha': 0.27, 'rounding': 'power_of_two'})
    >>> notes[:1]
    ['tf32 has no effect: precision says how to compute']
    """
    theirs = any(raw.get(key) is not None for key in MARKS)
    given = {key: value for key, value in raw.items() if value is not None or key in ("max_steps", "minutes")}
    settings = {**DEFAULTS, **given} if theirs else given
    notes: list[str] = []
    _drop(settings, notes, defaults)
    _data(settings, notes, theirs, defaults)
    _optimisation(settings, theirs)
    _tokens(settings, notes)
    _weights(settings, notes, theirs)
    _ranks(settings)
    return settings, notes


def _drop(settings: dict[str, Any], notes: list[str], defaults: Mapping[str, Any]) -> None:
    """Take out what has no effect, and what is as they say in every model here."""
    fixed = settings_of(FixedFields(tuple(defaults.items())))
    for key, reason in NO_EFFECT.items():
        if settings.pop(key, None) is not None:
            notes.append(f"{key} has no effect: {reason}")
    for key in _SAMPLING:
        if settings.pop(key, fixed[key]) != fixed[key]:
            notes.append(f"{key} has no effect: the model's own value is {fixed[key]}; choose another to forecast")
    for key in _FIXED:
        found = settings.pop(key, fixed[key])
        if found != fixed[key]:
            raise FlowrankError(key, expected=repr(fixed[key]), found=repr(found))
    if settings.get("tie_embeddings", True) is not True:
        raise FlowrankError(
            "tie_embeddings",
            expected="true: the output matrix of a model trained here is that of the embedding",
            found=repr(settings["tie_embeddings"]),
        )


def _data(settings: dict[str, Any], notes: list[str], theirs: bool, defaults: Mapping[str, Any]) -> None:
    for key in ("training_data_paths", "probability", "tokenizer_kwargs"):
        if isinstance(settings.get(key), str):  # their script takes Python's notation too
            with contextlib.suppress(ValueError, SyntaxError):
                settings[key] = ast.literal_eval(settings[key])
    shares = settings.get("probability")
    if theirs and isinstance(shares, list) and all(isinstance(one, int | float) for one in shares) and sum(shares) > 0:
        settings["probability"] = [share / sum(shares) for share in shares]
    least = settings.pop("min_past", None)
    longest = settings.get("context_length", defaults["context_length"])
    if least is not None and "lengths" in settings:
        notes.append("min_past has no effect: lengths says how long contexts are")
    elif isinstance(least, int) and isinstance(longest, int):
        settings["lengths"] = [*(length for length in defaults["lengths"] if least <= length < longest), longest]
        notes.append(f"min_past={least}: contexts have {settings['lengths']} values, one length a batch")


def _optimisation(settings: dict[str, Any], theirs: bool) -> None:
    named = settings.get("optim")
    if isinstance(named, str):
        settings["optim"] = _OPTIMISERS.get(named, named)
    schedule = settings.get("lr_scheduler_type")
    if schedule == "constant_with_warmup":
        settings["lr_scheduler_type"] = "constant"
    elif schedule == "constant" and theirs:
        settings["warmup_ratio"] = 0.0  # theirs does not warm up, whatever the ratio


def _tokens(settings: dict[str, Any], notes: list[str]) -> None:
    limits = settings.pop("tokenizer_kwargs", None)
    if limits is not None:
        high = limits.get("high_limit") if isinstance(limits, Mapping) else None
        if (
            not isinstance(high, int | float)
            or set(limits) != {"low_limit", "high_limit"}
            or limits["low_limit"] != -high
        ):
            raise FlowrankError(
                "tokenizer_kwargs", expected="low_limit and high_limit, as far from 0 as each other", found=repr(limits)
            )
        settings.setdefault("tokenizer_limit", float(high))
    path = settings.pop("pretrain_tokenizer_path", None)
    if settings.pop("use_pretrain_tokenizer", False):
        if not path:
            raise FlowrankError("pretrain_tokenizer_path", expected="a model", found="none", todo="name it")
        settings.setdefault("token_embedding", path)
        if "freeze_token_embedding" not in settings:
            notes.append("use_pretrain_tokenizer: the embedding is trained on; freeze_token_embedding: true keeps it")


def _weights(settings: dict[str, Any], notes: list[str], theirs: bool) -> None:
    """Say where the shape and the first weights come from."""
    model = str(settings.pop("model_id", DEFAULTS["model_id"]))
    random, tied = settings.pop("random_init", None), settings.pop("tie_embeddings", None)
    if not isinstance(random, bool | None):
        raise FlowrankError("random_init", expected="true or false", found=repr(random))
    if random is False:
        if "chronos" not in model.lower() and not Path(model).expanduser().is_dir():
            raise FlowrankError(
                "random_init",
                expected="true, or the model_id of a Chronos model to go on with",
                found=f"false with {model!r}, a language model",
                todo="set random_init: true",
            )
        if "base_tilde_d" in settings or "beta" in settings:
            raise FlowrankError(
                "base_tilde_d",
                expected="random_init: true with it",
                found=f"the weights of {model!r}, whose widths stay",
            )
        settings.setdefault("initial_model", model)
        return
    if not theirs or "initial_model" in settings:
        return
    if random is None:
        notes.append("random_init is not given: weights are random, not those of the language model")
    if tied is None:
        notes.append("tie_embeddings is not given: the output matrix is that of the embedding")
    known = re.search(r"(?:t5-efficient|chronos-t5)-(tiny|mini|small|base|large)$", model)
    names = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")
    if known is None and not set(names) <= set(settings):
        raise FlowrankError(
            "model_id",
            expected=f"google/t5-efficient- or amazon/chronos-t5- with one of {', '.join(SIZES)}",
            found=repr(model),
            todo=f"or give {', '.join(names)}",
        )
    shape = SIZES[known.group(1)] if known else {}
    for key, value in {**shape, **(_UNSAID if settings["family"] == "t5" else {})}.items():
        settings.setdefault(key, value)


def _ranks(settings: dict[str, Any]) -> None:
    if "base_tilde_d" not in settings and "beta" not in settings:
        return
    if "schedule" in settings:
        raise FlowrankError("schedule", expected="it or base_tilde_d and beta, not both", found="both")
    d0, alpha = settings.pop("base_tilde_d", _BASE_TILDE_D), settings.pop("beta", _BETA)
    settings["schedule"] = {"name": "FlowOfRanks", "d0": d0, "alpha": alpha, "rounding": "power_of_two"}
