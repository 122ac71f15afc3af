"""Exported folders: written whole, checked when opened, and forecasting where torch is not."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import flowrank
from flowrank import FlowrankError
from flowrank.cli.program import main
from flowrank.engine.paths import Inference
from flowrank.graphs import MANIFEST
from tests.conftest import make_bolt

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "chronos", "pandas", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy, flowrank
model = flowrank.load(sys.argv[1], threads=1)
numpy.save(sys.argv[2], model.predict([numpy.arange(30.0), [1.0, float("nan"), 3.0]], prediction_length=20))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return flowrank.load(make_bolt(tmp_path_factory.mktemp("export") / "bolt", num_layers=1, num_decoder_layers=1))


@pytest.fixture(scope="module")
def folder(parent, tmp_path_factory):
    return flowrank.export(parent, tmp_path_factory.mktemp("export") / "exported")


@pytest.fixture
def copied(folder, tmp_path):
    made = tmp_path / "copy"
    made.mkdir()
    for one in folder.iterdir():
        (made / one.name).write_bytes(one.read_bytes())
    return made


def series():
    rng = np.random.default_rng(0)
    return [rng.normal(size=n).cumsum() for n in (1, 9, 30, 80)]


def gap(mine, theirs):
    return float(np.abs(np.asarray(mine) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def test_the_folder_says_what_it_is_and_forecasts_what_the_model_does(parent, folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["source"]["parameters"] == parent.inner_model.num_parameters()
    assert manifest["check"]["difference"] < 1e-5
    assert manifest["needs"]["opset"] == 20
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} <= set(manifest["tools"])
    assert parent.name in (folder / "README.md").read_text()
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()
    model = flowrank.load(folder, threads=1)
    assert (model.engine, model.quantiles) == ("onnxruntime", parent.quantiles)
    tensors = [torch.from_numpy(one).float() for one in series()]
    for horizon in (1, 16, 40):
        assert gap(model.predict(series(), horizon), parent.predict(tensors, horizon)) < 1e-5
        levels = [0.05, 0.3, 0.42, 0.9]
        mine, theirs = (
            model.predict_quantiles(series(), horizon, levels),
            parent.predict_quantiles(tensors, horizon, levels),
        )
        assert gap(mine[0], theirs[0]) < 1e-5
        assert gap(mine[1], theirs[1]) < 1e-5


def test_it_forecasts_where_torch_is_not(parent, folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, folder, tmp_path / "found.npy"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    inputs = [torch.arange(30.0), torch.tensor([1.0, torch.nan, 3.0])]
    assert gap(np.load(tmp_path / "found.npy"), parent.predict(inputs, prediction_length=20)) < 1e-5


def test_tables_are_forecast_by_it_as_by_the_model(parent, folder, tmp_path):
    frame = pd.DataFrame(
        {"item_id": "a", "timestamp": pd.date_range("2024-01-01", periods=40), "target": series()[3][:40]}
    )
    frame.to_csv(tmp_path / "in.csv", index=False)
    mine, theirs = (flowrank.forecast(one, frame, horizon=20) for one in (flowrank.load(folder), parent))
    assert np.allclose(mine.select_dtypes("number"), theirs.select_dtypes("number"), rtol=1e-4)
    command = [
        "forecast",
        str(folder),
        str(tmp_path / "in.csv"),
        "--horizon",
        "20",
        "--output",
        str(tmp_path / "o.csv"),
    ]
    assert main([*command, "--threads", "1", "--quiet"]) == 0
    assert len(pd.read_csv(tmp_path / "o.csv")) == 20


def test_a_changed_file_is_refused(copied):
    with (copied / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FlowrankError, match=r"model: expected model.onnx with the sha256.*copy the folder again"):
        flowrank.load(copied)
    (copied / "model.onnx").unlink()
    with pytest.raises(FlowrankError, match=r"expected the file model.onnx, found none"):
        flowrank.load(copied)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}'])
def test_a_manifest_that_cannot_be_read_is_refused(copied, text):
    (copied / MANIFEST).write_text(text)
    with pytest.raises(FlowrankError, match=r"model: expected (a folder with export.json|an export of version 1)"):
        flowrank.load(copied)


def test_a_graph_that_the_runtime_cannot_read_is_refused(copied):
    import onnx

    from flowrank.graphs.folder import digest

    model = onnx.load(copied / "model.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, copied / "model.onnx")
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["files"]["model.onnx"] = digest(copied / "model.onnx")
    manifest["needs"]["opset"] = 999
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FlowrankError, match=r"graph: expected one that onnxruntime .* can open \(opset 999.*--upgrade"):
        flowrank.load(copied)


def test_options_that_an_export_does_not_have_are_refused(folder, parent, tmp_path):
    for options, argument in (
        ({"dtype": "bfloat16"}, "dtype"),
        ({"device_map": "cuda"}, "device_map"),
        ({"engine": "exact"}, "engine"),
        ({"threads": 0}, "threads"),
    ):
        with pytest.raises(FlowrankError, match=rf"^{argument}: "):
            flowrank.load(folder, **options)
    with pytest.raises(FlowrankError, match=r"^threads: expected none"):
        flowrank.load("flow-bolt-mini", threads=2)
    for options, argument in (({"format": "tflite"}, "format"), ({"precision": "int4"}, "precision")):
        with pytest.raises(FlowrankError, match=rf"^{argument}: expected one of"):
            flowrank.export(parent, tmp_path / "out", **options)
    with pytest.raises(FlowrankError, match=r"^folder: expected a path that does not exist yet"):
        flowrank.export(parent, folder)
    without = flowrank.load("flow-bolt-mini")
    without.inference = Inference(without.inference.engine_class)
    with pytest.raises(FlowrankError, match="expected a family of models that has graphs, found chronos-bolt"):
        flowrank.export(without, tmp_path / "out")
    training = flowrank.load("flow-bolt-mini")
    training.inner_model.train()
    with pytest.raises(FlowrankError, match="model: expected a model on the CPU, in eval mode"):
        flowrank.export(training, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = flowrank.load(folder)
    with pytest.raises(FlowrankError, match="prediction_length: expected at most 16"):
        model.predict([[1.0, 2.0]], 17, limit_prediction_length=True)
    with pytest.raises(FlowrankError, match=r"quantile_levels: expected levels between 0 and 1, found 1\.5"):
        model.predict_quantiles([[1.0, 2.0]], 4, [0.5, 1.5])


@pytest.mark.parametrize(("precision", "within", "share"), [("bf16", 0.05, 0.8), ("int8", 0.6, 0.75)])
def test_fewer_bits_make_a_smaller_file_of_nearly_the_same_forecasts(
    parent, folder, tmp_path, precision, within, share
):
    made = flowrank.export(parent, tmp_path / "small", precision=precision)
    check = json.loads((made / MANIFEST).read_text())["check"]
    assert 0 < check["typical"] <= check["difference"] < within
    assert check["slower"] > 0
    assert (made / "model.onnx").stat().st_size < share * (folder / "model.onnx").stat().st_size
    tensors = [torch.from_numpy(one).float() for one in series()]
    assert gap(flowrank.load(made).predict(series()), parent.predict(tensors)) < within


def test_openvino_reads_its_own_format_and_onnx(parent, folder, tmp_path):
    pytest.importorskip("openvino")
    made = flowrank.export(parent, tmp_path / "ir", format="openvino")
    tensors = [torch.from_numpy(one).float() for one in series()]
    for model in (flowrank.load(made), flowrank.load(folder, engine="openvino")):
        assert model.engine == "openvino"
        assert gap(model.predict(series(), 20), parent.predict(tensors, 20)) < 1e-5
    with pytest.raises(FlowrankError, match="engine: expected 'openvino', for a model exported as openvino"):
        flowrank.load(made, engine="onnxruntime")


def test_the_command_writes_it_and_says_how_far_it_is(tmp_path, parent, capsys):
    parent.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    assert "differs from the model" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err
