"""Examples are cut where they should be, batches depend on their number only, and shares are kept."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from chronos import ChronosConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import DataLoader

from flowrank.errors import FlowrankError
from flowrank.pretraining.cutting import cut
from flowrank.pretraining.store import SeriesStore
from flowrank.pretraining.windows import TRAINING, VALIDATION, Windows, collate
from flowrank.synthetic.mixture import SHARES, Mixture
from tests.conftest import T5_TOKENS

CLEAN = {"clean_season": 1.0}
FAMILIES = pytest.mark.parametrize("family", ["bolt", "t5"])
NAN = float("nan")


def expected_cut(values: list[float], length: int, horizon: int, most_missing: float):
    """What the documentation says, one value at a time; None where it cannot teach."""
    while values and math.isnan(values[0]):
        values = values[1:]
    if not values:
        return None
    ahead = min(horizon, max(1, len(values) // 3, len(values) - length))
    past, future = values[:-ahead], values[-ahead:]
    past = past[max(0, len(past) - length) :]
    seen = [value for value in past if not math.isnan(value)]
    if len(seen) < 3 or len(seen) < (1 - most_missing) * len(past) or min(seen) == max(seen):
        return None
    scale = math.fsum(abs(value) for value in seen) / len(seen)
    mean = math.fsum(seen) / len(seen)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in seen) / len(seen))
    target = [value / scale if abs(value - mean) <= 15 * spread else NAN for value in future]
    if all(math.isnan(value) for value in target):
        return None
    context = [NAN] * (length - len(past)) + [value / scale for value in past]
    return context, target + [NAN] * (horizon - ahead)


@given(
    values=arrays.arrays(
        np.float64, st.integers(1, 40), elements=st.sampled_from([NAN, NAN, 0.0, 1.0, -1.5, 2.0, 3.25, 100.0, 1e4])
    ),
    length=st.integers(4, 20),
    horizon=st.integers(1, 12),
    most_missing=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
)
@settings(max_examples=400)
def test_cut_is_what_the_documentation_says(values, length, horizon, most_missing):
    got = cut(values, length, horizon, most_missing=most_missing)
    expected = expected_cut(values.tolist(), length, horizon, most_missing)
    assert (got is None) == (expected is None)
    if got is not None:
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@given(
    count=st.integers(6, 60),
    missing=st.sets(st.integers(1, 59), max_size=3),
    length=st.integers(4, 30),
    horizon=st.integers(1, 12),
)
@settings(max_examples=200)
def test_context_ends_where_the_target_begins(count, missing, length, horizon):
    """Values tell their time, 100 + t: what is where is read off what came out."""
    values = 100.0 + np.arange(count)
    values[[place for place in missing if place < count]] = np.nan
    pair = cut(values, length, horizon, most_missing=1.0)
    if pair is None:
        return
    context, target = pair
    places = np.flatnonzero(~np.isnan(context))
    seen = context[places].astype(float)
    assert np.abs(seen).mean() == pytest.approx(1, rel=1e-5)
    slope = (seen[-1] - seen[0]) / (places[-1] - places[0])  # one step of time
    times = seen / slope - 100
    np.testing.assert_allclose(times - times[0], places - places[0], atol=0.05)
    begin = round(float(times[-1])) + length - places[-1]  # the value after the context's last, seen or not
    ahead = np.flatnonzero(~np.isnan(target))
    np.testing.assert_allclose(target[ahead] / slope - 100, begin + ahead, atol=0.1)
    past = values[max(0, begin - length) : begin]
    near = np.abs(values[begin:] - np.nanmean(past)) <= 15 * np.nanstd(past)
    np.testing.assert_array_equal(ahead, np.flatnonzero(near))
    assert count - begin == min(horizon, max(count // 3, count - length))


def test_short_series_give_their_last_third():
    context, target = cut(1.0 + np.arange(12), 32, 16)
    assert np.isnan(context[:24]).all()
    np.testing.assert_allclose(context[24:], (1 + np.arange(8)) / 4.5, rtol=1e-6)
    np.testing.assert_allclose(target[:4], (9 + np.arange(4)) / 4.5, rtol=1e-6)
    assert np.isnan(target[4:]).all()


def test_missing_values_stay_in_place():
    values = np.array([NAN, NAN, 2, NAN, 4, 6, 4, 4, NAN, 8, 2, NAN])
    context, target = cut(values, 6, 4)
    np.testing.assert_allclose(context, [0.5, NAN, 1, 1.5, 1, 1])
    np.testing.assert_allclose(target, [NAN, 2, 0.5, NAN])


def test_targets_far_off_are_left_out():
    values = np.array([1.0, -1.0] * 8 + [14.9, 15.1, -14.9, -15.1])
    _, target = cut(values, 16, 4)
    np.testing.assert_allclose(target, [14.9, NAN, -14.9, NAN], rtol=1e-6)
    values[16:] = 16
    assert cut(values, 16, 4) is None


@pytest.mark.parametrize(
    "values",
    [
        [3.0] * 30,
        [NAN] * 30,
        [3.0] * 20 + list(range(10)),  # constant before the target
        [*range(20), *[NAN] * 10],  # nothing to forecast
        [1.0, *[NAN] * 18, 2.0, *[3.0] * 10],  # two observed
        [1.0],
    ],
)
def test_what_cannot_teach(values):
    assert cut(np.array(values, dtype=float), 20, 10) is None


def test_share_of_missing_values():
    """Of 20 values of context, 15 may be missing under a share of 0.75, and 16 may not."""
    for gone, share, used in ((15, 0.75, True), (16, 0.75, False), (0, 0.0, True), (1, 0.0, False), (17, 1.0, True)):
        values = np.arange(30.0)
        values[1 : 1 + gone] = np.nan
        assert (cut(values, 20, 10, most_missing=share) is not None) is used, (gone, share)


def test_integers_of_any_size_keep_their_ratios():
    for scale in (1e-12, 1.0, 1e15):
        context, target = cut(scale * np.array([1.0, 3, 2, 2, 4]), 4, 1)
        np.testing.assert_allclose([*context, *target], np.array([1, 3, 2, 2, 4]) / 2, rtol=1e-6)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(values.nan_to_num(-7.0), other[name].nan_to_num(-7.0)) for name, values in one.items()
    )


@FAMILIES
def test_batch_depends_on_its_number_only(recipe, family):
    one = Windows(recipe(family=family), batches=6)
    other = Windows(recipe(family=family, max_steps=99, d_model=32), batches=100)
    backwards = {number: other.batch(number) for number in reversed(range(6))}
    for number in range(6):
        assert same(one.batch(number), backwards[number])
    assert not any(same(a, b) for a, b in pairwise(one.batch(number) for number in range(6)))
    assert not same(one.batch(0), Windows(recipe(family=family, seed=1), batches=1).batch(0))


def test_examples_are_the_rows_of_their_batches(recipe):
    windows = Windows(recipe(), batches=3)
    assert len(windows) == 24
    for index in (23, 0, 8, 7, 16):
        whole = windows.batch(index // 8)
        assert same(windows[index], {name: values[index % 8] for name, values in whole.items()})
    assert same(collate(windows.__getitems__(list(range(8, 16)))), windows.batch(1))


@FAMILIES
def test_two_workers_give_what_none_gives(recipe, family):
    made = recipe(family=family)
    loaders = [
        DataLoader(Windows(made, batches=5), batch_size=8, collate_fn=collate, num_workers=workers)
        for workers in (0, 2)
    ]
    alone, together = (list(loader) for loader in loaders)
    assert len(alone) == len(together) == 5
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))
    assert all(same(one, Windows(made, batches=5).batch(number)) for number, one in enumerate(alone))


def test_training_and_validation_have_no_series_in_common(recipe):
    shares = {name: share for name, share in SHARES.items() if name != "tsmixup"}  # which copies rows of its own batch
    made = recipe(easy_steps=0, shares=shares)  # so that the curriculum makes no difference

    def rows(stream: int) -> set[bytes]:
        windows = Windows(made, batches=10, stream=stream)
        return {row.tobytes() for number in range(10) for row in np.concatenate(windows.arrays(number), axis=1)}

    training, validation = rows(TRAINING), rows(VALIDATION)
    assert len(training) == len(validation) == 80
    assert not training & validation


def test_always_usable(recipe):
    windows = Windows(recipe(per_device_train_batch_size=32, lengths=(5, 20, 64), prediction_length=15), batches=25)
    lengths = set()
    for number in range(25):
        context, target = windows.arrays(number)
        assert (len(context), target.shape) == (32, (32, 15))
        assert context.dtype == target.dtype == np.float32
        assert not np.isinf(context).any()
        assert not np.isinf(target).any()
        assert ((~np.isnan(context)).sum(axis=1) >= 3).all()
        assert (~np.isnan(target)).any(axis=1).all()
        np.testing.assert_allclose(np.nanmean(np.abs(context), axis=1), 1, rtol=1e-5)
        lengths.add(context.shape[1])
    assert lengths == {5, 20, 64}


def test_shorter_than_the_generator_makes(recipe):
    made = recipe(lengths=(4,), prediction_length=4, per_device_train_batch_size=64)
    context, target = Windows(made, batches=1).arrays(0)
    assert (context.shape, target.shape) == ((64, 4), (64, 4))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_lengths_are_drawn_with_their_probabilities(recipe, exponent):
    lengths, count = (8, 16, 32, 64), 600
    made = recipe(
        lengths=lengths, length_exponent=exponent, shares=CLEAN, per_device_train_batch_size=1, prediction_length=1
    )
    windows = Windows(made, batches=count)
    drawn = [windows.arrays(number)[0].shape[1] for number in range(count)]
    weights = np.array([1 / length**exponent for length in lengths])
    expected = count * weights / weights.sum()
    found = np.array([drawn.count(length) for length in lengths])
    assert ((found - expected) ** 2 / expected).sum() < 21.1  # χ² with 3 degrees of freedom: 1 in 10,000


@FAMILIES
def test_horizons_are_all_drawn(recipe, family):
    """A whole target is as if nothing was asked for, a short one has no end of sequence."""
    windows = Windows(recipe(family=family, horizons=(3, 16)), batches=40)
    target = "target" if family == "bolt" else "labels"
    lengths = [windows.batch(number)[target].shape[1] for number in range(40)]
    assert set(lengths) == {3, 16 + (family == "t5")}
    assert 8 < lengths.count(3) < 32
    assert [windows.arrays(number)[1].shape[1] for number in range(40)] == [min(length, 16) for length in lengths]
    if family == "t5":
        short = windows.batch(lengths.index(3))
        tokenizer = ChronosConfig(**T5_TOKENS).create_tokenizer()
        context, values = windows.arrays(lengths.index(3))
        *_, scale = tokenizer.context_input_transform(torch.from_numpy(context))
        whole = torch.full((8, 16), torch.nan)
        whole[:, :3] = torch.from_numpy(values)
        labels, mask = tokenizer.label_input_transform(whole, scale)
        assert torch.equal(short["labels"], torch.where(mask, labels, -100)[:, :3])


def counted(monkeypatch, windows: Windows, batches: range) -> tuple[int, int]:
    """Clean seasons, and all synthetic series that go into some batches."""
    names: list[str] = []
    whole = Mixture.block

    def block(self, *arguments, **options):
        drawn, values = whole(self, *arguments, **options)
        names.extend(drawn)
        return drawn, values

    with monkeypatch.context() as patched:
        patched.setattr(Mixture, "block", block)
        for number in batches:
            windows.arrays(number)
    return names.count("clean_season"), len(names)


@pytest.mark.parametrize(
    ("batches", "per_step", "expected"),
    [
        (range(0, 12), 1000, 0.6),  # step 0
        (range(50, 62), 10, 0.6 * 0.5 - 0.6 * 5.5 / 100),  # steps 5 to 6.1 of 10
        (range(90, 102), 10, 0.1),  # less is left of the curriculum than of the mixture's own
        (range(500, 512), 10, 0.1),
    ],
    ids=["at first", "half way", "late", "afterwards"],
)
def test_share_of_clean_seasons_falls(recipe, monkeypatch, batches, per_step, expected):
    made = recipe(easy_share=0.6, easy_steps=10, per_device_train_batch_size=64, lengths=(16,), prediction_length=8)
    windows = Windows(made, batches=1000, batches_per_step=per_step)
    clean, every = counted(monkeypatch, windows, batches)
    assert SHARES["clean_season"] / sum(SHARES.values()) == pytest.approx(0.1)
    assert abs(clean / every - expected) < 5 * math.sqrt(expected * (1 - expected) / every)


def test_validation_has_no_curriculum(recipe, monkeypatch):
    made = recipe(easy_share=0.9, easy_steps=10**6, per_device_train_batch_size=64, lengths=(16,), prediction_length=8)
    clean, every = counted(monkeypatch, Windows(made, batches=10, stream=VALIDATION), range(10))
    assert abs(clean / every - 0.1) < 5 * math.sqrt(0.09 / every)


@pytest.mark.parametrize("ends", [True, False], ids=["eos", "no eos"])
def test_tokens_are_those_of_chronos(recipe, ends):
    made = recipe(family="t5", use_eos_token=ends, shares={**SHARES, "structural": 2.0})
    windows = Windows(made, batches=8)
    tokenizer = ChronosConfig(**{**T5_TOKENS, "use_eos_token": ends}).create_tokenizer()
    holes = 0
    for number in range(8):
        context, target = windows.arrays(number)
        batch = windows.batch(number)
        tokens, mask, scale = tokenizer.context_input_transform(torch.from_numpy(context))
        labels, labels_mask = tokenizer.label_input_transform(torch.from_numpy(target), scale)
        assert torch.equal(batch["input_ids"], tokens)
        assert torch.equal(batch["attention_mask"], mask)
        assert torch.equal(batch["labels"], torch.where(labels_mask, labels, -100))
        assert_nearest_bins(batch["input_ids"].numpy()[:, : context.shape[1]], context, missing=0)
        assert_nearest_bins(batch["labels"].numpy()[:, :16], target, missing=-100)
        assert batch["input_ids"].shape[1] == context.shape[1] + ends
        assert batch["labels"].shape[1] == 16 + ends
        if ends:
            assert (batch["input_ids"][:, -1] == 1).all()
            assert (batch["labels"][:, -1] == 1).all()
            assert batch["attention_mask"][:, -1].all()
        holes += int(np.isnan(target).sum())
    assert holes > 0


def assert_nearest_bins(tokens: np.ndarray, values: np.ndarray, *, missing: int) -> None:
    """61 centres, half a mean apart; two special tokens and an empty bin come before them."""
    place = (values.astype(float) + 15) / 0.5
    sure = ~(np.abs(place - np.floor(place) - 0.5) < 1e-3)  # at an edge, rounding decides
    nearest = np.where(np.isnan(values), missing, 3 + np.clip(np.round(np.nan_to_num(place)), 0, 60))
    np.testing.assert_array_equal(tokens[sure], nearest[sure])
    np.testing.assert_array_equal(tokens == missing, np.isnan(values))


def store_of(folder, name: str, cycle: list[float], count: int = 3, length: int = 400) -> SeriesStore:
    """Series that repeat a cycle without noise, so that a window of them is known for what it is."""
    targets = [np.resize(cycle, length) for _ in range(count)]
    pd.DataFrame({"item_id": [f"{name}{i}" for i in range(count)], "target": targets}).to_parquet(folder / name)
    return SeriesStore.written(folder / name, folder / f"store-{name}")


def repeats(row: np.ndarray, period: int) -> bool:
    return bool(np.allclose(row[period:], row[:-period], rtol=1e-4))


@pytest.fixture
def stores(tmp_path) -> list[SeriesStore]:
    """Of series with period 3 and with period 5, by names that end in .parquet."""
    return [
        store_of(tmp_path, "three.parquet", [1.0, 2.0, 4.0]),
        store_of(tmp_path, "five.parquet", [1.0, 5.0, 2.0, 2.0, 3.0]),
    ]


def periods(windows: Windows, batches: int) -> dict[int | None, int]:
    """How many examples have each period; None: neither 3 nor 5."""
    counts: dict[int | None, int] = {3: 0, 5: 0, None: 0}
    for number in range(batches):
        for row in windows.arrays(number)[0]:
            counts[next((period for period in (3, 5) if repeats(row, period)), None)] += 1
    return counts


PATHS = {"training_data_paths": ("three", "five"), "per_device_train_batch_size": 50, "lengths": (32,)}


def test_real_series_only(recipe, stores):
    counts = periods(Windows(recipe(**PATHS, shares=CLEAN), batches=20, stores=stores), 20)
    assert counts[None] == 0
    assert abs(counts[3] - 500) < 5 * math.sqrt(250)


def test_real_series_beside_synthetic_ones(recipe, stores):
    windows = Windows(recipe(**PATHS, probability=(0.15, 0.5), shares=CLEAN), batches=20, stores=stores)
    counts = periods(windows, 20)
    for period, share in ((3, 0.15), (5, 0.5), (None, 0.35)):
        assert abs(counts[period] - 1000 * share) < 5 * math.sqrt(1000 * share * (1 - share)), period


def test_combinations_take_the_place_of_real_series_in_proportion(recipe, stores):
    """One of five is combined: of a file's 15 %, 12 % stay as they are, and some of the combinations have its cycle."""
    shares = {"clean_season": 0.8, "tsmixup": 0.2}
    windows = Windows(recipe(**PATHS, probability=(0.15, 0.85), shares=shares), batches=20, stores=stores)
    counts = periods(windows, 20)
    alike = {share: sum(share**size for size in (1, 2, 3)) / 3 for share in (0.15, 0.85)}  # 1 to 3 of one file
    of_three = 1000 * (0.8 * 0.15 + 0.2 * alike[0.15])
    of_both = 1000 * 0.2 * (1 - alike[0.15] - alike[0.85])
    assert abs(counts[3] - of_three) < 5 * math.sqrt(of_three)
    assert abs(counts[None] - of_both) < 5 * math.sqrt(of_both)


def test_validation_is_synthetic_whatever_the_training(recipe, stores):
    windows = Windows(recipe(**PATHS, shares=CLEAN), batches=4, stream=VALIDATION)
    plain = Windows(recipe(**{**PATHS, "training_data_paths": ()}, shares=CLEAN), batches=4, stream=VALIDATION)
    assert all(same(windows.batch(number), plain.batch(number)) for number in range(4))


def test_real_batches_depend_on_their_number_only(recipe, stores):
    one, other = (Windows(recipe(**PATHS, probability=(0.3, 0.3)), batches=3, stores=stores) for _ in range(2))
    later = other.batch(2)
    assert same([one.batch(number) for number in range(3)][2], later)


def test_files_without_change_are_refused(recipe, tmp_path):
    still = store_of(tmp_path, "still.parquet", [3.0])
    windows = Windows(recipe(training_data_paths=("still",)), batches=1, stores=[still])
    with pytest.raises(FlowrankError, match="training_data_paths: expected series that change"):
        windows.batch(0)
