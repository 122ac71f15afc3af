"""Chronos-2 pipelines: chronos-forecasting's own verbs, faster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from chronos.chronos2 import Chronos2Model, Chronos2Pipeline
from torch import Tensor

from flowrank.engine.paths import Inference
from flowrank.errors import FlowrankError
from flowrank.families.chronos2.engine import Chronos2Engine, Inputs
from flowrank.families.chronos2.graph import Chronos2GraphEngine
from flowrank.families.chronos2.tuning import Tuning, fine_tuned
from flowrank.family import FlowrankPipeline
from flowrank.nn.shapes import Shapes


class FlowrankChronos2Pipeline(FlowrankPipeline, Chronos2Pipeline):
    """A Chronos-2 pipeline, dense or compressed."""

    def __init__(self, model: Chronos2Model) -> None:
        super().__init__(model)
        self.inference = Inference(Chronos2Engine, Chronos2GraphEngine)

    @property
    def univariate(self) -> bool:
        """Whether the model reads series one by one: it takes neither several targets nor covariates."""
        return Shapes.of(self.model.config).univariate

    @property
    def takes_groups(self) -> bool:
        """Whether the model reads several targets and covariates together."""
        return not self.univariate

    def predict(
        self,
        inputs: Any,
        prediction_length: int | None = None,
        batch_size: int = 256,
        context_length: int | None = None,
        cross_learning: bool = False,
        limit_prediction_length: bool = False,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Forecast quantiles, as ``Chronos2Pipeline.predict`` does.

        Parameters
        ----------
        inputs
            A batch (series, variates, time); a list of series (time,) or (variates, time); or a list of dictionaries
            with ``target``, ``past_covariates`` and ``future_covariates``.
        prediction_length
            H; None: the furthest that the model was trained for. Beyond it, nine quantiles go on as paths.
        batch_size
            Rows (targets and covariates) that go through the model together.
        context_length
            Last points of each series that are read.
        cross_learning
            Whether all series of a batch are one group: a forecast then depends on its batch.
        limit_prediction_length
            Whether to refuse what lies beyond the model's own horizon.
        **kwargs
            ``max_output_patches``, ``unrolled_quantiles`` and ``after_batch``, as there.

        Returns
        -------
        list of Tensor
            For each input, shape (targets, quantiles, H), fp32, on the CPU.

        Raises
        ------
        FlowrankError
            If the model reads single series and is given several variates, covariates or ``cross_learning``; if a
            group of series does not fit into a ``memory_budget`` that was set.
        ValueError
            If chronos-forecasting refuses the inputs.
        """
        if self.univariate:
            _refuse_groups(inputs, cross_learning or bool(kwargs.get("predict_batches_jointly")))
        return super().predict(
            inputs, prediction_length, batch_size, context_length, cross_learning, limit_prediction_length, **kwargs
        )

    def embed(
        self, inputs: Any, batch_size: int = 256, context_length: int | None = None
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Encode series, as ``Chronos2Pipeline.embed`` does, by the stock code path.

        Parameters
        ----------
        inputs
            A batch (series, variates, time), or a list of series (time,) or (variates, time).
        batch_size
            Rows that go through the model together.
        context_length
            Last points of each series that are read.

        Returns
        -------
        embeddings
            For each input, shape (variates, patches + 2, d): patches, the register token and a patch ahead.
        loc_scale
            Level and scale of each input's variates.

        Raises
        ------
        FlowrankError
            If the model reads single series and is given several variates.
        """
        if self.univariate:
            _refuse_groups(inputs, False)
        return super().embed(inputs, batch_size, context_length)

    def fit(
        self,
        inputs: Any,
        prediction_length: int,
        validation_inputs: Any = None,
        finetune_mode: Literal["full", "lora"] = "full",
        lora_config: Any = None,
        context_length: int | None = None,
        learning_rate: float = 1e-6,
        num_steps: int = 1000,
        batch_size: int = 256,
        output_dir: str | Path | None = None,
        min_past: int | None = None,
        finetuned_ckpt_name: str = "finetuned-ckpt",
        callbacks: list[Any] | None = None,
        remove_printer_callback: bool = False,
        disable_data_parallel: bool = True,
        *,
        overwrite: bool = False,
        **extra_trainer_kwargs: Any,
    ) -> FlowrankChronos2Pipeline:
        """Fine-tune a copy of the model, dense or compressed, as ``Chronos2Pipeline.fit`` does.

        Needs ``pip install "flowrank[finetune]"``.

        Parameters
        ----------
        inputs
            Series, as `predict` takes them; values of covariates known ahead are cut from their past.
        prediction_length
            H to train for.
        validation_inputs
            Series by which the best weights are chosen; None: the last ones are kept.
        finetune_mode
            "full" trains all weights. "lora" trains small matrices beside the attention layers, or beside the factors
            of these, and adds them to the weights in the end.
        lora_config
            A ``peft.LoraConfig`` or a dictionary for one; None: rank 8.
        context_length
            Last points that are read; None: the model's own.
        learning_rate, num_steps, batch_size
            Of the optimiser. A batch is so many rows, targets and covariates.
        output_dir
            Folder of the trainer; None: one in ``chronos-2-finetuned`` named after the time.
        min_past
            Points of context at least; None: H.
        finetuned_ckpt_name
            Name of the result's folder in ``output_dir``.
        callbacks, remove_printer_callback, disable_data_parallel
            As there.
        overwrite
            Whether an earlier result may be replaced.
        **extra_trainer_kwargs
            Of ``transformers.TrainingArguments``.

        Returns
        -------
        FlowrankChronos2Pipeline
            The new model, fp32, of the same shape. Its ``recipe["finetuning"]`` holds the settings, and `flowrank.load`
            opens its folder.

        Raises
        ------
        FlowrankError
            If the model is of 8-bit integers, or reads single series and is given others; if the result's folder
            exists; if ``peft`` or ``accelerate`` is missing; if an option is none.
        ValueError
            If chronos-forecasting refuses the inputs.

        Examples
        --------
        >>> import flowrank
        >>> pipeline = flowrank.load("amazon/chronos-2")  # doctest: +SKIP
        >>> tuned = pipeline.fit([torch.arange(400.0)], prediction_length=24, num_steps=10)  # doctest: +SKIP
        """
        if self.univariate:
            for given in (inputs, validation_inputs):
                _refuse_groups(() if given is None else given, False)
        options = Tuning(
            prediction_length=prediction_length,
            finetune_mode=finetune_mode,
            lora_config=lora_config,
            context_length=context_length,
            learning_rate=learning_rate,
            num_steps=num_steps,
            batch_size=batch_size,
            output_dir=output_dir,
            min_past=min_past,
            finetuned_ckpt_name=finetuned_ckpt_name,
            callbacks=callbacks,
            remove_printer_callback=remove_printer_callback,
            disable_data_parallel=disable_data_parallel,
            extra=extra_trainer_kwargs,
        )
        return fine_tuned(self, super().fit, inputs, validation_inputs, options, overwrite=overwrite)

    def _predict_step(
        self, context: Tensor, group_ids: Tensor, future_covariates: Tensor | None, num_output_patches: int
    ) -> Tensor:
        """Quantiles (series, quantiles, time) of so many output patches."""
        engine = self.inference.engine_for(self.model)
        if engine is None or num_output_patches < 1:  # chronos-forecasting refuses to forecast nothing
            return super()._predict_step(context, group_ids, future_covariates, num_output_patches)
        future = future_covariates
        if future is not None and (future.shape[1] == 0 or bool(future.isnan().all())):
            future = None
        inputs = Inputs(context.float(), group_ids, future)
        return engine.quantiles(inputs, num_output_patches, memory_budget=self.memory_budget).to(context)


def _refuse_groups(inputs: Any, cross_learning: bool) -> None:
    """Refuse what a model that reads single series would ignore."""
    found = "cross_learning=True" if cross_learning else _several(inputs)
    if found is not None:
        raise FlowrankError(
            "inputs",
            expected="single series without covariates: this model was compressed for those (univariate=True)",
            found=found,
            todo="forecast each target alone, or use the parent or a child compressed without univariate=True",
        )


def _several(inputs: Any) -> str | None:
    """What of some inputs is more than single series; None: nothing."""
    if isinstance(inputs, torch.Tensor) or hasattr(inputs, "shape"):
        shape = tuple(inputs.shape)
        return f"a batch with {shape[1]} variates" if len(shape) == 3 and shape[1] > 1 else None
    for place, one in enumerate(inputs):
        if isinstance(one, Mapping):
            given = [
                key for key in ("past_covariates", "future_covariates") if one.get(key) is not None and len(one[key])
            ]
            if "target" in one and given:
                return f"{' and '.join(given)} at index {place}"
            rows = one.get("context", one.get("target"))
            if rows is not None and _count(rows) > 1:
                return f"{_count(rows)} variates at index {place}"
        elif hasattr(one, "shape") and _count(one) > 1:
            return f"{_count(one)} variates at index {place}"
    return None


def _count(rows: Any) -> int:
    """Series in an array of shape (time,) or (series, time), or in lists that are one."""
    shape = np.shape(rows)
    return int(shape[0]) if len(shape) == 2 else 1
