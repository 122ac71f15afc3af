"""Checkpoints of a healing: safetensors and JSON, of which a whole one is on disk at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowrank.files import atomic_file, refuse_other_run

RUN, STATE, LOG = "healing.json", "state.json", "log.jsonl"
_TENSORS = "tensors-{step}.safetensors"
_HARMLESS = {"save_steps"}


@dataclass
class State:
    """Progress of a healing.

    Attributes
    ----------
    step
        Steps taken.
    seconds
        Time used, over all runs.
    best, best_step
        Smallest held-out loss, and its step; 0: the child before healing.
    stale
        Evaluations since the best one.
    ended
        Why training has ended; None before that.
    history
        One entry an evaluation.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    ended: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Folder:
    """Folder of one healing.

    Parameters
    ----------
    path
        The folder; created if missing.
    run
        Settings that tell one healing from another.

    Raises
    ------
    FlowrankError
        If it holds another healing, or something else (`refuse_other_run`).
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any]) -> None:
        self.path = Path(path).expanduser()
        refuse_other_run(self.path, RUN, run, run="healing", harmless=_HARMLESS, leftover=_is_leftover)
        if not (self.path / RUN).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(RUN, json.dumps(run, indent=2) + "\n")

    def save(
        self, state: State, model: nn.Module, best: Mapping[str, Tensor] | None, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write the tensors under a new name, then the state that names them, then drop the earlier ones."""
        named = dict(model.named_parameters())
        tensors: dict[str, Tensor] = {f"weights.{name}": one for name, one in named.items()}
        tensors |= {f"best.{name}": one for name, one in (best or {}).items()}
        for name, one in named.items():
            tensors |= {f"moments.{key}.{name}": value for key, value in optimizer.state.get(one, {}).items()}
        name = _TENSORS.format(step=state.step)
        with atomic_file(self.path / name, overwrite=True) as temporary:
            save_file({key: one.detach().contiguous().cpu() for key, one in tensors.items()}, temporary)
        self._write(STATE, json.dumps({**asdict(state), "tensors": name}) + "\n")
        for other in self.path.glob(".*.safetensors"):  # left by a run that was killed
            other.unlink(missing_ok=True)
        for other in self.path.glob(_TENSORS.format(step="*")):
            if other.name != name:
                other.unlink(missing_ok=True)

    @torch.no_grad()
    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Tensor] | None]:
        """Load the last checkpoint into model and optimiser; return its state and the best weights."""
        if not (self.path / STATE).exists():
            self._write(LOG, "")
            return State(), None
        told = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        tensors = load_file(self.path / told["tensors"])
        named = dict(model.named_parameters())
        best: dict[str, Tensor] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "weights":
                named[name].copy_(value)
            elif kind == "best":
                best[name] = value
            else:
                moment, _, name = name.partition(".")
                one = named[name]
                optimizer.state[one][moment] = value if value.ndim == 0 else value.to(one.device)
        state = State(**{one.name: told[one.name] for one in fields(State)})
        self._write(LOG, "".join(json.dumps(line) + "\n" for line in state.history))
        return state, best or None

    def log(self, line: Mapping[str, Any]) -> None:
        """Append an evaluation."""
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _write(self, name: str, text: str) -> None:
        with atomic_file(self.path / name, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(f".{RUN}.")  # of a run that was killed as it began
