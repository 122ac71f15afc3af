"""Names of stacks and of sublayers."""

from __future__ import annotations

from typing import Literal

Stack = Literal["encoder", "decoder"]
Kind = Literal["self", "cross", "group", "mlp"]
