"""What forecasting asks of a pipeline, whichever family it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from flowrank.errors import FlowrankError
from flowrank.forecasting.corrections import Corrections
from flowrank.forecasting.levels import DEFAULT_LEVELS
from flowrank.forecasting.scale import Moderated
from flowrank.randomness import seeded

if TYPE_CHECKING:
    from chronos import BaseChronosPipeline

LEAST_ROWS = 8
"""Rows of a batch at least, where no forecast may depend on the others: BLAS takes another way for one to three."""
_FURTHEST = 0.001  # beyond the trained levels, quantiles are extended so far and no further


class Model:
    """A pipeline with the levels that are wanted of it.

    Parameters
    ----------
    pipeline
        Any chronos-forecasting pipeline.
    levels
        Increasing, in (0, 1).
    corrections
        Of `flowrank.forecasting.corrections`; ``tails`` and ``long_horizon`` are done here.
    predict_kwargs
        More arguments for ``predict_quantiles``.

    Raises
    ------
    FlowrankError
        If a level is beyond what the model's quantiles or its number of sample paths can tell.
    """

    def __init__(
        self,
        pipeline: BaseChronosPipeline,
        levels: list[float],
        corrections: Corrections,
        predict_kwargs: dict[str, Any],
    ) -> None:
        self._pipeline = pipeline
        self._levels = levels
        self._predict_kwargs = predict_kwargs
        self.subtracts_mean = pipeline.forecast_type.name == "QUANTILES"
        self.context_length = int(pipeline.model_context_length)
        self.reach = int(pipeline.model_prediction_length)
        self.noise_by_series = getattr(pipeline, "path", "stock") != "stock"
        known = _family_of(pipeline) or pipeline  # an exported model tells the same of itself
        self.input_step: float | None = getattr(known, "input_step", None)
        self._keeps_spread = (
            corrections.long_horizon
            and getattr(pipeline, "takes_keep_spread", False)
            and (self.noise_by_series or self.subtracts_mean)
        )
        if "num_samples" in predict_kwargs and self.subtracts_mean:
            raise FlowrankError(
                "num_samples",
                expected="a model that draws sample paths",
                found=f"{getattr(pipeline, 'name', type(pipeline).__name__)!r}, which gives quantiles at once",
                todo="leave the option out",
            )
        paths = predict_kwargs.get("num_samples") or getattr(known, "sample_paths", None)
        self._asked = levels
        self._trained: list[float] = []  # where quantiles go on beyond them
        trained = getattr(pipeline, "quantiles", None) if self.subtracts_mean else None
        if corrections.tails and trained and not trained[0] <= levels[0] <= levels[-1] <= trained[-1]:
            self._check_reachable(trained)
            self._trained = list(trained)
            inside = [level for level in levels if trained[0] <= level <= trained[-1]]
            self._asked = sorted({*inside, *trained})
        elif corrections.tails and paths:
            self._check_paths(paths)

    def _check_reachable(self, trained: Sequence[float]) -> None:
        for level in (self._levels[0], self._levels[-1]):
            if not _FURTHEST <= level <= 1 - _FURTHEST:
                raise FlowrankError(
                    "quantile_levels",
                    expected=f"levels from {_FURTHEST} to {1 - _FURTHEST}, as the model was trained on "
                    f"{trained[0]} to {trained[-1]}",
                    found=level,
                    todo="ask for a level nearer to the trained ones",
                )

    def _check_paths(self, paths: int) -> None:
        for level in (self._levels[0], self._levels[-1]):
            needed = int(np.ceil(round(1 / min(level, 1 - level), 6)))
            if needed > paths and not DEFAULT_LEVELS[0] <= level <= DEFAULT_LEVELS[-1]:
                raise FlowrankError(
                    "quantile_levels",
                    expected=f"levels that {paths} sample paths can tell, {1 / paths:.3g} to {1 - 1 / paths:.3g}",
                    found=level,
                    todo=f'draw {needed} or more (--num-samples {needed}, predict_kwargs={{"num_samples": {needed}}})',
                )

    def check_noise_by_series(self) -> None:
        """Refuse an engine by which a forecast depends on those of its batch."""
        if not self.noise_by_series and not self.subtracts_mean:
            raise FlowrankError(
                "batch_invariant",
                expected="an engine that draws the noise of each series by itself",
                found="the stock engine, which draws that of a whole batch",
                todo='take another (engine="exact", --engine exact)',
            )

    @staticmethod
    @contextmanager
    def one_library() -> Iterator[None]:
        """Within the block torch multiplies by one library, of whose products no row depends on the others."""
        import torch

        before = torch.backends.mkldnn.set_flags(_enabled=False)[0]
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(_enabled=before)

    def predict(
        self, histories: Sequence[Moderated], horizon: int, seed: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return quantiles ``(batch, horizon, levels)`` and point forecasts ``(batch, horizon)``, float64."""
        import torch

        batch = np.full((len(histories), max(len(one.values) for one in histories)), np.nan)
        for row, one in zip(batch, histories, strict=True):
            row[len(row) - len(one.values) :] = one.values
        further = {"keep_spread": True} if self._keeps_spread and horizon > self.reach else {}
        with self._seeded(seed) as options:
            quantiles, mean = quantiles_of(
                self._pipeline,
                torch.from_numpy(batch).to(torch.float32),
                **self._options(horizon, {**further, **options}),
            )
        found, points = self._sorted(quantiles), mean.double().cpu().numpy()
        restored = [
            (one.restored(quantile), one.restored(point))
            for one, quantile, point in zip(histories, found, points, strict=True)
        ]
        return np.stack([quantile for quantile, _ in restored]), np.stack([point for _, point in restored])

    def predict_groups(
        self, inputs: Sequence[Mapping[str, Any]], horizon: int, seed: tuple[int, int], **further: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return quantiles ``(targets, horizon, levels)`` and point forecasts ``(targets, horizon)`` for each input.

        Inputs are dictionaries of ``target``, ``past_covariates`` and ``future_covariates``, as chronos-forecasting's
        pipelines of several variates take them; ``further`` are more arguments of ``predict_quantiles``.
        """
        with self._seeded(seed) as options:
            quantiles, means = self._pipeline.predict_quantiles(
                list(inputs), **self._options(horizon, {**further, **options})
            )
        import torch

        pairs = zip(map(torch.as_tensor, quantiles), map(torch.as_tensor, means), strict=True)
        return [(self._sorted(one), mean.double().cpu().numpy()) for one, mean in pairs]

    def _seeded(self, seed: tuple[int, int]) -> Any:
        return seeded(self._pipeline, int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def _options(self, horizon: int, further: dict[str, Any]) -> dict[str, Any]:
        return dict(prediction_length=horizon, quantile_levels=self._asked, **further, **self._predict_kwargs)

    def _sorted(self, quantiles: Any) -> np.ndarray:
        """Quantiles at the wanted levels, rising, float64."""
        found: np.ndarray = self._with_tails(quantiles.double().cpu().sort(dim=-1).values).numpy()
        return found

    def _with_tails(self, quantiles: Any) -> Any:
        """Quantiles at all wanted levels from those at the levels that were asked for, both rising."""
        import torch

        from flowrank.engine.quantiles import extended

        if not self._trained:
            return quantiles
        columns = []
        for level in self._levels:
            if level in self._asked:
                columns.append(quantiles[..., self._asked.index(level)])
            else:
                known = self._trained[:2] if level < self._trained[0] else self._trained[-2:]
                pair = quantiles[..., [self._asked.index(one) for one in known]]
                columns.append(extended(pair, known, [level])[..., 0])
        return torch.stack(columns, dim=-1)


def quantiles_of(pipeline: Any, batch: Any, **options: Any) -> tuple[Any, Any]:
    """Quantiles (series, H, levels) and point forecasts (series, H) of single series, whatever the pipeline gives.

    Parameters
    ----------
    pipeline
        Any chronos-forecasting pipeline; those of series with several variates give a list of tensors.
    batch
        Shape (series, time), NaN on the left of shorter ones.
    **options
        Of ``predict_quantiles``.
    """
    import torch

    quantiles, mean = pipeline.predict_quantiles(list(batch), **options)
    if isinstance(quantiles, list):  # a tensor (variates, …) for each series
        first = ([torch.as_tensor(one[0]) for one in many] for many in (quantiles, mean))
        return tuple(map(torch.stack, first))  # type: ignore[return-value]
    return torch.as_tensor(quantiles), torch.as_tensor(mean)  # exported models give numpy's arrays


def _family_of(pipeline: Any) -> Any:
    """View of a pipeline, where its family is known."""
    from flowrank.family import family_of

    try:
        return family_of(pipeline)
    except FlowrankError:
        return None
