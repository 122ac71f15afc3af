"""Chronos-2 models with random weights whose attention is sharp, groups of series of every kind, and what is asked."""

from __future__ import annotations

import warnings

import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from chronos.chronos2.config import Chronos2CoreConfig
from torch import nn

from flowrank.families.chronos2.pipeline import FlowrankChronos2Pipeline
from tests.conftest import LEVELS
from tests.layers import narrow_model

CHRONOS = {
    **{"context_length": 64, "input_patch_size": 8, "input_patch_stride": 8, "output_patch_size": 8},
    **{"quantiles": LEVELS, "use_reg_token": True, "use_arcsinh": True, "max_output_patches": 3},
    "time_encoding_scale": 64,
}
SIZES = {"d_model": 24, "d_kv": 8, "d_ff": 40, "num_heads": 3, "num_layers": 2, "dropout_rate": 0.0}


@torch.no_grad()
def sharpen(model, seed=0):
    """Weights that make each head look at few tokens, and biases and norms that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        letter = name.split(".")[-2] if name.endswith("weight") else ""
        if "norm" in name:
            parameter.copy_(1 + 0.2 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.3 * noise)
        elif letter in ("q", "k"):
            parameter.copy_(1.5 * model.config.d_kv**-0.25 * parameter.shape[1] ** -0.5 * noise)
        else:
            parameter.copy_(parameter.shape[1] ** -0.5 * noise)
    return model.eval()


def random_model(seed=0, **changes):
    """A dense model; keywords are fields of its config or of its ``chronos_config``."""
    torch.manual_seed(seed)
    chronos = {key: changes.pop(key, value) for key, value in CHRONOS.items()}
    config = Chronos2CoreConfig(**{**SIZES, **changes}, chronos_config=chronos)
    config.chronos_pipeline_class = "Chronos2Pipeline"
    return sharpen(Chronos2Model(config), seed)


def random_chronos2(seed=0, **changes):
    """Pipeline of a dense model."""
    return FlowrankChronos2Pipeline(random_model(seed, **changes))


def narrow_chronos2(attention=None, mlp=None, seed=0, univariate=None, **changes):
    """Pipeline of a model whose layers have these sizes."""
    model = narrow_model(random_model(**changes), attention=attention, mlp=mlp, univariate=univariate)
    return FlowrankChronos2Pipeline(sharpen(model, seed))


def stock(pipeline):
    """Chronos-forecasting's own pipeline of the same model."""
    return Chronos2Pipeline(pipeline.model)


def walk(*shape, seed=0, scale=1.0):
    """Random walks."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cumsum(-1)


def both(pipeline, inputs, **options):
    """Forecasts of a pipeline, and of chronos-forecasting's own of the same model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pipeline.path == "exact"
        return pipeline.predict(inputs, **options), stock(pipeline).predict(inputs, **options)


def targets_of(inputs):
    """The targets of each input, shape (targets, time)."""
    found = []
    for one in inputs:
        values = torch.as_tensor(one["target"] if isinstance(one, dict) else one, dtype=torch.float32)
        found.append(values.view(-1, values.shape[-1]))
    return found


def largest_gap(inputs, ours, theirs, context_length=64):
    """Largest difference of forecasts, target by target, over the scale of the reference, as the model gives both.

    That is before the inverse of arcsinh, and before the level and scale of the series are put back. What fp32 rounds
    away of the series itself is not asked for.
    """
    worst = 0.0
    assert len(ours) == len(theirs) == len(inputs)
    for values, mine, reference in zip(targets_of(inputs), ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert mine.dtype == torch.float32
        for row, one, other in zip(values, mine.double(), reference.double(), strict=True):
            known = row[-context_length:][~row[-context_length:].isnan()].double()
            level = known.mean() if len(known) else torch.tensor(0.0)
            scale = known.std(correction=0) if len(known) else torch.tensor(1.0)
            scale = scale if scale > 0 else torch.tensor(1e-5)
            rounding = 4 * torch.finfo(torch.float32).eps * float(level.abs() / scale)
            one, other = (((numbers - level) / scale).arcsinh() for numbers in (one, other))
            worst = max(worst, float((one - other).abs().max() / other.abs().max()) - rounding)
    return worst


def assert_equal_forecasts(pipeline, inputs, within=1e-5, **options):
    """Require the forecasts of chronos-forecasting's own pipeline."""
    ours, theirs = both(pipeline, inputs, **options)
    gap = largest_gap(inputs, ours, theirs, pipeline.model_context_length)
    assert gap <= within, gap


def all_linears(model):
    """Dotted names of its linear layers."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
