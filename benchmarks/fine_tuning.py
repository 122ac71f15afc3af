"""Does low rank survive fine-tuning? A model fine-tuned and then compressed, and compressed and then fine-tuned.

python benchmarks/fine_tuning.py MODEL --data FOLDER --backtests backtests.csv --work FOLDER [--output fine_tuning.json]
    [--sets m4_hourly monash_tourism_monthly] [--ratios 0.237 0.15] [--modes full lora] [--steps 300] [--max-series 200]
    [--rate-full 1e-3] [--rate-lora 1e-3] [--lora-rank 8] [--batch 32] [--calibration own]

For each data set, MODEL is fine-tuned on the histories before the first cut of the test, and scored after it; nothing
after the cut is read in training. The last horizon of each history chooses the best weights, every --eval-steps steps.
Chronos-2 is tuned by its pipeline's `fit`, full or LoRA. Others by `flowrank.heal` with the loss of what came and no
distillation; LoRA of those is a loop of this file with the same batches and loss, adapters of `peft` on W_Q, W_K, W_V
and W_O. Those may also keep the weights that they began with; `fit` may not. Needs pip install "flowrank[finetune]".

Rates: of 1e-4 and 1e-3, in 120 to 160 steps, 1e-3 had the smaller held-out loss for flow-bolt-mini (full, both sets)
and for a Chronos-2 of two layers (full and LoRA, tourism). Nothing else was tried; larger models may want less.

Compression is JointHeads(Budget), calibrated on synthetic series or, by --calibration own, on the same histories.
Columns: WQL and MASE over those of MODEL as it is; and of the attention matrices, means over all heads that MODEL has
(a head that is gone counts 0) of

* QK, VO: rank at ε 0.1 and 0.01 and effective rank of W_Q W_Kᵀ and of W_O W_V, head by head. Where queries and keys
  turn with their places the former is the score of two tokens at one place;
* change: Frobenius norm of what these products differ by from MODEL's, over theirs.

Layers in which every query reads one key have no scores and are left out. --work keeps all models.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import flowrank
from flowrank import Budget, Healing, JointHeads
from flowrank.families.chronos2.tuning import linears_of
from flowrank.family import anatomy_of, family_of
from flowrank.healing.data import HealingData
from flowrank.linalg import Spectrum
from flowrank.pretraining.training import fastest_attention, native_bfloat16
from flowrank.randomness import globally_seeded
from flowrank.series import read_series
from shared import METRICS, Rows, Scores, add_data, identity

SETS = ["m4_hourly", "monash_tourism_monthly"]
EPSILONS = (0.1, 0.01)
LENGTHS = (32, 64, 128, 256, 512)
"""Lengths of contexts in training, where the model reads so far; `fit` draws its own."""

OPTIONS = ("steps", "eval_steps", "batch", "rate_full", "rate_lora", "lora_rank", "calibration", "seed", "max_series")
"""What all results depend on."""


class Tuned:
    """Fine-tuning of any model on some histories.

    Parameters
    ----------
    histories
        Series (time,), cut before the test.
    horizon
        Of the backtest.
    settings
        The options of the command line.
    """

    def __init__(self, histories: list[np.ndarray], horizon: int, settings: argparse.Namespace) -> None:
        self.histories, self.horizon, self.settings = histories, horizon, settings

    def __call__(self, pipeline: Any, mode: str, folder: Path) -> Any:
        """The pipeline's model, fine-tuned; ``folder`` for what training writes."""
        if hasattr(pipeline, "fit"):
            return self._fitted(pipeline, mode, folder)
        options = self._options(mode)
        if mode == "full":
            return flowrank.heal(pipeline, pipeline, options, series=self.histories, folder=folder)
        return self._adapted(pipeline, options)

    def _rate(self, mode: str) -> float:
        return self.settings.rate_lora if mode == "lora" else self.settings.rate_full

    def _fitted(self, pipeline: Any, mode: str, folder: Path) -> Any:
        settings = self.settings
        rank = settings.lora_rank
        return pipeline.fit(
            [torch.from_numpy(one[: -self.horizon]) for one in self.histories],
            prediction_length=self.horizon,
            validation_inputs=[torch.from_numpy(one) for one in self.histories],
            finetune_mode=mode,
            lora_config={"r": rank, "lora_alpha": 2 * rank} if mode == "lora" else None,
            learning_rate=self._rate(mode),
            num_steps=settings.steps,
            batch_size=settings.batch,
            output_dir=folder,
            remove_printer_callback=True,
            overwrite=True,
            disable_tqdm=True,
            eval_steps=settings.eval_steps,
            save_steps=settings.eval_steps,
            seed=settings.seed,
        )

    def _options(self, mode: str) -> Healing:
        settings = self.settings
        return Healing(
            steps=settings.steps,
            batch=settings.batch,
            distillation=0.0,
            truth=1.0,
            lengths=LENGTHS,
            horizons=(self.horizon,),
            learning_rate=self._rate(mode),
            eval_steps=settings.eval_steps,
            patience=settings.steps,
            seed=settings.seed,
        )

    def _adapted(self, pipeline: Any, options: Healing) -> Any:
        """LoRA: the best weights of a short training of adapters, merged into the model's own."""
        from peft import LoraConfig, LoraModel

        data = HealingData.read(pipeline, options, self.histories)
        training = family_of(pipeline).training
        objective = training.objective(pipeline.inner_model, distillation=0.0, truth=1.0)
        model = copy.deepcopy(pipeline.inner_model).requires_grad_(False)
        layers = [one.name for layer in anatomy_of(model).attention for one in layer.matrices.values()]
        rank = self.settings.lora_rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(linears_of(model, layers)))
        holder = torch.nn.ModuleDict({"model": model})  # peft asks models of transformers for an embedding of tokens
        with globally_seeded(options.seed):
            wrapped = LoraModel(holder, config, "default").eval()
        adapters = [one for one in wrapped.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(adapters, lr=options.learning_rate)

        def loss_of(batch: Any) -> Tensor:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=native_bfloat16(True)):
                return objective(model, batch)

        with fastest_attention(model, model.device):  # and number types, as `flowrank.heal` has them
            best, kept = held_out(loss_of, data), [one.detach().clone() for one in adapters]
            for step in range(options.steps):
                for group in optimizer.param_groups:
                    group["lr"] = options.learning_rate * min((step + 1) / options.warmup, 1 - step / options.steps)
                loss_of(data.training.batch(step)).backward()
                torch.nn.utils.clip_grad_norm_(adapters, options.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                if (step + 1) % options.eval_steps == 0 or step + 1 == options.steps:
                    loss = held_out(loss_of, data)
                    if loss < best:
                        best, kept = loss, [one.detach().clone() for one in adapters]
        with torch.no_grad():
            for one, value in zip(adapters, kept, strict=True):
                one.copy_(value)
        made = family_of(pipeline).pipeline_of(wrapped.merge_and_unload()["model"])
        made.recipe = copy.deepcopy(pipeline.recipe)
        return made


@torch.no_grad()
def held_out(loss_of: Callable[[Any], Tensor], data: HealingData) -> float:
    """Mean loss of the series that are not trained on."""
    sizes = [len(next(iter(batch.values()))) for batch in data.held_out]
    return float(np.average([float(loss_of(batch)) for batch in data.held_out], weights=sizes))


Heads = dict[tuple[str, int], tuple[Tensor, Tensor]]
"""Both factors (width, d) of a product of two matrices, by layer and head."""


def products(pipeline: Any) -> dict[str, Heads]:
    """Factors of W_Q W_Kᵀ and W_O W_V of every head that scores more than one key."""
    found: dict[str, Heads] = {"QK": {}, "VO": {}}
    for layer in anatomy_of(pipeline.inner_model).attention:
        if layer.single_key or layer.merged:
            continue
        q, k = (one.weight.split(list(layer.query_widths)) for one in (layer.query, layer.key))
        v, o = (one.split(list(layer.value_widths)) for one in (layer.value.weight, layer.output.weight.T))
        for place, head in enumerate(layer.active):
            found["QK"][layer.name, head] = q[place], k[place]
            found["VO"][layer.name, head] = o[place], v[place]
    return found


def spectrum(left: Tensor, right: Tensor) -> Spectrum:
    """Singular values of the product of two factors, which are no more than its rank."""
    (_, first), (_, second) = (torch.linalg.qr(one.T) for one in (left, right))
    return Spectrum.of(first @ second.T)


def ranks(pipeline: Any, base: dict[str, Heads]) -> dict[str, float]:
    """Mean ranks of both products over the heads of ``base``, and how far they are from those there."""
    told: dict[str, float] = {}
    for name, heads in products(pipeline).items():
        count = len(base[name])
        spectra = [spectrum(*factors) for factors in heads.values() if all(one.numel() for one in factors)]
        for epsilon in EPSILONS:
            told[f"{name} rank {epsilon:g}"] = sum(one.epsilon_rank(epsilon) for one in spectra) / count
        told[f"{name} effective"] = sum(one.effective_rank for one in spectra) / count
        apart = size = 0.0
        for where, (left, right) in base[name].items():
            product = left.T @ right
            mine = heads.get(where)
            other = mine[0].T @ mine[1] if mine is not None else torch.zeros_like(product)
            apart, size = apart + float((other - product).square().sum()), size + float(product.square().sum())
        told[f"{name} change"] = (apart / size) ** 0.5
    return told


class Study:
    """All orders of compression and fine-tuning on one data set."""

    def __init__(self, name: str, pipeline: Any, rows: Rows, work: Path, settings: argparse.Namespace) -> None:
        self.name, self.pipeline, self.rows, self.work, self.settings = name, pipeline, rows, work, settings
        self.scores = Scores(settings.data, settings.backtests, settings.max_series, names=[name])
        backtest = self.scores.backtests[name]
        series = [one.target[: backtest.cuts(len(one))[0]] for one in read_series(self.scores.datasets[name])]
        least = 3 * backtest.prediction_length  # a context, a target and what chooses the best weights
        histories = [np.asarray(one, dtype=np.float32) for one in series if len(one) >= least]
        self.tuned = Tuned(histories, backtest.prediction_length, settings)
        self.heads = products(pipeline)
        rows.row(f"{name} base", lambda: self._row("as it is", pipeline, None))

    def run(self) -> None:
        """Every row that is not there yet."""
        for ratio in self.settings.ratios:
            self._scored(f"compressed {ratio:g}", lambda ratio=ratio: self._compressed(None, ratio))
        for mode in self.settings.modes:
            self._scored(f"{mode} tuned", lambda mode=mode: self._tuned(mode, None))
            for ratio in self.settings.ratios:
                self._scored(f"{mode} tuned, compressed {ratio:g}", lambda m=mode, r=ratio: self._compressed(m, r))
                self._scored(f"compressed {ratio:g}, {mode} tuned", lambda m=mode, r=ratio: self._tuned(m, r))

    def _scored(self, how: str, make: Callable[[], Any]) -> None:
        self.rows.row(f"{self.name} {how}", lambda: self._row(how, make(), self.rows[f"{self.name} base"]))

    def _row(self, how: str, pipeline: Any, base: dict[str, Any] | None) -> dict[str, Any]:
        scores = self.scores.of(pipeline).loc[self.name]
        told = {name: float(scores[name]) for name in METRICS}
        over = {name: value / base["scores"][name] if base else 1.0 for name, value in told.items()}
        return {"data set": self.name, "how": how, **over, **ranks(pipeline, self.heads), "scores": told}

    def _compressed(self, mode: str | None, ratio: float) -> Any:
        """The model, fine-tuned before or not, compressed."""
        settings = self.settings
        own = {"series": self.tuned.histories} if settings.calibration == "own" else {}

        def make() -> Any:
            parent = self.pipeline if mode is None else self._tuned(mode, None)
            return flowrank.compress(parent, JointHeads(Budget(ratio)), seed=settings.seed, **own)

        return self._kept(f"{mode or 'un'}tuned-compressed-{ratio:g}", make)

    def _tuned(self, mode: str, ratio: float | None) -> Any:
        """The model, compressed before or not, fine-tuned."""
        name = f"{mode}-tuned" if ratio is None else f"compressed-{ratio:g}-{mode}-tuned"

        def make() -> Any:
            start = self.pipeline if ratio is None else self._compressed(None, ratio)
            return self.tuned(start, mode, self.work / f"{self.name}-{name}.training")

        return self._kept(name, make)

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        folder = self.work / f"{self.name}-{name}"
        if not (folder / "config.json").exists():
            make().save_pretrained(folder)
        return flowrank.load(folder, dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    add_data(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, apart by their options")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.237, 0.15])
    parser.add_argument("--modes", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--eval-steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32, help="series a step")
    parser.add_argument("--rate-full", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--rate-lora", type=float, default=1e-3)
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--calibration", choices=["synthetic", "own"], default="synthetic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    pipeline = flowrank.load(settings.model, dtype=torch.float32)
    chosen = {name: getattr(settings, name) for name in OPTIONS}
    what = {**identity(settings.model, pipeline), **chosen}
    trained = json.dumps({name: value for name, value in what.items() if name != "max_series"})
    work = settings.work / f"{what['model']}-{hashlib.sha256(trained.encode()).hexdigest()[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    rows = Rows(settings.output, what)
    for name in settings.sets:
        Study(name, pipeline, rows, work, settings).run()
    shown = pd.DataFrame(list(rows)).drop(columns=["key", "scores"])
    print(f"\nWQL and MASE over the model's own, ranks a head\n\n{shown.round(3).to_string(index=False)}")


if __name__ == "__main__":
    main()
