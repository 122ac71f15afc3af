"""One training loop and one budget for every modality; finished runs are kept and not repeated."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from modalities import TOKENS, Modality
from model import SequenceModel, new_model, token_loss

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
WARMUP = 0.1  # of the steps; the rest is a cosine to zero
HELDOUT_ROWS = 256
CURVE = 10  # steps averaged into the loss at the start, five times as many at the end


@dataclass(frozen=True)
class Run:
    """All that decides what a training run gives; ``patch`` counts for patches of series only.

    Examples
    --------
    >>> Run("text words").label
    'text-words-k16-d128-h4-s0-n600'
    """

    modality: str
    seed: int = 0
    steps: int = 600
    patch: int = 16
    width: int = 128
    heads: int = 4
    layers: int = 4
    rows: int = 16
    tokens: int = TOKENS

    @property
    def label(self) -> str:
        """Name of the run's file."""
        name = self.modality.replace(" ", "-")
        return f"{name}-k{self.patch}-d{self.width}-h{self.heads}-s{self.seed}-n{self.steps}"

    def new_model(self, modality: Modality) -> SequenceModel:
        """The model before training."""
        return new_model(
            self.seed,
            modality.patch,
            modality.vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            tokens=self.tokens,
        )


def heldout(modality: Modality, tokens: int = TOKENS, rows: int = HELDOUT_ROWS) -> Tensor:
    """The sequences on which every model of a modality is measured."""
    return modality.draw(np.random.default_rng(12345), rows, heldout=True, tokens=tokens)


def trained(run: Run, modality: Modality, folder: Path) -> tuple[SequenceModel, dict[str, Any]]:
    """Train, or open what was trained before: the model, and a record of the run with its losses."""
    path = folder / "models" / f"{run.label}.safetensors"
    model = run.new_model(modality)
    if not path.exists():
        record = {**asdict(run), **train(model, run, modality)}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file(model.state_dict(), unfinished, metadata={"record": json.dumps(record)})
        os.replace(unfinished, path)
        summary = f"{record['loss_start']:.3f} → {record['loss_end']:.3f}, held out {record['heldout_end']:.3f}"
        print(f"{run.label}: {summary}, {record['seconds']:.0f} s", flush=True)
    with safe_open(path, framework="pt") as kept:
        model.load_state_dict({name: kept.get_tensor(name) for name in kept.keys()})  # noqa: SIM118
        return model.eval(), json.loads(kept.metadata()["record"])


def train(model: SequenceModel, run: Run, modality: Modality) -> dict[str, float]:
    """Train in place by AdamW; the losses before, during and after, and the time it took."""
    rng = np.random.default_rng([run.seed, 1])
    test = heldout(modality, run.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    warmup = max(1, round(WARMUP * run.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warmup, (1 + np.cos(np.pi * max(0, step - warmup) / max(1, run.steps - warmup))) / 2
        ),
    )
    before, losses, start = evaluate(model, test), [], time.perf_counter()
    model.train()
    for _ in range(run.steps):
        loss = model(modality.draw(rng, run.rows, tokens=run.tokens))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    seconds = time.perf_counter() - start
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss_start": float(np.mean(losses[:CURVE])),
        "loss_end": float(np.mean(losses[-5 * CURVE :])),
        "heldout_start": before,
        "heldout_end": evaluate(model, test),
        "seconds": seconds,
    }


@torch.no_grad()
def evaluate(model: SequenceModel, sequences: Tensor) -> float:
    """Mean loss on given sequences."""
    model.eval()
    return float(np.mean([float(model(part)) for part in sequences.split(32)]))


def reference_losses(modality: Modality, rows: int = 1024, tokens: int = TOKENS) -> dict[str, float]:
    """Held-out losses that need no network: one forecast for all tokens, and one from the token before.

    Of indices: the frequencies in the training part, and those after each token (shrunk to the former by 10 counts).
    Of patches: the mean of the sequence, and the best linear map of the patch before.
    """
    seen = modality.draw(np.random.default_rng(54321), rows, tokens=tokens)
    test = heldout(modality, tokens)
    before, after = seen[:, :-1].flatten(0, 1), seen[:, 1:].flatten(0, 1)
    test_before, test_after = test[:, :-1].flatten(0, 1), test[:, 1:].flatten(0, 1)
    if modality.vocabulary is None:
        one = [torch.cat([x, torch.ones(len(x), 1)], dim=1).double() for x in (before, test_before)]
        linear = torch.linalg.lstsq(one[0], after.double()).solution
        constant = token_loss(torch.zeros_like(test_after), test_after)
        return {"constant": float(constant), "from_last": float(token_loss(one[1] @ linear, test_after.double()))}
    size = modality.vocabulary
    pairs = torch.bincount(before * size + after, minlength=size * size).reshape(size, size).double()
    frequency = (torch.bincount(after, minlength=size).double() + 1) / (len(after) + size)
    following = (pairs + 10 * frequency) / (pairs.sum(dim=1, keepdim=True) + 10)
    return {
        "constant": -float(frequency[test_after].log().mean()),
        "from_last": -float(following[test_before, test_after].log().mean()),
    }
