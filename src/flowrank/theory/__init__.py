"""The theorems behind low-rank attention, as functions that evaluate each inequality on numbers.

Source: Yu et al., "Understanding Transformers for Time Series: Rank Structure, Flow-of-ranks, and Compressibility",
ICLR 2026, arXiv 2510.03358. The paper states some bounds up to a constant or under assumptions on scale; here every
constant is explicit, and each docstring says which inequality is evaluated, why it holds and where it differs from
the paper's. `flowrank.theory.positions` adds what low rank means for rotary positions, which the paper leaves out.

Symbols: U (d × L) embedded sequence, one column a token; Ξ (d × N) the embeddings of all tokens; h heads; D depth;
σ_j singular values in falling order; ‖·‖ the spectral norm.
"""

from __future__ import annotations

from flowrank.theory.attention import attention, projected_on_input, theorem_3, theorem_3_hard_weights
from flowrank.theory.embedding import theorem_1_analytic, theorem_1_smooth, theorem_2
from flowrank.theory.flow import corollary_1, theorem_4
from flowrank.theory.inequality import Inequality
from flowrank.theory.positions import lags_of, merged_planes, position_rank, position_spectrum, slow_planes

__all__ = [
    "Inequality",
    "attention",
    "corollary_1",
    "lags_of",
    "merged_planes",
    "position_rank",
    "position_spectrum",
    "projected_on_input",
    "slow_planes",
    "theorem_1_analytic",
    "theorem_1_smooth",
    "theorem_2",
    "theorem_3",
    "theorem_3_hard_weights",
    "theorem_4",
]
