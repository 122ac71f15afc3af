"""Chronos models of published shapes with random weights, for measuring cost where no checkpoint can be had.

Shapes: the config.json of amazon/chronos-t5-* and amazon/chronos-bolt-* (d_model, d_kv, d_ff, layers, heads).
"""

from __future__ import annotations

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import T5Config, T5ForConditionalGeneration

from flowrank.families.chronos_bolt.pipeline import FlowrankBoltPipeline
from flowrank.families.chronos_t5.pipeline import FlowrankT5Pipeline

SHAPES = {
    "tiny": {"d_model": 256, "d_ff": 1024, "num_layers": 4, "num_heads": 4},
    "mini": {"d_model": 384, "d_ff": 1536, "num_layers": 4, "num_heads": 8},
    "small": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}

T5 = {
    "tokenizer_class": "MeanScaleUniformBins",
    "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
    "context_length": 512,
    "prediction_length": 64,
    "n_tokens": 4096,
    "n_special_tokens": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "use_eos_token": True,
    "model_type": "seq2seq",
    "num_samples": 20,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}

BOLT = {
    "context_length": 2048,
    "prediction_length": 64,
    "input_patch_size": 16,
    "input_patch_stride": 16,
    "quantiles": [q / 10 for q in range(1, 10)],
    "use_reg_token": True,
}


def t5(shape: str, seed: int = 0) -> FlowrankT5Pipeline:
    """Chronos-T5 of a published shape, random weights."""
    torch.manual_seed(seed)
    config = T5Config(
        **SHAPES[shape],
        d_kv=64,
        vocab_size=4096,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        chronos_config=T5,
        chronos_pipeline_class="ChronosPipeline",
    )
    pipeline = FlowrankT5Pipeline.around(T5ForConditionalGeneration(config).eval())
    pipeline.name = f"Chronos-T5-{shape} shape, random weights"
    return pipeline


def bolt(shape: str, seed: int = 0) -> FlowrankBoltPipeline:
    """Chronos-Bolt of a published shape, random weights."""
    torch.manual_seed(seed)
    config = T5Config(
        **SHAPES[shape],
        d_kv=64,
        vocab_size=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        initializer_factor=0.05,
        chronos_config=BOLT,
        chronos_pipeline_class="ChronosBoltPipeline",
    )
    pipeline = FlowrankBoltPipeline(ChronosBoltModelForForecasting(config).eval())
    pipeline.name = f"Chronos-Bolt-{shape} shape, random weights"
    return pipeline
