"""Tiny checkpoints of the real classes, and series that every test may use."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings

settings.register_profile("flowrank", deadline=None)  # a busy machine is no failure
settings.load_profile("flowrank")
torch.set_num_threads(1)  # the models are tiny, and tests run side by side


def pytest_configure(config):
    """Models of random weights lose what they lose, and few series are enough to see whether the code works."""
    for name in ("AccuracyWarning", "CalibrationWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::flowrank.errors.{name}")


T5_TOKENS = {
    "tokenizer_class": "MeanScaleUniformBins",
    "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
    "context_length": 64,
    "prediction_length": 16,
    "n_tokens": 64,
    "n_special_tokens": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_eos_token": True,
    "model_type": "seq2seq",
    "num_samples": 5,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}

BOLT_PATCHES = {
    "context_length": 64,
    "prediction_length": 16,
    "input_patch_size": 8,
    "input_patch_stride": 8,
    "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    "use_reg_token": True,
}


def tiny_config(chronos_config: dict, pipeline_class: str, **changes):
    from transformers import T5Config

    shape = {"d_model": 24, "d_kv": 6, "d_ff": 32, "num_heads": 3, "num_layers": 2, "vocab_size": 64}
    return T5Config(
        **{**shape, **changes},
        dropout_rate=0.0,
        decoder_start_token_id=0,
        chronos_config=chronos_config,
        chronos_pipeline_class=pipeline_class,
    )


def make_bolt(folder, seed: int = 0, **changes):
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    torch.manual_seed(seed)
    config = tiny_config(BOLT_PATCHES, "ChronosBoltPipeline", **changes)
    config.architectures = ["ChronosBoltModelForForecasting"]
    ChronosBoltModelForForecasting(config).save_pretrained(folder)
    return folder


def make_t5(folder, seed: int = 0, **changes):
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = tiny_config(T5_TOKENS, "ChronosPipeline", tie_word_embeddings=False, **changes)
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return folder


LEVELS = [0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99]


def make_chronos2(folder, seed: int = 0, **changes):
    """A tiny Chronos-2 whose attention is sharp enough to matter."""
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    torch.manual_seed(seed)
    chronos = {
        **{"context_length": 128, "input_patch_size": 8, "input_patch_stride": 8, "output_patch_size": 8},
        **{"quantiles": LEVELS, "use_reg_token": True, "use_arcsinh": True, "max_output_patches": 3},
        "time_encoding_scale": 128,
    }
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2, "initializer_factor": 0.3}
    chronos |= {key: changes.pop(key) for key in list(changes) if key in chronos}
    config = Chronos2CoreConfig(**{**sizes, **changes}, chronos_config=chronos)
    config.chronos_pipeline_class = "Chronos2Pipeline"
    Chronos2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chronos2_folder(tmp_path_factory):
    """A tiny Chronos-2 checkpoint, as stock classes write it."""
    return make_chronos2(tmp_path_factory.mktemp("models") / "chronos2")


@pytest.fixture(scope="session")
def bolt_folder(tmp_path_factory):
    """A tiny Chronos-Bolt checkpoint, as stock classes write it."""
    return make_bolt(tmp_path_factory.mktemp("models") / "bolt")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory):
    """A tiny Chronos-T5 checkpoint with an output matrix of its own, as stock classes write it."""
    return make_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(params=["bolt", "t5"])
def folder(request, bolt_folder, t5_folder):
    """Each family in turn."""
    return bolt_folder if request.param == "bolt" else t5_folder


@pytest.fixture(scope="session")
def opened():
    """Open a model once, and give a copy of it each time: every test may change its own."""
    kept = {}

    def copy_of(load, folder):
        if (load, folder) not in kept:
            kept[load, folder] = load(folder)
        return copy.deepcopy(kept[load, folder])

    return copy_of


@pytest.fixture
def pipeline(opened, folder):
    """A pipeline of each family in turn."""
    import flowrank

    return opened(flowrank.load, folder)


@pytest.fixture
def bolt(opened, bolt_folder):
    """A Chronos-Bolt pipeline of chronos-forecasting itself."""
    return opened(_stock, bolt_folder)


@pytest.fixture
def t5(opened, t5_folder):
    """A Chronos-T5 pipeline of chronos-forecasting itself."""
    return opened(_stock, t5_folder)


def _stock(folder):
    from chronos import BaseChronosPipeline

    return BaseChronosPipeline.from_pretrained(folder)


@pytest.fixture
def contexts():
    """Series of several lengths, one with holes."""
    generator = torch.Generator().manual_seed(0)
    series = [torch.randn(n, generator=generator).cumsum(0) for n in (64, 50, 33, 17)]
    series[1][10:20] = torch.nan
    return series


@pytest.fixture
def long_frame():
    """Three daily series in long format."""
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range("2020-01-01", periods=length, freq="D"),
                "target": rng.normal(size=length).cumsum() + 20,
            }
        )
        for name, length in (("a", 80), ("b", 60), ("c", 70))
    ]
    return pd.concat(frames, ignore_index=True)


def outputs(pipeline, contexts):
    """What the inner model gives for series: normalised quantiles of Bolt, teacher-forced logits of T5."""
    from flowrank.family import pad_left

    batch = pad_left(contexts, torch.device("cpu"))
    with torch.no_grad():
        if hasattr(pipeline, "tokenizer"):
            tokens, mask, _ = pipeline.tokenizer.context_input_transform(batch)
            decoder = torch.randint(2, 60, (len(contexts), 7), generator=torch.Generator().manual_seed(1))
            return pipeline.inner_model(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder).logits
        return pipeline.inner_model(batch).quantile_preds


def relative_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the scale of the reference."""
    return float((a - b).abs().max() / b.abs().max())


def with_own_widths(model, seed: int = 1, **sizes):
    """A narrowed model of the config of another, but for these sizes, with random weights and biases."""
    from tests.layers import narrow_model

    torch.manual_seed(seed)
    made = narrow_model(model, **sizes)
    for name, parameter in made.named_parameters():
        if parameter.numel() and (name.endswith("bias") or "relative_attention_bias" in name):
            torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def small_mlps(model):
    """Shapes of a model's feed-forward layers and blocks: narrow, factored, gone and dense ones."""
    from tests.layers import mlp_layers

    gated = bool(model.config.is_gated_act)
    first = "wi_0" if gated else "wi"
    shapes = {}
    for number, name in enumerate(mlp_layers(model)):
        if "DenseReluDense" in name:
            kinds = [{"width": 5}, {"width": 0, "ranks": {}}, {"width": 9, "ranks": {first: 3, "wo": 2}}, None]
        else:
            kinds = [{"width": 7, "ranks": {"hidden_layer": 2, "output_layer": 3, "residual_layer": 4}}]
        kind = kinds[number % len(kinds)]
        if kind is not None:
            shapes[name] = kind
    return shapes
