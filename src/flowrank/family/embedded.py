"""Models that ship inside the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = Path(__file__).parent.parent / "embedded"
DEFAULT = "flow-bolt"


def embedded_models() -> list[str]:
    """Names that `flowrank.load` opens without a network.

    Examples
    --------
    >>> embedded_models()
    ['flow-2', 'flow-2-mini', 'flow-bolt', 'flow-bolt-mini', 'flow-t5', 'flow-t5-mini']
    """
    return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))
