"""A grown model computes what its donor computes, with matrices of full rank; what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from flowrank import load
from flowrank.errors import FlowrankError
from flowrank.pretraining import Widths, pretrain
from flowrank.pretraining.architecture import build
from flowrank.pretraining.journal import read_log

WIDER = {"d_model": 48, "d_kv": 12, "d_ff": 80}
FAMILIES = pytest.mark.parametrize("family", ["bolt", "t5", "chronos2"])
TURNING = {"d_kv": 8, "num_heads": 3}  # of heads that turn none becomes wider, there are more of them


def changed(family, changes):
    """Changes of a recipe that this family can take."""
    if family != "chronos2":
        return changes
    return {name: TURNING.get(name, value) for name, value in changes.items()}


@pytest.fixture
def donor(recipe, tmp_path):
    def make(family, **changes):
        folder = tmp_path / f"donor-{family}"
        pipeline = build(recipe(family=family, seed=3, output_scale=1.0, **changes))
        with torch.no_grad():
            for parameter in pipeline.inner_model.parameters():  # no zeros, no ones: every place counts
                parameter.add_(0.1 * torch.randn_like(parameter))
        pipeline.save_pretrained(folder)
        return pipeline, str(folder)

    return make


@FAMILIES
@pytest.mark.parametrize(
    "changes",
    [
        WIDER,
        {"d_model": 16},
        {"d_kv": 9},
        {"d_ff": 33},
        {"num_heads": 5},
        {"num_layers": 4, "num_decoder_layers": 3},
        {**WIDER, "num_heads": 3, "num_layers": 3, "num_decoder_layers": 2},
    ],
    ids=str,
)
def test_same_forecasts_as_the_donor(recipe, donor, family, changes):
    small, folder = donor(family)
    large = build(recipe(family=family, grown_from=folder, **changed(family, changes)))
    models = [one.inner_model.double().eval() for one in (small, large)]
    if family == "bolt":
        contexts = torch.randn(5, 64, dtype=torch.float64).cumsum(1)
        ours, theirs = (model(contexts).quantile_preds for model in models)
    elif family == "chronos2":
        contexts, groups = torch.randn(5, 64, dtype=torch.float64).cumsum(1), torch.tensor([0, 0, 1, 2, 2])
        ours, theirs = (model(contexts, group_ids=groups, num_output_patches=1).quantile_preds for model in models)
    else:
        tokens = torch.randint(2, 64, (5, 20))
        ours, theirs = (model(input_ids=tokens, decoder_input_ids=tokens[:, :7]).logits for model in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 0.01


@FAMILIES
def test_matrices_that_read_the_stream_have_full_rank(recipe, donor, family):
    _, folder = donor(family)
    model = build(recipe(family=family, grown_from=folder, **changed(family, WIDER))).inner_model
    for name, weights in model.named_parameters():
        if ".q." in name or ".v." in name or ".wi." in name:
            assert int(torch.linalg.matrix_rank(weights)) == min(weights.shape), name


def test_a_training_starts_from_the_donors_loss(recipe, donor, tmp_path):
    _, folder = donor("bolt")
    still = {"learning_rate": 1e-12, "muon_learning_rate": 1e-12, "max_steps": 1}
    losses = []
    for name, changes in (("small", {"initial_model": folder}), ("large", {"grown_from": folder, **WIDER})):
        pretrain(recipe(**changes, **still), tmp_path / name, progress=False, device="cpu")
        losses.append([line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("start", ["initial_model", "grown_from"])
def test_what_a_model_began_with_is_told(recipe, tmp_path, start):
    """Three trainings, each from the one before: the last tells all."""
    pretrain(recipe(max_steps=1), tmp_path / "0", progress=False, device="cpu")
    for number in (1, 2):
        changes = {start: str(tmp_path / str(number - 1)), "max_steps": number + 1}
        pretrain(recipe(**changes), tmp_path / str(number), progress=False, device="cpu")
    told = load(str(tmp_path / "2")).recipe
    assert told["pretraining"]["steps"] == 3
    assert [stage["steps"] for stage in told["stages_before"]] == [2, 1]
    assert "stages_before" not in load(str(tmp_path / "0")).recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 24}, "d_model divides 24"),
        ({"d_kv": 4}, "d_kv ≤ 4"),
        ({"d_ff": 8}, "d_ff ≤ 8"),
        ({"num_heads": 1}, "num_heads ≤ 1"),
        ({"num_layers": 1, "num_decoder_layers": 2}, "num_layers ≤ 1"),
        ({"num_decoder_layers": 1}, "num_decoder_layers ≤ 1"),
        ({"input_patch_size": 16}, "input_patch_size = 16"),
        ({"context_length": 128}, "context_length = 128"),
        ({"family": "t5"}, "class T5ForConditionalGeneration"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(recipe, donor, changes, message):
    _, folder = donor("bolt")
    with pytest.raises(FlowrankError, match=f"grown_from: expected .*{message}"):
        build(recipe(grown_from=folder, **changes))


def test_heads_that_turn_keep_their_width(recipe, donor):
    """The angles of a rotation belong to the width of a head."""
    _, folder = donor("chronos2")
    with pytest.raises(FlowrankError, match=r"grown_from: expected .*d_kv = 12"):
        build(recipe(family="chronos2", grown_from=folder, d_kv=12))


def test_finer_bins_begin_with_the_distribution_of_the_coarser_ones(recipe, donor):
    """Four bins for one: the three that lie beside each other and at it share what it had."""
    small, folder = donor("t5")
    coarse = small.inner_model.config.vocab_size
    fine = 3 + 4 * (coarse - 3 - 1) + 1  # the bins' centres, and three between any two
    large = build(recipe(family="t5", grown_from=folder, n_tokens=fine))
    bins = torch.randint(3, coarse, (5, 20))
    forms = (bins, 3 + 4 * (bins - 3))
    ours, theirs = (
        one.inner_model.double().eval()(input_ids=ids, decoder_input_ids=ids[:, :7]).logits
        for one, ids in zip((large, small), reversed(forms), strict=True)
    )
    torch.testing.assert_close(ours[..., 3::4], theirs[..., 3:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[..., :3], theirs[..., :3], rtol=1e-5, atol=1e-5)
    middle = (theirs[..., 3:-1] + theirs[..., 4:]) / 2
    torch.testing.assert_close(ours[..., 5::4], middle, rtol=1e-5, atol=1e-5)
    with pytest.raises(FlowrankError, match=r"grown_from: expected .*n_tokens ≤ 40"):
        build(recipe(family="t5", grown_from=folder, n_tokens=40))


@pytest.mark.parametrize(
    "beside", [{"initial_model": "flow-bolt-mini"}, {"token_embedding": "x", "family": "t5"}], ids=str
)
def test_one_start_only(recipe, beside):
    with pytest.raises(FlowrankError, match="expected one of initial_model, grown_from, token_embedding"):
        recipe(grown_from="flow-bolt-mini", **beside)


@pytest.mark.parametrize("start", ["initial_model", "grown_from"])
def test_a_start_from_another_model_has_its_widths(recipe, start):
    with pytest.raises(FlowrankError, match="schedule: expected none"):
        recipe(schedule=Widths((2, 2, 2, 2)), **{start: "flow-bolt-mini"})
