"""The results as Markdown tables.

python examples/modality/tables.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiment import HELDOUT
from modalities import HARD_SERIES, MODALITIES
from ranks import EPSILONS


def rows(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows in which every named column has the given value."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def spread(values: pd.Series) -> str:
    """Median, and least and largest where they differ."""
    low, middle, high = values.min(), values.median(), values.max()
    return f"{middle:.0f}" if low == high else f"{middle:.0f} ({low:.0f}–{high:.0f})"


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, its index first."""
    header = [str(frame.index.name or ""), *map(str, frame.columns)]
    lines = [
        header,
        ["---"] * len(header),
        *([str(key), *map(str, row)] for key, row in zip(frame.index, frame.to_numpy(), strict=True)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def embedding_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """rank_ε of the token embedding, of the table and of the raw patches, per modality, by state and ε."""
    columns = {
        f"{state}, ε = {epsilon}": rows(ranks, data=HELDOUT, state=state, epsilon=epsilon)
        .groupby(["modality", "quantity"])["rank"]
        .apply(spread)
        for epsilon in EPSILONS
        for state in ("initial", "trained")
    }
    table = pd.DataFrame(columns).loc[list(MODALITIES)]
    table.index = [f"{modality}, {quantity}" for modality, quantity in table.index]
    return table.rename_axis("matrix")


def depth_table(streams: pd.DataFrame, epsilon: float, state: str) -> pd.DataFrame:
    """rank_ε of the residual stream: embedding with positions, then after each block."""
    chosen = rows(streams, data=HELDOUT, epsilon=epsilon, state=state, head=-1)
    chosen = chosen[chosen["quantity"].isin(["embedding", "residual"])]
    where = np.where(
        chosen["quantity"] == "embedding", "embedding + positions", "block " + (chosen["layer"] + 1).astype(str)
    )
    table = chosen.assign(where=where).pivot_table(index="modality", columns="where", values="rank", aggfunc=spread)
    columns = ["embedding + positions", *sorted(set(table.columns) - {"embedding + positions"})]
    return table.loc[list(MODALITIES), columns]


def hard_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """Ranks of patches and of their trained embedding on series the model was not trained on."""
    chosen = rows(ranks, modality="series patches", state="trained")
    columns = {
        f"{quantity}, ε = {epsilon}": rows(chosen, quantity=quantity, epsilon=epsilon)
        .groupby("data")["rank"]
        .apply(spread)
        for quantity in ("patches", "tokens")
        for epsilon in EPSILONS
    }
    return pd.DataFrame(columns).loc[[HELDOUT, *HARD_SERIES]].rename_axis("series")


def loss_table(losses: pd.DataFrame) -> pd.DataFrame:
    """Losses at the start and the end, medians over seeds, next to the references."""
    columns = {
        "loss_start": "training, first steps",
        "loss_end": "training, last steps",
        "heldout_start": "held out, before",
        "heldout_end": "held out, after",
        "constant": "one forecast for all",
        "from_last": "from the token before",
    }
    table = losses.groupby("modality")[list(columns)].median().loc[list(MODALITIES)].rename(columns=columns)
    return table.map("{:.3f}".format)


def power(x: pd.Series, y: pd.Series) -> float:
    """Exponent p of y ∝ x^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(x.astype(float)), np.log(y.astype(float)), 1)[0])


def sweep_table(sweeps: pd.DataFrame, name: str) -> pd.DataFrame:
    """rank_ε of the token embedding for each value of one sweep, and the exponent of its growth."""
    chosen = rows(sweeps, sweep=name, quantity="tokens")
    table = chosen.pivot_table(index=["state", "epsilon"], columns="value", values="rank")
    exponents = [power(pd.Series(table.columns), pd.Series(row)) for row in table.to_numpy()]
    table = table.astype(int).assign(exponent=[f"{exponent:.2f}" for exponent in exponents])
    table.index = [f"{state}, ε = {epsilon}" for state, epsilon in table.index]
    return table.rename_axis(name)


def theorem_table(sweeps: pd.DataFrame) -> pd.DataFrame:
    """Both sides of theorem 2 for each patch size: singular values above its threshold, and its bound."""
    chosen = rows(sweeps, sweep="patch", quantity="theorem 2")
    sides = chosen["rank"].astype(str) + " ≤ " + chosen["bound"].round().astype(int).astype(str)
    table = chosen.assign(sides=sides).pivot(index=["state", "epsilon"], columns="value", values="sides")
    table.index = [f"{state}, ε = {epsilon}" for state, epsilon in table.index]
    return table.rename_axis("theorem 2, patch")


def heads_table(sweeps: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """rank_ε of W_Q, W_K, W_V and of their updates for each number of heads, the mean over layers."""
    chosen = rows(sweeps, sweep="heads", epsilon=epsilon)
    table = (
        chosen[chosen["layer"] >= 0].pivot_table(index=["quantity", "state"], columns="value", values="rank").round(1)
    )
    table.index = [f"{quantity}, {state}" for quantity, state in table.index]
    return table.rename_axis(f"heads, ε = {epsilon}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every table whose results are there."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    if (folder / "losses.csv").exists():
        ranks, streams = (pd.read_csv(folder / f"{name}.csv") for name in ("embedding_ranks", "stream_ranks"))
        print(markdown(embedding_table(ranks)), "\n")
        for epsilon in EPSILONS:
            for state in ("initial", "trained"):
                print(f"Residual stream, ε = {epsilon}, {state}\n")
                print(markdown(depth_table(streams, epsilon, state)), "\n")
        print(markdown(hard_table(ranks)), "\n")
        print(markdown(loss_table(pd.read_csv(folder / "losses.csv"))), "\n")
    if (folder / "sweeps.csv").exists():
        print(pd.read_csv(folder / "sweep_losses.csv")[["sweep", "value", "heldout_end"]].to_string(index=False), "\n")
        sweeps = pd.read_csv(folder / "sweeps.csv")
        for name in ("patch", "width"):
            print(markdown(sweep_table(sweeps, name)), "\n")
        print(markdown(theorem_table(sweeps)), "\n")
        for epsilon in EPSILONS:
            print(markdown(heads_table(sweeps, epsilon)), "\n")


if __name__ == "__main__":
    main()
