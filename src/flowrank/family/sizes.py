"""Usual sizes of models, by name."""

from __future__ import annotations

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_heads": 4, "num_layers": 4},
    "mini": {"d_model": 384, "d_kv": 64, "d_ff": 1536, "num_heads": 8, "num_layers": 4},
    "small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12},
    "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16, "num_layers": 24},
}
"""Shapes of google/t5-efficient-… and amazon/chronos-t5-…."""
