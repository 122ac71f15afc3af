"""Too little calibration data is completed, up to a number that the layers' widths give."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import flowrank
from flowrank import Budget, CalibrationWarning, InputSVD, JointHeads, Uniform, WeightSVD, WholeModel
from flowrank.compression.coverage import LEAST_SERIES, covered, tokens_in, tokens_needed
from flowrank.family import family_of
from flowrank.measure.calibration import Calibration
from tests.families.test_chronos_bolt_engine import random_bolt
from tests.families.test_chronos_t5_engine import random_t5

BUDGET = Budget(0.25)


@pytest.fixture(scope="module")
def mini():
    return flowrank.load("flow-bolt-mini")


def weeks(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    """Series of one clean week."""
    generator = torch.Generator().manual_seed(seed)
    return [
        10 + torch.sin(2 * torch.pi * torch.arange(n) / 7) + 0.1 * torch.randn(n, generator=generator) for n in lengths
    ]


def rank_of_decoder_heads(family, contexts) -> int:
    """Least rank that second moments of the outputs of the decoder's cross-attention heads have."""
    from flowrank.measure import head_moments

    moments = head_moments(family, contexts)
    grams = torch.cat([moments[site.name].outputs.sum for site in family.sites if site.kind == "cross"])
    return int(torch.linalg.matrix_rank(grams, hermitian=True).min())


class TestNeeds:
    """How many tokens a method needs follows from the widths of the model."""

    @pytest.mark.parametrize(
        ("method", "needed"),
        [
            (JointHeads(BUDGET), 2 * 6),
            (InputSVD(BUDGET), 24),
            (WholeModel(BUDGET), 16),
            (WholeModel(BUDGET, parts=("heads",)), 12),
            (WeightSVD(BUDGET), 0),
        ],
    )
    def test_widths_of_a_tiny_model(self, method, needed):
        assert tokens_needed(method, family_of(random_bolt())) == {"encoder": needed, "decoder": needed}

    def test_tokens_are_those_that_the_model_sees(self, mini):
        series = [torch.rand(160), torch.cat([torch.full((32,), torch.nan), torch.rand(32)])]
        assert tokens_in(family_of(mini), series) == {"encoder": 10 + 1 + 2 + 1, "decoder": 2}
        family = family_of(random_t5())
        one = torch.rand(30)
        logits = family.run([one])
        assert tokens_in(family, [one])["decoder"] == logits.shape[1]
        assert tokens_in(family, [one])["encoder"] == int(family.attention_mask([one]).sum())

    def test_fewer_series_leave_directions_of_a_head_unseen(self, mini):
        """The reason: a decoder of one token sees no more directions than there are series."""
        family = family_of(mini)
        assert rank_of_decoder_heads(family, Calibration.read(None, count=16).contexts) <= 16
        enough = covered(JointHeads(BUDGET), family, None, count=16, points=512, seed=0).contexts
        assert rank_of_decoder_heads(family, enough) == 32


class TestCompletion:
    """Series are added, the user is told, and the recipe has it."""

    def test_synthetic_series_go_on_where_they_ended(self, mini):
        with pytest.warns(CalibrationWarning, match=r"16 calibration series .* 48 synthetic"):
            found = covered(JointHeads(BUDGET), family_of(mini), None, count=16, points=128, seed=3)
        whole = Calibration.read(None, count=64, points=128, seed=3).contexts
        assert len(found.contexts) == len(whole) == 64
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(found.contexts, whole, strict=True))

    def test_own_series_are_kept_and_come_in_turns(self, mini):
        with pytest.warns(CalibrationWarning, match=r"3 calibration series \(list\) .* 61 synthetic"):
            child = flowrank.compress(mini, JointHeads(BUDGET), series=weeks(150, 200, 90))
        about = child.recipe["calibration"]
        assert (about["series"], about["own"]) == (64, 3)
        assert about["source"] == "list; synthetic, seed 0"

    def test_cases_that_need_none_are_silent(self, mini):
        family, many = family_of(mini), weeks(*[100] * 64)
        with warnings.catch_warnings():
            warnings.simplefilter("error", CalibrationWarning)
            own = covered(JointHeads(BUDGET), family, many, count=None, points=512, seed=0)
            assert len(own.contexts) == len(own.own) == 64
            assert len(covered(JointHeads(BUDGET), family, None, count=64, points=512, seed=0).contexts) == 64
            assert len(covered(JointHeads(BUDGET), family, None, count=None, points=512, seed=0).contexts) == 512
            assert covered(WeightSVD(Uniform(0.5)), family, many[:1], count=1, points=512, seed=0).contexts == []

    def test_a_default_that_is_too_few_for_a_wide_model_is_completed_without_a_word(self):
        wide = family_of(random_bolt(d_model=600))
        with warnings.catch_warnings():
            warnings.simplefilter("error", CalibrationWarning)
            assert len(covered(InputSVD(BUDGET), wide, None, count=None, points=32, seed=0).contexts) == 600

    def test_tokens_of_one_series_are_much_alike(self):
        family = family_of(random_t5())
        with pytest.warns(CalibrationWarning):
            found = covered(JointHeads(BUDGET), family, weeks(60), count=None, points=64, seed=0)
        assert tokens_in(family, weeks(60))["decoder"] > tokens_needed(JointHeads(BUDGET), family)["decoder"]
        assert len(found.contexts) == LEAST_SERIES

    def test_short_series_are_completed_too(self, mini):
        """Short points: one patch a series, so that the encoder is what lacks tokens."""
        with pytest.warns(CalibrationWarning):
            found = covered(WholeModel(BUDGET), family_of(mini), None, count=8, points=16, seed=0)
        assert tokens_in(family_of(mini), found.contexts)["decoder"] == 256
        lengths = np.array([len(one) for one in found.contexts])
        assert (lengths <= 16).all()
