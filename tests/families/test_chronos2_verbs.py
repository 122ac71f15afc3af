"""Verbs of Chronos-2 pipelines on inputs of every kind: what chronos-forecasting's own gives, or refused alike."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank
from flowrank import FlowrankError
from tests.families.chronos2 import random_chronos2, stock, walk

NAN, INF = torch.nan, torch.inf
PIPELINE = random_chronos2(num_layers=1)
TWO = [walk(50), walk(2, 20, seed=1)]


def task(target, past=None, future=None):
    found = {"target": target}
    found |= {} if past is None else {"past_covariates": past}
    return found | ({} if future is None else {"future_covariates": future})


def prepared(rows, steps, targets=1, known=0, **changes):
    future = torch.full((rows, steps), NAN)
    future[rows - known :] = walk(known, steps, seed=3)
    sizes = {"n_targets": targets, "n_covariates": rows - targets, "n_future_covariates": known}
    return {"context": walk(rows, 20), "future_covariates": future, **sizes, **changes}


def words(*, future):
    past = {"kind": np.array(["x", "y"] * 15), "level": walk(30).numpy()}
    return task(walk(30).numpy(), past, {"kind": np.array(future)})


def holed(values):
    return values.masked_fill(torch.arange(len(values)) % 3 == 0, NAN)


def with_value(values, value):
    values[..., -1].fill_(value) if values.ndim == 1 else values[0, -1].fill_(value)
    return values


INPUTS = {
    "a batch": walk(4, 1, 50),
    "a batch of variates": walk(4, 3, 50),
    "a numpy batch": walk(4, 3, 50).numpy(),
    "rows": walk(4, 50),
    "a series": walk(50),
    "four dimensions": walk(1, 1, 1, 50),
    "a list": [walk(50), walk(20)],
    "a tuple": (walk(50), walk(20)),
    "float64": [walk(50).numpy().astype("f8")],
    "whole numbers": [torch.arange(20), np.arange(9)],
    "true and false": [torch.ones(20, dtype=torch.bool)],
    "half precision": [walk(30).bfloat16()],
    "one and two dimensions": TWO,
    "three dimensions in a list": [walk(1, 2, 30)],
    "nothing": [],
    "an empty batch": torch.zeros(0, 1, 5),
    "no points": [torch.zeros(0), walk(9)],
    "no variates": [torch.zeros(0, 5), walk(9)],
    "a number": [torch.tensor(1.0)],
    "lists": [[1.0, 2.0, 3.0]],
    "floats": [1.0, 2.0, 3.0],
    "a word": "abc",
    "None": None,
    "a pandas series": [pd.Series(walk(20).numpy())],
    "one dictionary": {"target": walk(20)},
    "words": [np.array(["a", "b"])],
    "objects": [np.array([1.0, None, 3.0], dtype=object)],
    "nothing observed": [torch.full((20,), NAN), walk(9)],
    "nothing observed at all": [torch.full((20,), NAN)],
    "one point": [torch.tensor([3.0])],
    "an end that is missing": [torch.cat([walk(30), torch.full((20,), NAN)])],
    "infinite": [with_value(walk(30), INF)],
    "infinite in a group": [with_value(walk(2, 30), -INF)],
    "huge": [1e30 * walk(30)],
    "huge in a group": [torch.stack([1e30 * walk(30), walk(30)])],
    "tiny": [1e-30 * walk(30)],
    "constants": torch.full((2, 2, 30), 4.0),
    "longer than the context": walk(2, 2, 100),
    "a target": [task(walk(30))],
    "targets": [task(walk(2, 30))],
    "a list as a target": [task([1.0, 2.0, 3.0])],
    "past covariates": [task(walk(30), {"a": walk(30, seed=1)})] * 3,
    "no covariates in a dictionary": [task(walk(30), {}, {})],
    "a known future": [task(walk(30), {"a": walk(30, seed=1)}, {"a": walk(24, seed=2)})],
    "an unknown future": [task(walk(30), {"a": walk(30, seed=1)}, {"a": torch.full((24,), NAN)})],
    "a future with holes": [
        task(walk(30), {"a": walk(30)}, {"a": walk(24).masked_fill(torch.arange(24) % 3 == 0, NAN)})
    ],
    "a future of None": [task(walk(30), {"a": walk(30, seed=1)}, {"a": None})],
    "an infinite future": [task(walk(30), {"a": walk(30, seed=1)}, {"a": torch.full((24,), INF)})],
    "a future of another length": [task(walk(30), {"a": walk(30)}, {"a": walk(7)})],
    "a future without a past": [task(walk(30), {}, {"a": walk(24)})],
    "kinds as words": [words(future=["x", "z", "y"] * 8)],
    "an unknown key": [task(walk(30)) | {"x": 1}],
    "no target": [{"past_covariates": {}}],
    "several schemas": [task(walk(30)), task(walk(2, 30))],
    "a past of another length": [task(walk(30), {"a": walk(29)})],
    "a past that is a list": [task(walk(30), [1])],
    "a dictionary, then a series": [task(walk(30)), walk(30)],
    "a series, then a dictionary": [walk(30), task(walk(30))],
    "prepared": [prepared(2, 24)],
    "prepared with a short future": [prepared(3, 5, known=1)],
    "prepared with a long future": [prepared(3, 50, known=2)],
    "prepared with a known target": [prepared(2, 24, targets=2, known=2)],
    "prepared with futures of two lengths": [prepared(2, 5), prepared(2, 7)],
    "prepared without a key": [{"context": walk(2, 20)}],
    "prepared with one dimension": [prepared(2, 24, context=walk(20))],
}

_LONG = {"prediction_length": 60}
OPTIONS = [
    *({"prediction_length": value} for value in (0, -1, 1, 8, 9, 24, 25, 60, 2.5, "3", True, None, np.int64(9))),
    *({"context_length": value} for value in (0, -1, 1, 5, 64, 65, 1000, 3.5, "a")),
    *({"batch_size": value} for value in (0, -1, 1, 2, 1.5, None, "a")),
    *({"max_output_patches": value, **_LONG} for value in (0, -1, 1, 5, 20, 2.5, None)),
    *({"unrolled_quantiles": value, **_LONG} for value in ([0.1, 0.5, 0.9], [0.5], [0.33], [])),
    *({"limit_prediction_length": True, "prediction_length": value} for value in (24, 25)),
    {"cross_learning": True},
    {"cross_learning": True, "batch_size": 2, **_LONG},
    {"predict_batches_jointly": True},
    {"after_batch": lambda: 1 / 0},
    {"num_samples": 3},
    {"seed": 3},
]


def outcome(verb, *args, **options):
    """What a verb gives or raises, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = verb(*args, **options)
        except Exception as error:  # whatever the stock pipeline raises, ours shall
            found = error
    return found, sorted(str(one.message) for one in caught if issubclass(one.category, UserWarning | FutureWarning))


def assert_same(found, expected):
    """Require lists of tensors, or errors, that are alike."""
    if isinstance(expected, Exception):
        assert type(found) is type(expected), repr(found)
    elif isinstance(expected, torch.Tensor):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert torch.equal(found.isnan(), expected.isnan())
        finite = expected[expected.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 1.0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
    else:
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


def assert_alike(verb, *args, **options):
    """Require of a verb what the stock pipeline's gives; returns it."""
    assert PIPELINE.path == "exact"
    found, said = outcome(getattr(PIPELINE, verb), *args, **options)
    expected, says = outcome(getattr(stock(PIPELINE), verb), *args, **options)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)
    else:
        assert_same(found, expected)
    assert said == says
    return expected


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS.keys())
def test_inputs_of_every_kind(inputs):
    for verb in ("predict", "predict_quantiles", "embed"):
        assert_alike(verb, inputs)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: "-".join(one) or "none")
def test_options_of_every_kind(options):
    for verb in ("predict", "predict_quantiles"):
        assert_alike(verb, TWO, **options)


def test_options_by_place():
    found = PIPELINE.predict(TWO, 9, 2, 16, True, False)
    assert_same(found, stock(PIPELINE).predict(TWO, 9, 2, 16, True, False))
    assert_same(PIPELINE.embed(TWO, 1, 16), stock(PIPELINE).embed(TWO, 1, 16))


@pytest.mark.parametrize("levels", [[0.5], [0.01, 0.99], [0.33], [0.001, 0.999], [], [2.0], ["a"], None, [0.5, 0.5]])
def test_levels_of_every_kind(levels):
    assert_alike("predict_quantiles", TWO, prediction_length=9, quantile_levels=levels)


def test_a_horizon_beyond_what_was_trained_warns_or_is_refused():
    with pytest.warns(UserWarning, match="We recommend keeping prediction length <= 24"):
        PIPELINE.predict(TWO, prediction_length=25)
    with pytest.raises(ValueError, match="limit_prediction_length=False"):
        PIPELINE.predict(TWO, prediction_length=25, limit_prediction_length=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PIPELINE.predict(TWO, prediction_length=24, limit_prediction_length=True)


def frame(items=("a", "b"), points=40, start="2024-01-01", freq="D", seed=0, **columns):
    generator = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range(start, periods=points + 7 * number, freq=freq),
                "target": generator.normal(size=points + 7 * number).cumsum(),
                **{key: make(points + 7 * number) for key, make in columns.items()},
            }
        )
        for number, name in enumerate(items)
    ]
    return pd.concat(parts, ignore_index=True)


def ahead(past, steps, **columns):
    parts = []
    for name, one in past.groupby("item_id"):
        times = pd.date_range(one["timestamp"].max(), periods=steps + 1, freq="D")[1:]
        parts.append(
            pd.DataFrame({"item_id": name, "timestamp": times, **{k: make(steps) for k, make in columns.items()}})
        )
    return pd.concat(parts, ignore_index=True)


def wave(points):
    return np.sin(np.arange(points))


def kinds(points):
    return np.array(["x", "y", "z"])[np.arange(points) % 3]


PAST = frame(wave=wave, kind=kinds, other=wave)
FRAMES = {
    "plain": (frame(), {}),
    "covariates of the past": (PAST, {}),
    "covariates known ahead": (PAST, {"future_df": ahead(PAST, 9, wave=wave, kind=kinds)}),
    "a future too short": (PAST, {"future_df": ahead(PAST, 8, wave=wave)}),
    "a future of another item": (PAST, {"future_df": ahead(frame(("a", "c")), 9, wave=wave)}),
    "a future of an unknown column": (PAST, {"future_df": ahead(PAST, 9, new=wave)}),
    "two targets": (frame(second=wave), {"target": ["target", "second"]}),
    "a target that is not there": (frame(), {"target": "value"}),
    "shuffled": (frame().sample(frac=1, random_state=0), {}),
    "gaps": (frame().drop(index=[5, 6]), {}),
    "missing values": (frame().assign(target=lambda one: one["target"].where(one.index % 5 > 0)), {}),
    "hours": (frame(freq="h"), {"freq": "h"}),
    "months": (frame(freq="MS"), {}),
    "other names": (
        frame().rename(columns={"item_id": "id", "timestamp": "time", "target": "y"}),
        {"id_column": "id", "timestamp_column": "time", "target": "y"},
    ),
    "two points": (frame(points=2), {}),
    "one item": (frame(("a",)), {}),
    "no rows": (frame().iloc[:0], {}),
    "unchecked": (frame(), {"validate_inputs": False}),
    "cross-learning": (PAST, {"cross_learning": True, "batch_size": 3}),
    "levels and a context": (frame(), {"quantile_levels": [0.05, 0.42], "context_length": 16}),
    "no levels": (frame(), {"quantile_levels": []}),
    "an unknown option": (frame(), {"num_samples": 3}),
    "a list": ([1, 2, 3], {}),
    "words as a target": (frame().assign(target="a"), {}),
}


@pytest.mark.parametrize(("given", "options"), FRAMES.values(), ids=FRAMES.keys())
def test_frames_of_every_kind(given, options):
    assert_alike("predict_df", given, prediction_length=9, **options)


def test_a_model_for_single_series_takes_frames_of_them_alone():
    child = flowrank.univariate(PIPELINE)
    expected = stock(PIPELINE).predict_df(frame(), prediction_length=9)
    pd.testing.assert_frame_equal(child.predict_df(frame(), prediction_length=9), expected, rtol=1e-4, atol=1e-4)
    for given, options in (FRAMES["covariates of the past"], FRAMES["two targets"], FRAMES["cross-learning"]):
        with pytest.raises(FlowrankError, match="single series without covariates"):
            child.predict_df(given, prediction_length=9, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"as_univariate": True}, {"batch_size": 1}, {"cross_learning": True}])
def test_fev_tasks(tmp_path, options):
    fev = pytest.importorskip("fev")
    data = PAST.rename(columns={"item_id": "id"}).groupby("id", as_index=False).agg(list)
    data.to_parquet(tmp_path / "data.parquet")
    task = fev.Task(
        dataset_path=str(tmp_path / "data.parquet"),
        horizon=4,
        num_windows=2,
        quantile_levels=[0.1, 0.5, 0.9],
        known_dynamic_columns=["wave"],
        past_dynamic_columns=["other"],
    )
    found, seconds = PIPELINE.predict_fev(task, **options)
    expected, _ = stock(PIPELINE).predict_fev(task, **options)
    assert seconds > 0
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs:
            for key in theirs[name].column_names:
                np.testing.assert_allclose(ours[name][key], theirs[name][key], rtol=1e-4, atol=1e-4)
