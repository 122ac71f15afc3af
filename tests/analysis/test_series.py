"""Rank profiles against singular values of activations and weights that the tests collect themselves."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank
from flowrank import FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.analysis import KEYS, PROFILE_FILES
from flowrank.analysis.measure import streams_of, through
from flowrank.analysis.spectra import activation_spectra
from flowrank.family import family_of, pad_left
from tests.layers import attention_layers

PATCH = 8


def is_t5(pipeline) -> bool:
    return hasattr(pipeline, "tokenizer")


def collect(pipeline, contexts, modules: dict[str, tuple[torch.nn.Module, bool]]) -> dict[str, np.ndarray]:
    """Inputs (True) or outputs (False) of modules while all series pass in one batch, padding and all."""
    seen = {}

    def keep(name, of_input):
        def hook(_module, inputs, output):
            seen[name] = inputs[0] if of_input else output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name, side)) for name, (module, side) in modules.items()]
    batch = pad_left(contexts, torch.device("cpu"))
    with torch.no_grad():
        if is_t5(pipeline):
            horizon = min(16, min(map(len, contexts)) // 3)
            tokens, mask, scale = pipeline.tokenizer.context_input_transform(batch[:, :-horizon])
            future, _, _ = pipeline.tokenizer._input_transform(batch[:, -horizon:], scale)
            start = torch.zeros(len(contexts), 1, dtype=torch.long)
            pipeline.inner_model(
                input_ids=tokens, attention_mask=mask, decoder_input_ids=torch.cat([start, future[:, :-1]], 1)
            )
        else:
            pipeline.inner_model(batch)
    for handle in handles:
        handle.remove()
    return {name: tensor.double().numpy() for name, tensor in seen.items()}


def observed_tokens(pipeline, contexts) -> np.ndarray:
    """By hand: which tokens of the encoder hold anything, shape (batch, tokens); the last one is special."""
    rows = pad_left(contexts, torch.device("cpu")).numpy()
    if is_t5(pipeline):
        rows = rows[:, : -min(16, min(map(len, contexts)) // 3)]
    else:
        rows = np.pad(rows, ((0, 0), (-rows.shape[1] % PATCH, 0)), constant_values=np.nan)
        rows = rows.reshape(len(rows), -1, PATCH)
    observed = ~np.isnan(rows) if rows.ndim == 2 else ~np.isnan(rows).all(axis=2)
    return np.pad(observed, ((0, 0), (0, 1)), constant_values=True)


def spectra_of(pipeline, contexts, on_batch=lambda count: None):
    """By the streamed moments, in float64."""
    family = family_of(pipeline)
    streams = streams_of(family.model, list(family.anatomy.blocks), smallest=0.0)
    with streams.watching():
        for count in through(family, streams, contexts):
            on_batch(count)
    return dict(activation_spectra(streams))


def normalised(rows: np.ndarray) -> np.ndarray:
    """Singular values of vectors (…, dim), relative to the largest, one a dimension."""
    matrix = rows.reshape(-1, rows.shape[-1])
    sigma = np.linalg.svd(matrix, compute_uv=False)
    return np.pad(sigma, (0, matrix.shape[1] - len(sigma))) / sigma[0]


def assert_same_spectrum(found, expected):
    """Equal, down to what single precision leaves of an activation (attention runs by another kernel)."""
    np.testing.assert_allclose(found.normalised.numpy(), expected, rtol=2e-4, atol=2e-6)


def test_activations_against_their_singular_values(pipeline, contexts):
    model = pipeline.inner_model
    first, last = model.encoder.block[0], model.encoder.block[1]
    attention = last.layer[0].SelfAttention
    cross = model.decoder.block[1].layer[1].EncDecAttention
    decoder = model.decoder.block
    modules = {
        ("encoder", "embedding", 0, 0, "embedding", -1): (first, True),
        ("encoder", "residual", 0, 0, "residual", -1): (first, False),
        ("encoder", "residual", 1, 1, "residual", -1): (last, False),
        ("encoder", "self", 1, 1, "input", -1): (attention.q, True),
        ("encoder", "self", 1, 1, "queries", -1): (attention.q, False),
        ("encoder", "self", 1, 1, "keys", -1): (attention.k, False),
        ("encoder", "self", 1, 1, "head_outputs", -1): (attention.o, True),
        ("decoder", "cross", 1, 3, "keys", -1): (cross.k, False),
        ("decoder", "cross", 1, 3, "queries", -1): (cross.q, False),
        ("decoder", "cross", 1, 3, "head_outputs", -1): (cross.o, True),
        ("decoder", "embedding", 0, 0, "embedding", -1): (decoder[0], True),
        ("decoder", "residual", 1, 1, "residual", -1): (decoder[1], False),
    }
    seen = collect(pipeline, contexts, modules)
    found = spectra_of(pipeline, contexts)
    mask = observed_tokens(pipeline, contexts)
    assert not mask.all()
    for key in modules:
        of_encoder = key[0] == "encoder" or key[4] == "keys"
        assert_same_spectrum(found[key], normalised(seen[key][mask] if of_encoder else seen[key]))


def test_missing_heads_change_nothing(pipeline):
    """A series alone, and beside itself with three patches of missing values before it: the same spectra."""
    series = torch.randn(40, generator=torch.Generator().manual_seed(0)).cumsum(0)
    longer = torch.cat([torch.full((3 * PATCH,), torch.nan), series])
    alone, batched = (spectra_of(pipeline, batch) for batch in ([series], [series, longer]))
    assert alone.keys() == batched.keys()
    for key, spectrum in alone.items():
        assert_same_spectrum(batched[key], spectrum.normalised.numpy())


def test_series_batched_with_longer_ones_count_as_they_do_alone(pipeline):
    """Second moments add up: what the two series hold together is what each holds alone."""
    generator = torch.Generator().manual_seed(0)
    short, long = (torch.randn(n, generator=generator).cumsum(0) for n in (48, 64))
    first = {("encoder", "embedding", 0, 0, "embedding", -1): (pipeline.inner_model.encoder.block[0], True)}
    rows = [
        collect(pipeline, [series], first).popitem()[1][observed_tokens(pipeline, [series])] for series in (short, long)
    ]
    together = spectra_of(pipeline, [short, long])
    assert_same_spectrum(together[next(iter(first))], normalised(np.concatenate(rows)))


def test_batches_are_reported_and_hooks_removed(pipeline, contexts):
    counts: list[int] = []
    spectra_of(pipeline, contexts, counts.append)
    assert sum(counts) == len(contexts)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipeline.inner_model.modules())


def test_small_singular_values_survive_low_precision(bolt_folder, contexts):
    """A model in bfloat16: its activations are rounded, their spectra are not."""
    pipeline = flowrank.load(bolt_folder, dtype="bfloat16")
    first = pipeline.inner_model.encoder.block[0]
    key = ("encoder", "embedding", 0, 0, "embedding", -1)
    rows = collect(pipeline, contexts, {key: (first, True)})[key][observed_tokens(pipeline, contexts)]
    found = spectra_of(pipeline, contexts)[key]
    np.testing.assert_allclose(found.normalised.numpy(), normalised(rows), atol=1e-6)


def profile_of(pipeline, **options):
    series = [np.random.default_rng(seed).normal(size=60).cumsum() for seed in range(6)]
    return flowrank.analyze(pipeline, **{"series": series, **options})


def test_weights_against_numpy(pipeline):
    """W_K of one layer is made of rank 3; all others have what numpy says."""
    layers = attention_layers(pipeline.inner_model)
    weight = layers["encoder.block.1.layer.0.SelfAttention"].k.weight
    with torch.no_grad():
        u, s, v = torch.linalg.svd(weight)
        weight.copy_((u[:, :3] * s[:3]) @ v[:3])
    ranks = profile_of(pipeline, epsilons=(0.4, 1e-4)).ranks
    low = ranks.query("stack == 'encoder' and layer == 1 and quantity == 'W_K' and epsilon == 1e-4 and head == -1")
    assert low["rank"].tolist() == [3]
    for name, layer in layers.items():
        stack, _, index, *_, kind = name.split(".")
        kind = "cross" if kind == "EncDecAttention" else "self"
        for letter in "qkvo":
            matrix = getattr(layer, letter).weight.detach().double().numpy()
            sigma = np.linalg.svd(matrix, compute_uv=False)
            p = sigma / sigma.sum()
            rows = ranks.query(
                f"stack == '{stack}' and kind == '{kind}' and layer == {index} and head == -1"
                f" and quantity == 'W_{letter.upper()}'"
            )
            assert rows["epsilon"].tolist() == [0.4, 1e-4]
            assert rows["rank"].tolist() == [int((sigma > e * sigma[0]).sum()) for e in (0.4, 1e-4)]
            assert rows["dim"].tolist() == [min(matrix.shape)] * 2
            entropy = -(p[p > 1e-12] * np.log(p[p > 1e-12])).sum()
            np.testing.assert_allclose(rows["effective_rank"], np.exp(entropy), rtol=1e-5)
            np.testing.assert_allclose(rows["stable_rank"], (matrix**2).sum() / sigma[0] ** 2, rtol=1e-5)


def test_profile_is_complete_and_agrees_with_its_own_spectra(pipeline, folder):
    profile = profile_of(pipeline, epsilons=(0.3, 0.01, 0.3))
    measures = ["dim", "epsilon", "rank", "effective_rank", "stable_rank", "edge", "signal"]
    assert list(profile.ranks) == [*KEYS, *measures]
    assert list(profile.spectra) == [*KEYS, "j", "sigma"]
    weights = {"W_Q", "W_K", "W_V", "W_O"}
    quantities = weights | {"input", "queries", "keys", "values", "head_outputs", "attention", "update", "stream"}
    sites = profile.ranks.query("kind in ('self', 'cross')").groupby(["stack", "kind", "layer", "depth"])
    assert {site: set(rows["quantity"]) for site, rows in sites} == {
        ("encoder", "self", 0, 0): quantities,
        ("encoder", "self", 1, 1): quantities,
        ("decoder", "self", 0, 0): quantities,
        ("decoder", "self", 1, 1): quantities,
        ("decoder", "cross", 0, 2): quantities,
        ("decoder", "cross", 1, 3): quantities,
    }
    heads = profile.ranks.query("head >= 0").groupby("quantity")["head"].unique().map(sorted).to_dict()
    per_head = weights | {"queries", "keys", "values", "head_outputs", "attention"}
    assert heads == {quantity: [0, 1, 2] for quantity in per_head}
    mlps = profile.ranks.query("kind == 'mlp'").groupby(["stack", "layer"])["quantity"].unique()
    assert {where: set(names) for where, names in mlps.items()} == {
        (stack, layer): {"input", "update"} for stack in ("encoder", "decoder") for layer in (0, 1)
    }
    assert (profile.ranks["signal"].notna() == profile.ranks["quantity"].isin(weights)).all()
    stream = profile.ranks.query("kind in ('embedding', 'residual')")
    assert stream.groupby(["stack", "kind"])["layer"].unique().map(list).to_dict() == {
        ("decoder", "embedding"): [0],
        ("decoder", "residual"): [0, 1],
        ("encoder", "embedding"): [0],
        ("encoder", "residual"): [0, 1],
    }
    assert not profile.ranks.duplicated([*KEYS, "epsilon"]).any()
    curves = profile.spectra.groupby(KEYS)["sigma"]
    for row in profile.ranks.itertuples():
        sigma = curves.get_group(tuple(getattr(row, key) for key in KEYS)).to_numpy()
        assert row.dim == len(sigma)
        assert sigma[0] in (0, 1)
        assert (np.diff(sigma) <= 1e-12).all()
        assert row.rank == (sigma > row.epsilon).sum()
    about = json.loads(json.dumps(profile.about))
    assert about["model"]["name"] == str(folder)
    assert about["model"]["layers"] == {"encoder": 2, "decoder": 2}
    assert about["model"]["parameters"] == pipeline.inner_model.num_parameters()
    assert about["model"]["attention_parameters"] == sum(
        getattr(layer, name).weight.numel()
        for layer in attention_layers(pipeline.inner_model).values()
        for name in "qkvo"
    )
    assert about["series"] == {"source": "list", "count": 6, "skipped": {}, "seed": 0}
    assert about["settings"] == {"epsilons": [0.3, 0.01], "points": 512}
    assert about["device"] == "cpu"
    assert about["versions"]["torch"] == torch.__version__


def test_counts_and_points_choose_what_is_run(pipeline):
    one = [np.random.default_rng(0).normal(size=64).cumsum()]
    others = [np.random.default_rng(1).normal(size=64).cumsum(), np.full(64, 3.0)]
    expected = flowrank.analyze(pipeline, series=[one[0][-48:]])
    found = flowrank.analyze(pipeline, series=[others[1], *one, others[0]], count=1, points=48)
    pd.testing.assert_frame_equal(found.ranks, expected.ranks)
    assert found.about["series"] == {"source": "list", "count": 1, "skipped": {"constant": 1}, "seed": 0}
    synthetic = [flowrank.analyze(pipeline, count=4, points=64, seed=seed).spectra for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(synthetic[0], synthetic[1])
    assert not synthetic[0].equals(synthetic[2])


def test_own_columns(bolt_folder, long_frame):
    pipeline = flowrank.load(bolt_folder)
    renamed = long_frame.rename(columns={"item_id": "sku", "timestamp": "day", "target": "sales"})
    names = {"id_column": "sku", "timestamp_column": "day", "target": "sales", "freq": "D"}
    found = flowrank.analyze(pipeline, series=renamed, **names)
    pd.testing.assert_frame_equal(found.ranks, flowrank.analyze(pipeline, series=long_frame).ranks)


@pytest.mark.parametrize("method", [WeightSVD(Uniform(0.4)), JointHeads(Uniform(0.3))], ids=["weight", "joint"])
def test_compressed_models(pipeline, method):
    """Ranks of products of factors are what was kept; narrower heads have fewer dimensions."""
    child = flowrank.compress(pipeline, method, calibration_series=8, calibration_points=64)
    profile = profile_of(child, epsilons=(1e-5,))
    for name, layer in attention_layers(child.inner_model).items():
        stack, _, index, *_, kind = name.split(".")
        kind = "cross" if kind == "EncDecAttention" else "self"
        site = profile.ranks.query(
            f"stack == '{stack}' and kind == '{kind}' and layer == {index} and head == -1"
        ).set_index("quantity")
        for letter in "qkvo":
            projection = getattr(layer, letter)
            if hasattr(projection, "up"):
                matrix = (projection.up.weight.double() @ projection.down.weight.double()).detach().numpy()
            else:
                matrix = projection.weight.detach().double().numpy()
            if matrix.size == 0:
                assert f"W_{letter.upper()}" not in site.index
                continue
            expected = np.linalg.matrix_rank(matrix, rtol=1e-5)
            assert site.loc[f"W_{letter.upper()}", "rank"] == expected
            assert site.loc[f"W_{letter.upper()}", "dim"] == min(matrix.shape)
    assert profile.about["model"]["name"].endswith("compressed")
    assert profile.about["model"]["attention_parameters"] == child.recipe["parameters"]["attention_child"]


@pytest.mark.parametrize("bad", [(1.0,), (-0.1,), (float("nan"),), (), ("a",), 0.1, None, (0.1, 2)])
def test_epsilons_out_of_range_are_refused(pipeline, bad):
    with pytest.raises(FlowrankError, match=r"epsilons: expected numbers in \[0, 1\)"):
        profile_of(pipeline, epsilons=bad)


def test_numpy_epsilons_are_numbers_like_others(bolt_folder):
    profile = profile_of(flowrank.load(bolt_folder), epsilons=np.array([0.5, 0.25], dtype=np.float32))
    assert json.loads(json.dumps(profile.about))["settings"]["epsilons"] == [0.5, 0.25]


@pytest.mark.parametrize("name", ["count", "points"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "3"])
def test_bad_counts_are_refused_by_name(bolt_folder, name, bad):
    with pytest.raises(FlowrankError, match=f"^{name}: expected a whole number"):
        profile_of(flowrank.load(bolt_folder), **{name: bad})


def test_what_cannot_be_analyzed_is_refused(bolt_folder):
    with pytest.raises(FlowrankError, match="pipeline"):
        flowrank.analyze("flow-bolt-mini")
    with pytest.raises(FlowrankError, match="1 constant"):
        profile_of(flowrank.load(bolt_folder), series=[np.ones(50)])


def test_saved_profile_reads_back(bolt_folder, tmp_path):
    profile = profile_of(flowrank.load(bolt_folder))
    folder = profile.save(tmp_path / "analysis")
    assert sorted(path.name for path in folder.iterdir()) == sorted(PROFILE_FILES)
    again = flowrank.RankProfile.read(folder)
    for name in ("ranks", "spectra", "bounds"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(profile, name))
    assert again.about == profile.about
    profile.to_parquet(tmp_path / "ranks.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ranks.parquet"), profile.ranks)
    (tmp_path / "ranks.parquet").unlink()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "rank_profile.parquet"), profile.ranks)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "spectra.parquet"), profile.spectra)
    assert json.loads((folder / "analysis.json").read_text()) == profile.about
    (folder / "mine.txt").write_text("old")
    with pytest.raises(FlowrankError, match="overwrit"):
        profile.save(folder)
    assert (folder / "mine.txt").exists()
    profile.save(folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["analysis"]
    (folder / "bounds.parquet").unlink()
    with pytest.raises(FlowrankError, match=r"with bounds\.parquet"):
        flowrank.RankProfile.read(folder)
    assert (folder / "mine.txt").read_text() == "old"


def test_progress_is_shown(bolt_folder, capsys):
    profile_of(flowrank.load(bolt_folder), progress=True)
    assert "analyzing" in capsys.readouterr().out
