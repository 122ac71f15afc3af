"""Five modalities, one architecture, one budget: how low-rank each embedding is before and after training.

python examples/modality/experiment.py --output FOLDER [--steps 500] [--seeds 0 1 2]

Models go to FOLDER/models and are not trained twice. The ranks go to FOLDER/embedding_ranks.csv (with spectra.csv) and
FOLDER/stream_ranks.csv, the losses to FOLDER/losses.csv. Afterwards: tables.py FOLDER, figures.py FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from modalities import HARD_SERIES, MODALITIES, Modality, hard_patches
from model import SequenceModel
from ranks import embedding_spectra, measures, stream_ranks
from training import HELDOUT_ROWS, Run, heldout, reference_losses, trained

STATES = ("initial", "trained")
HELDOUT = "held out"


def measured_sequences(run: Run, modality: Modality, rows: int) -> Iterator[tuple[str, Tensor]]:
    """What a model is analysed on: its modality's held-out data, and for series also those that should be hard."""
    yield HELDOUT, heldout(modality, run.tokens, rows)
    if run.modality == "series patches":
        for name in HARD_SERIES:
            yield name, hard_patches(name, np.random.default_rng(12345), rows, tokens=run.tokens)


def compare(base: Run, seeds: Sequence[int], output: Path, rows: int = HELDOUT_ROWS) -> None:
    """Train every modality with every seed, then measure all of them."""
    modalities = {name: build() for name, build in MODALITIES.items()}
    runs = [replace(base, modality=name, seed=seed) for seed in seeds for name in modalities]
    for run in runs:
        trained(run, modalities[run.modality], output)
    references = {
        name: {**reference_losses(modality, tokens=base.tokens), "training_tokens": modality.training_tokens}
        for name, modality in modalities.items()
    }
    losses, ranks, spectra, streams = [], [], [], []
    for run in runs:
        modality = modalities[run.modality]
        model, record = trained(run, modality, output)
        losses.append({**record, **references[run.modality]})
        for state, measured in zip(STATES, (run.new_model(modality).eval(), model), strict=True):
            for data, sequences in measured_sequences(run, modality, rows):
                where = {"modality": run.modality, "seed": run.seed, "state": state, "data": data}
                rank_rows, curves = embedding_rows(measured, sequences, where)
                ranks += rank_rows
                spectra += curves
                streams.append(stream_ranks(measured, sequences).assign(**where))
        print(f"{run.label}: measured", flush=True)
    pd.DataFrame(losses).to_csv(output / "losses.csv", index=False)
    pd.DataFrame(ranks).to_csv(output / "embedding_ranks.csv", index=False)
    pd.concat(spectra).to_csv(output / "spectra.csv", index=False)
    pd.concat(streams).to_csv(output / "stream_ranks.csv", index=False)


def embedding_rows(
    model: SequenceModel, sequences: Tensor, where: dict[str, object]
) -> tuple[list[dict[str, object]], list[pd.DataFrame]]:
    """Ranks and spectra of an embedding, with the keys that say where they come from."""
    ranks, curves = [], []
    for quantity, spectrum in embedding_spectra(model, sequences).items():
        keys = {**where, "quantity": quantity}
        ranks += measures(spectrum, **keys)
        sigma = spectrum.normalised.numpy()
        curves.append(pd.DataFrame({**keys, "j": np.arange(1, len(sigma) + 1), "sigma": sigma}))
    return ranks, curves


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    compare(Run("", steps=options.steps), options.seeds, options.output)


if __name__ == "__main__":
    main()
