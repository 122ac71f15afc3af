"""flowrank: small and fast time series foundation models, and why that works.

Source of the theory: Yu et al., "Understanding Transformers for Time Series: Rank Structure,
Flow-of-ranks, and Compressibility", ICLR 2026, arXiv 2510.03358.
"""

from __future__ import annotations

__version__ = "0.1.0"
