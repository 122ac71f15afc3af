"""What was measured and what moves the stream, as a reader knows them."""

from __future__ import annotations

NAMES = {
    "embedding": "embedded tokens",
    "input": "layer input",
    "residual": "residual stream",
    "head_outputs": "head outputs",
    "queries": "queries",
    "keys": "keys",
    "values": "values",
    "attention": "attention matrices",
    "update": "what the layer adds",
    "stream": "stream after the layer",
    "W_Q": "W_Q",
    "W_K": "W_K",
    "W_V": "W_V",
    "W_O": "W_O",
}
"""Names of the quantities of a profile."""

MOVERS = {"self": "self-attention", "cross": "cross-attention", "group": "attention over a group", "mlp": "MLP"}
"""Names of the kinds of sublayers."""
