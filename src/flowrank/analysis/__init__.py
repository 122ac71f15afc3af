"""Where a model is low-rank: ranks of weights, embeddings, activations and attention over depth."""

from flowrank.analysis.measure import EPSILONS, analyze
from flowrank.analysis.profile import PROFILE_FILES, RankProfile
from flowrank.analysis.spectra import KEYS

__all__ = ["EPSILONS", "KEYS", "PROFILE_FILES", "RankProfile", "analyze"]
