"""What a design choice does to the rank: patch size, number of heads, width. Series in patches, one seed.

python examples/modality/sweeps.py --output FOLDER [--steps 250] [--seed 0]

Results go to FOLDER/sweeps.csv and FOLDER/sweep_losses.csv; models as in experiment.py. Afterwards: tables.py FOLDER,
figures.py FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiment import STATES
from flowrank.linalg import Spectrum
from modalities import series_patches
from model import SequenceModel
from ranks import EPSILONS, embedding_spectra, measures, projections, theorem_2_count
from training import HELDOUT_ROWS, Run, heldout, trained

SWEEPS: dict[str, tuple[int, ...]] = {
    "patch": (1, 2, 4, 8, 16, 32),
    "heads": (1, 2, 4, 8, 16),
    "width": (32, 64, 128, 256),
}


def sweep(
    base: Run, values: dict[str, Sequence[int]], output: Path, rows: int = HELDOUT_ROWS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one model a value, everything else as in ``base``, and measure it: ranks and losses."""
    found, losses = [], []
    for name, choices in values.items():
        for value in choices:
            run = replace(base, **{name: value})
            modality = series_patches(run.patch)
            model, record = trained(run, modality, output)
            losses.append({"sweep": name, "value": value, **record})
            initial, sequences = run.new_model(modality).eval(), heldout(modality, run.tokens, rows)
            for state, measured in zip(STATES, (initial, model), strict=True):
                where = {"sweep": name, "value": value, "seed": run.seed, "steps": run.steps, "state": state}
                for quantity, spectrum in embedding_spectra(measured, sequences).items():
                    found += measures(spectrum, **where, quantity=quantity, layer=-1)
                for epsilon in (1.0, *EPSILONS):
                    count, bound = theorem_2_count(measured.embedding, sequences, epsilon)
                    row = {"quantity": "theorem 2", "layer": -1, "dim": run.width, "epsilon": epsilon, "rank": count}
                    found.append({**where, **row, "bound": bound})
                found += weight_rows(measured, initial if state == "trained" else None, where)
    return pd.DataFrame(found), pd.DataFrame(losses)


def weight_rows(model: SequenceModel, initial: SequenceModel | None, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Ranks of W_Q, W_K and W_V, and of what training added to them."""
    found, before = [], None if initial is None else projections(initial)
    for (layer, name), weight in projections(model).items():
        found += measures(Spectrum.of(weight), **where, quantity=name, layer=layer)
        if before is not None:
            update = Spectrum.of(weight - before[layer, name])
            found += measures(update, **where, quantity=f"{name} update", layer=layer)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sweeps from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ranks, losses = sweep(Run("series patches", options.seed, options.steps), SWEEPS, options.output)
    ranks.to_csv(options.output / "sweeps.csv", index=False)
    losses.to_csv(options.output / "sweep_losses.csv", index=False)


if __name__ == "__main__":
    main()
