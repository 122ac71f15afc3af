"""Activations and gradients of an attention layer in one pass."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass
class HeadActivations:
    """Activations and gradients of one site in one forward and backward pass over a batch.

    Attributes
    ----------
    query, key, value
        Features of each head, shape (B, h, L, width).
    output, gradient
        The heads' output before W_O and the probe's gradient there, shape (B, h, L_q, d_vo).
    weights
        Attention weights, shape (B, h, L_q, L_k).
    bias
        Position bias plus mask: what is added to the scores, broadcastable to the weights; None: not known, and got
        back from the weights where it is needed.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    gradient: Tensor
    weights: Tensor
    bias: Tensor | None

    def added(self, scale: float) -> Float[Tensor, "batch heads queries keys"]:
        """Bias added to the scores; where it is not known, up to a constant for each query, which changes no weight."""
        if self.bias is not None:
            return self.bias
        return self.weights.log() - scale * self.query @ self.key.transpose(-1, -2)

    def score_gradient(self) -> Float[Tensor, "batch heads queries keys"]:
        """The probe's gradient at the attention scores."""
        at_weights = self.weights * (self.gradient @ self.value.transpose(-1, -2))
        return at_weights - self.weights * at_weights.sum(dim=-1, keepdim=True)
