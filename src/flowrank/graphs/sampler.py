"""An exported model of sample paths: the verbs of a Chronos-T5 pipeline, on numpy arrays, without torch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowrank.errors import check_count
from flowrank.graphs.model import LEVELS, ExportedModel, ForecastType, batch_of, check_levels


class ExportedSampler(ExportedModel):
    """A model of sample paths that `flowrank.export` wrote, opened; its other attributes are those of `ExportedModel`.

    Attributes
    ----------
    forecast_type
        Samples.
    takes_seed
        ``predict`` takes ``seed``.
    """

    forecast_type = ForecastType.SAMPLES
    takes_seed = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        centres = self._graph.tokens.centres
        self.input_step, self.sample_paths = float(centres[1] - centres[0]), self._graph.tokens.samples

    def predict(  # type: ignore[override]
        self,
        inputs: Any,
        prediction_length: int | None = None,
        num_samples: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit_prediction_length: bool = False,
        *,
        seed: int | None = None,
        keep_spread: bool = False,
    ) -> np.ndarray:
        """Draw sample paths; None: what the model's config says.

        A series' paths depend on its values and on the seed alone, not on the batch that it comes in. They are those of
        the model itself for the same seed, but for tokens on which rounding decides.

        Parameters
        ----------
        inputs
            A series (time,), a list of such, or a batch (series, time), NaN where nothing was observed and on the left
            of shorter ones.
        prediction_length
            H. What lies beyond the model's own horizon is forecast in blocks, see ``keep_spread``.
        num_samples
            S, paths a series.
        temperature, top_k, top_p
            Of sampling, see `flowrank.graphs.tokens.Draws`.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.
        seed
            Whole number ≥ 0. None: another one each time.
        keep_spread
            How the blocks beyond it go on. False, as chronos-forecasting does: after the median of the paths, with a
            narrower band. True: after each path for itself.

        Returns
        -------
        ndarray
            Shape (series, S, H), fp32.

        Raises
        ------
        FlowrankError
            If ``inputs`` are no series of numbers, a number makes no sense, or the horizon is larger than allowed.
        """
        horizon = self._horizon(prediction_length, limit_prediction_length)
        tokens = self._graph.tokens
        found: np.ndarray = self._graph.predict(
            batch_of(inputs),
            horizon,
            paths=check_count(tokens.samples if num_samples is None else num_samples, "num_samples"),
            draws=tokens.draws(temperature, top_k, top_p),
            seed=secrets.randbits(62) if seed is None else check_count(seed, "seed", 0),
            keep_spread=keep_spread,
            memory_budget=self.memory_budget,
        )
        return found

    def predict_quantiles(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] = LEVELS,
        limit_prediction_length: bool = False,
        **options: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of the sample paths at any levels, and their mean.

        Parameters
        ----------
        inputs, prediction_length, limit_prediction_length
            As of `predict`.
        quantile_levels
            Levels in (0, 1).
        **options
            ``num_samples``, ``temperature``, ``top_k``, ``top_p``, ``seed`` and ``keep_spread``, as of `predict`.

        Returns
        -------
        quantiles, mean
            Shapes (series, H, levels) and (series, H).

        Raises
        ------
        FlowrankError
            As of `predict`; and if a level is not between 0 and 1.
        """
        check_levels(quantile_levels)
        paths = self.predict(inputs, prediction_length, limit_prediction_length=limit_prediction_length, **options)
        quantiles = np.quantile(paths, list(quantile_levels), axis=1)
        return np.moveaxis(quantiles, 0, -1).astype(np.float32), paths.mean(axis=1)
