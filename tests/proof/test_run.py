"""A proof's numbers against those worked out by hand, and what happens when it is stopped or given again."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import flowrank
from flowrank import Budget, FlowrankError, Tolerance
from flowrank.family import tensor_digest
from flowrank.forecasting import Corrections
from flowrank.proof import Plan, prove
from flowrank.proof.record import machine
from tests.proof.stand_in import HORIZONS, TABLES
from tests.test_files import tree

run = import_module("flowrank.proof.run")
LEVELS = np.arange(1, 10) / 10
FEW = {"calibration_series": 9, "calibration_points": 64}
TIMING = {"repeats": 1, "context_length": 64, "batch_size": 2}
HALF = Budget(0.6)
SETS = ("monash_cif_2016", "monash_tourism_yearly")


def plan_for(*sets: str, goal=HALF, **changes) -> Plan:
    given = {"sets": sets or SETS, "search": FEW, "timing": TIMING, "corrections": Corrections.none(), **changes}
    return Plan(goal, **given)


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def done(parent, flat, tmp_path_factory):
    """A whole proof on two data sets."""
    folder = tmp_path_factory.mktemp("proofs") / "proof"
    return folder, prove(parent, folder, plan_for(), data=flat, command="flowrank prove it", say=quiet)


def by_hand(name: str, forecast) -> tuple[float, float]:
    """WQL and MASE of a data set, from its table: ``forecast`` gives quantiles (H, 9) for a history."""
    horizon, season = HORIZONS[name]
    losses, total, scaled = 0.0, 0.0, []
    for row in TABLES[name].to_pylist():
        values = np.array(row["target"], dtype=np.float32).astype(np.float64)
        past, future = values[:-horizon], values[-horizon:]
        quantiles = forecast(past, horizon, season)
        error = future[:, None] - quantiles
        losses += 2 * np.maximum(LEVELS * error, (LEVELS - 1) * error).mean(axis=1).sum()
        total += np.abs(future).sum()
        scaled.append(np.abs(error[:, 4]) / np.nanmean(np.abs(past[season:] - past[:-season])))
    return losses / total, float(np.mean(scaled))


def naive(past, horizon, season):
    known = np.nan_to_num(past)
    return np.repeat(np.resize(known[-season:], horizon)[:, None], 9, axis=1)


def stock(pipeline):
    import torch

    def forecast(past, horizon, _season):
        found, _ = pipeline.predict_quantiles(
            [torch.tensor(past, dtype=torch.float32)], prediction_length=horizon, quantile_levels=list(LEVELS)
        )
        return np.sort(found[0].double().numpy(), axis=-1)

    return forecast


class TestNumbers:
    def test_scores_are_those_of_the_formulas(self, done, bolt):
        folder, proof = done
        table = pd.read_csv(folder / "scores.csv").set_index(["dataset", "model"])
        parent = proof["model"]["name"]
        for name in SETS:
            for model, forecast in (("seasonal-naive", naive), (parent, stock(bolt))):
                wql, mase = by_hand(name, forecast)
                assert table.loc[(name, model), "WQL"] == pytest.approx(wql, rel=1e-4)
                assert table.loc[(name, model), "MASE"] == pytest.approx(mase, rel=1e-4)
            assert table.loc[(name, parent), "series"] == len(TABLES[name])

    def test_the_child_is_scored_as_it_was_saved(self, done):
        folder, proof = done
        child = flowrank.load(folder / "model")
        assert tensor_digest(child.inner_model) == proof["child"]["sha256"]
        table = pd.read_csv(folder / "scores.csv").set_index(["dataset", "model"])
        label = next(model for _, model in table.index if model.endswith(", compressed"))
        child.engine = "stock"
        for name in SETS:
            assert table.loc[(name, label), "WQL"] == pytest.approx(by_hand(name, stock(child))[0], rel=1e-4)

    def test_the_result_is_the_geometric_mean(self, done):
        folder, proof = done
        rows = json.loads((folder / "scores.json").read_text())["rows"]
        wide = pd.DataFrame(rows).pivot(index="dataset", columns="model", values="WQL")
        parent = proof["model"]["name"]
        expected = np.exp(np.log(wide[f"{Path(parent).name}, compressed"] / wide[parent]).mean())
        assert proof["result"]["WQL"] == pytest.approx(expected)
        assert proof["result"]["datasets"] == 2
        assert proof["result"]["parameters_kept"] <= 0.6
        assert "tolerance" not in proof["result"]

    def test_the_record_identifies_the_run(self, done, parent):
        folder, proof = done
        assert proof["command"] == "flowrank prove it"
        assert proof["model"]["sha256"] == tensor_digest(parent.inner_model)
        assert (proof["seed"], proof["sets"], proof["goal"]["ratio"]) == (0, list(chosen_order()), 0.6)
        assert proof["machine"].items() >= machine().items()
        assert {"torch", "flowrank", "python"} <= set(proof["versions"])
        assert set(proof["data"]) == set(SETS)
        assert proof == json.loads((folder / "proof.json").read_text())

    def test_the_report_shows_it(self, done):
        folder, proof = done
        record = json.loads((folder / "report.json").read_text())
        assert {"proof", "ranks", "accuracy", "cost", "provenance"} <= set(record["sections"])
        shown = {claim["key"]: claim["value"] for claim in record["claims"]}
        assert shown["WQL_parent"] == pytest.approx(proof["result"]["WQL"])
        assert shown["parameters_kept"] == pytest.approx(proof["result"]["parameters_kept"])

    def test_series_that_cannot_be_scored_are_left_out_and_told(self, parent, flat, tmp_path):
        rows = pq.read_table(flat / "monash_tourism_yearly.parquet").to_pylist()
        rows.insert(1, rows[0] | {"id": "short", "target": [1.0, 2.0], "timestamp": rows[0]["timestamp"][:2]})
        rows.append(rows[0] | {"id": "beyond what was asked for"})
        pd.DataFrame(rows).to_parquet(tmp_path / "monash_tourism_yearly.parquet")
        proof = prove(parent, tmp_path / "p", plan_for("monash_tourism_yearly", series=2), data=tmp_path, say=quiet)
        record = json.loads((tmp_path / "p" / "scores.json").read_text())
        assert proof["result"]["series_left_out"] == 1
        assert [one["item_id"] for one in record["series_left_out"]["monash_tourism_yearly"]] == ["short"]
        assert {row["series"] for row in record["rows"]} == {2}


def chosen_order():
    from flowrank.proof.sets import BENCHMARK

    return [name for name in BENCHMARK if name in SETS]


class TestStopped:
    def test_finished_steps_are_not_done_again(self, done, parent, flat, tmp_path, monkeypatch):
        calls: list[str] = []
        evaluate = run.evaluate

        def counted(models, *args, **kwargs):
            if len(calls) == 3 and not resumed:
                raise KeyboardInterrupt
            calls.append(next(iter(models)))
            return evaluate(models, *args, **kwargs)

        resumed = False
        monkeypatch.setattr(run, "evaluate", counted)
        with pytest.raises(KeyboardInterrupt):
            prove(parent, tmp_path / "p", plan_for(), data=flat, say=quiet)
        assert not (tmp_path / "p" / "proof.json").exists()
        resumed = True
        monkeypatch.setattr(run, "compress", None)  # the model is there
        prove(parent, tmp_path / "p", plan_for(), data=flat, say=quiet)
        assert len(calls) == 6
        scores = [pd.read_csv(folder / "scores.csv").drop(columns="seconds") for folder in (done[0], tmp_path / "p")]
        pd.testing.assert_frame_equal(*scores)
        assert (tmp_path / "p" / "report.html").exists()

    def test_the_same_again_changes_nothing(self, done, parent, flat):
        folder, proof = done
        before = tree(folder)
        told: list[str] = []
        assert prove(parent, folder, plan_for(), data=flat, command="another", say=told.append) == proof
        changed = {name for name, content in tree(folder).items() if before[name] != content}
        assert changed == set()
        assert told[-1] == "nothing was left to do"

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"seed": 1}, "another seed"),
            ({"series": 1}, "another series"),
            ({"goal": Budget(0.5)}, "another goal"),
            ({"goal": Tolerance(0.1)}, "another goal"),
            ({"sets": ("monash_cif_2016",)}, "another data, sets"),
            ({"corrections": Corrections()}, "another corrections"),
        ],
    )
    def test_another_proof_is_refused_by_name(self, done, parent, flat, changes, named):
        folder, _ = done
        before = tree(folder)
        with pytest.raises(FlowrankError, match=f"output: expected a new folder, .*{named}"):
            prove(parent, folder, plan_for(**changes), data=flat, say=quiet)
        assert tree(folder) == before

    def test_data_that_changed_are_another_proof(self, done, parent, flat, tmp_path):
        shutil.copytree(flat, tmp_path / "data")
        pq.write_table(TABLES["monash_cif_2016"].slice(0, 2), tmp_path / "data" / "monash_cif_2016.parquet")
        with pytest.raises(FlowrankError, match="another data"):
            prove(parent, done[0], plan_for(), data=tmp_path / "data", say=quiet)

    def test_a_model_that_was_exchanged_is_noticed(self, done, parent, flat, tmp_path):
        shutil.copytree(done[0], tmp_path / "p")
        shutil.rmtree(tmp_path / "p" / "model")
        parent.save_pretrained(tmp_path / "p" / "model")
        with pytest.raises(FlowrankError, match="output: expected the model that this proof made, found another"):
            prove(parent, tmp_path / "p", plan_for(), data=flat, say=quiet)

    def test_a_search_goes_on_from_its_stages(self, parent, flat, tmp_path, few_stages):
        search = {"calibration_series": 9, "validation_series": 12, "horizon": 6}
        plan = plan_for("monash_cif_2016", goal=Tolerance(0.3), search=search)

        def stop(text: str) -> None:
            if "step 1" in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prove(parent, tmp_path / "p", plan, data=flat, say=stop)
        told: list[str] = []
        proof = prove(parent, tmp_path / "p", plan, data=flat, say=told.append)
        assert not any("step 1:" in text for text in told)
        assert proof["result"]["tolerance"]["held_on_benchmark"] == (proof["result"]["WQL"] <= 1.3)
        stages = [json.loads(line) for line in (tmp_path / "p" / "search" / "search.jsonl").read_text().splitlines()]
        best = min((one for one in stages if one["held"]), key=lambda one: one["cost"])
        assert proof["result"]["parameters"]["child"] == best["parameters"]
        assert not (tmp_path / "p" / "search" / "models").exists()
        assert "search" in json.loads((tmp_path / "p" / "report.json").read_text())["sections"]


class TestRefused:
    def test_missing_data_sets_are_listed(self, parent, flat, tmp_path):
        message = r"data: expected files of 27 data sets, found none in .* of monash_traffic, "
        with pytest.raises(FlowrankError, match=message) as told:
            prove(parent, tmp_path / "p", Plan(HALF), data=flat, say=quiet)
        assert told.value.todo.endswith("--sets ercot,ETTh,monash_tourism_yearly,monash_cif_2016")
        assert not (tmp_path / "p").exists()

    def test_without_a_network_it_says_how_to_go_on(self, parent, offline, tmp_path):
        with pytest.raises(FlowrankError, match=r"none in the cache of the hub of m5.*hf download autogluon"):
            prove(parent, tmp_path / "p", plan_for("m5"), offline=True, say=quiet)

    def test_models_that_cannot_become_smaller(self, parent, flat, tmp_path):
        integers = flowrank.quantize(parent)
        with pytest.raises(FlowrankError, match="8-bit integers"):
            prove(integers, tmp_path / "p", plan_for(), data=flat, say=quiet)
        assert not (tmp_path / "p").exists()

    def test_a_tolerance_that_nothing_meets(self, parent, flat, tmp_path, monkeypatch):
        monkeypatch.setattr(run, "smallest", lambda parent, *_, **__: parent)
        with pytest.raises(FlowrankError, match=r"max_loss: expected a tolerance .*found 0\.01, which none does"):
            prove(parent, tmp_path / "p", plan_for(goal=Tolerance(0.01)), data=flat, say=quiet)

    def test_somebody_s_folder(self, parent, flat, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(FlowrankError, match=r"output: .*which holds something else"):
            prove(parent, tmp_path, plan_for(), data=flat, say=quiet)


def test_models_and_data_of_the_hub_are_named_by_their_commits(offline, tmp_path):
    from tests.proof.stand_in import COMMIT, MODEL

    pipeline = flowrank.load(MODEL, local_files_only=True)
    assert pipeline.revision == COMMIT["models"]
    plan = plan_for("ercot", "ETTh")
    proof = prove(pipeline, tmp_path / "p", plan, offline=True, say=quiet)
    assert (proof["model"]["name"], proof["model"]["revision"]) == (MODEL, COMMIT["models"])
    assert {one["revision"] for one in proof["data"].values()} == {COMMIT["datasets"]}
    table = pd.read_csv(tmp_path / "p" / "scores.csv").set_index(["dataset", "model"])
    assert table.loc[("ercot", "seasonal-naive"), "WQL"] == pytest.approx(by_hand("ercot", naive)[0], rel=1e-4)
    assert table.loc[("ETTh", MODEL), "series"] == 4  # two rows of two columns
    assert (tmp_path / "p" / "scores.csv").read_text().count("tiny-model, compressed") == 2
