"""At full rank every method must reproduce the dense model: largest difference of the output over its scale.

python benchmarks/full_rank.py
"""

from __future__ import annotations

import torch

import flowrank
from flowrank import Budget, Epsilon, FlowOfRanks, InputSVD, JointHeads, Uniform, WeightSVD
from shapes import t5


def output(pipeline: object, series: torch.Tensor) -> torch.Tensor:
    """Quantiles of Bolt; teacher-forced logits of T5."""
    model = pipeline.inner_model
    with torch.no_grad():
        if not hasattr(pipeline, "tokenizer"):
            return model(series).quantile_preds
        tokens, mask, _ = pipeline.tokenizer.context_input_transform(series)
        decoder = torch.randint(2, 4000, (len(series), 16), generator=torch.Generator().manual_seed(0))
        return model(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder).logits


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(8, 256, generator=generator).cumsum(1)
    series[3, :100] = torch.nan
    for parent in (flowrank.load("flow-bolt-mini"), t5("tiny")):
        dense = output(parent, series)
        heads = parent.inner_model.config.d_kv
        for method in (JointHeads, InputSVD, WeightSVD):
            for allocation in (Uniform(1.0), Budget(1.0), Epsilon(0.0), FlowOfRanks(d0=heads, alpha=0)):
                child = flowrank.compress(parent, method(allocation), calibration_series=16, calibration_points=128)
                gap = float((output(child, series) - dense).abs().max() / dense.abs().max())
                counts = child.recipe["parameters"]
                kept = counts["child"] / counts["parent"]
                names = f"{parent.name[:20]:20} {method.__name__:10} {type(allocation).__name__:12}"
                print(f"{names} largest difference {gap:.1e}, parameters kept {kept:.4f}")


if __name__ == "__main__":
    main()
