"""fev tasks: read, found and scored as fev itself does."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from flowrank import Budget, FlowrankError
from flowrank.proof import Plan, prove
from flowrank.proof import fev_tasks as module
from flowrank.proof.fev_tasks import FevTasks, read_tasks, score_task
from tests.proof.test_run import FEW, TIMING, quiet

fev = pytest.importorskip("fev")

TASKS = """
tasks:
- dataset_path: autogluon/chronos_datasets
  dataset_config: ercot
  horizon: 8
  num_windows: 2
  seasonality: 24
  eval_metric: SQL
  quantile_levels: [0.1, 0.5, 0.9]
- dataset_path: autogluon/fev_datasets
  dataset_config: ETT_1H
  horizon: 6
  target: [HUFL, OT]
  eval_metric: {name: WAPE, epsilon: 1.0}
- dataset_path: mine.parquet
  horizon: 4
"""


@pytest.fixture
def tasks(tmp_path, flat):
    (tmp_path / "tasks.yaml").write_text(TASKS)
    shutil.copy(flat / "monash_tourism_yearly.parquet", tmp_path / "mine.parquet")
    return tmp_path / "tasks.yaml"


def test_tasks_are_scored_as_fev_scores_them(offline, tasks, tmp_path, bolt_folder, bolt, parent):
    found = FevTasks.read(tasks, tmp_path / "kept.yaml", None, offline=True)
    assert list(found.files) == ["ercot", "ETT_1H", "mine"]
    assert [len(one.files) for one in found.files.values()] == [2, 1, 1]
    for name, data in found.files.items():
        row = score_task(parent, found.tasks[name], data, seed=0, batch_size=4)
        path = data.files[0] if len(data.files) == 1 else data.files[0].parent / "*.parquet"
        task = fev.Task(**{**found.tasks[name], "dataset_path": str(path), "dataset_config": None})
        predictions, _ = bolt.predict_fev(task)
        expected = task.evaluation_summary(predictions, model_name="stock")["test_error"]
        assert row["error"] == pytest.approx(expected, rel=1e-4)
    assert row["metric"] == "MASE"


def test_a_proof_on_fev_tasks(offline, tasks, tmp_path, parent, flat):
    plan = Plan(Budget(0.6), sets=("monash_cif_2016",), search=FEW, timing=TIMING)
    options = {"data": flat, "fev_tasks": tasks, "offline": True, "say": quiet}
    proof = prove(parent, tmp_path / "p", plan, **options)
    table = pd.read_csv(tmp_path / "p" / "fev.csv")
    wide = table.pivot(index="task", columns="model", values="error")
    ratios = wide[f"{bolt_name(parent)}, compressed"] / wide[parent.name]
    assert proof["result"]["fev"] == {
        "error": pytest.approx(ratios.prod() ** (1 / 3)),
        "tasks": 3,
        "tasks_left_out": [],
    }
    assert proof["fev"]["ercot"]["data"]["files"]
    assert len(json.loads((tmp_path / "p" / "report.json").read_text())["sections"]["fev"]["fev"]) == 3
    assert (tmp_path / "p" / "fev_tasks.yaml").read_text() == TASKS
    tasks.write_text(TASKS.replace("horizon: 8", "horizon: 7"))
    with pytest.raises(FlowrankError, match="another fev"):
        prove(parent, tmp_path / "p", plan, **options)


def bolt_name(parent) -> str:
    return parent.name.rsplit("/", 1)[-1]


def test_names_of_tasks_are_their_own():
    text = "tasks: [{dataset_path: a, dataset_config: x}, {dataset_path: a, dataset_config: x, horizon: 2}]"
    assert list(read_tasks(text, module.Path())) == ["x", "x (2)"]


@pytest.mark.parametrize("text", ["", "tasks: 3", "jobs: []", "tasks: [{horizon: 3}]", "tasks: [1", "a: b: c"])
def test_files_of_another_form(text, tmp_path):
    with pytest.raises(FlowrankError, match="fev_tasks: expected a YAML file with a list of fev tasks"):
        read_tasks(text, tmp_path)


class TestMissing:
    def test_the_list_of_tasks(self, tmp_path, monkeypatch):
        with pytest.raises(FlowrankError, match=r"fev_tasks: expected the list of tasks .*offline.*tasks_mini\.yaml"):
            FevTasks.read(None, tmp_path / "kept.yaml", None, offline=True)

        def fail(*_, **__):
            raise ConnectionResetError

        monkeypatch.setattr(module, "urlopen", fail)
        with pytest.raises(FlowrankError, match="none \\(ConnectionResetError\\); download"):
            FevTasks.read(None, tmp_path / "kept.yaml", None, offline=False)
        with pytest.raises(FlowrankError, match="found no file"):
            FevTasks.read(tmp_path / "none.yaml", tmp_path / "kept.yaml", None, offline=False)

    def test_an_earlier_run_s_list_is_taken(self, tmp_path, tasks, offline):
        shutil.copy(tasks, tmp_path / "kept.yaml")
        assert len(FevTasks.read(None, tmp_path / "kept.yaml", None, offline=True).files) == 3

    def test_data(self, tmp_path, offline):
        (tmp_path / "tasks.yaml").write_text(TASKS.replace("ercot", "boomlet"))
        with pytest.raises(FlowrankError, match=r"fev: expected files .*, found none of boomlet.*hf download auto"):
            FevTasks.read(tmp_path / "tasks.yaml", tmp_path / "k", None, offline=True)
        (tmp_path / "tasks.yaml").write_text(TASKS)
        with pytest.raises(FlowrankError, match="the data of task 'mine', found no file"):
            FevTasks.read(tmp_path / "tasks.yaml", tmp_path / "k", None, offline=True)
