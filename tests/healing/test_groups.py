"""Models that read series in groups are healed on groups, unless they promise to read none."""

from __future__ import annotations

import numpy as np

import flowrank
from flowrank import Healing, Uniform, WeightSVD
from flowrank.healing.data import HealingData
from flowrank.nn.shapes import Shapes
from flowrank.pretraining.probe import seasonal_probe

OPTIONS = Healing(steps=12, batch=16, eval_series=16, lengths=(64,))


def test_a_model_that_reads_groups(chronos2_folder):
    """On tasks, or on the user's series one by one."""
    parent = flowrank.load(chronos2_folder)
    child = flowrank.compress(parent, WeightSVD(Uniform(0.3)), calibration_series=16)
    walks = np.random.default_rng(0).standard_normal((8, 120)).cumsum(axis=1)
    for series in (None, list(walks)):
        account = flowrank.heal(child, parent, OPTIONS, series=series).recipe["healing"]
        assert account["loss_after"] < account["loss_before"]


def test_a_model_that_promises_single_series_is_healed_on_them(chronos2_folder):
    """Its parent must not teach it what it cannot read."""
    child = flowrank.load(chronos2_folder)
    grouped = HealingData.read(child, OPTIONS).training.batch(0)
    assert len(set(grouped["group_ids"].tolist())) < 16
    child.inner_model.config.flowrank = Shapes(univariate=True).to_dict()
    batch = HealingData.read(child, OPTIONS).training.batch(0)
    assert batch["group_ids"].tolist() == list(range(16))
    assert batch["future_covariates"].isnan().all()


def test_the_probe_asks_such_a_model_too(chronos2_folder):
    errors = seasonal_probe(flowrank.load(chronos2_folder), [4], count=5, length=64, horizon=8)
    assert 0 < errors[4] < 100
