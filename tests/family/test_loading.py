from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from chronos import BaseChronosPipeline, ChronosBoltPipeline, ChronosPipeline
from safetensors.torch import load_file, save_file

import flowrank
from flowrank import Budget, FlowrankError, JointHeads, Uniform, WeightSVD
from flowrank.family import DEFAULT, tensor_digest
from tests.conftest import BOLT_PATCHES, tiny_config


def test_dense_models_forecast_as_stock_chronos_does(folder, contexts):
    stock, ours = BaseChronosPipeline.from_pretrained(folder), flowrank.load(folder, engine="stock")
    assert isinstance(ours, ChronosBoltPipeline | ChronosPipeline)
    torch.manual_seed(0)
    expected = stock.predict(contexts, prediction_length=16)
    torch.manual_seed(0)
    assert torch.equal(ours.predict(contexts, prediction_length=16), expected)
    assert torch.equal(ours.embed(contexts)[0], stock.embed(contexts)[0])


def test_all_verbs_of_chronos_work_on_a_compressed_model(pipeline, long_frame):
    child = flowrank.compress(pipeline, JointHeads(Uniform(0.3)), calibration_series=8, calibration_points=64)
    quantiles, mean = child.predict_quantiles([torch.arange(40.0)], prediction_length=9, quantile_levels=[0.1, 0.5])
    assert quantiles.shape == (1, 9, 2)
    assert mean.shape == (1, 9)
    assert quantiles.dtype == torch.float32
    frame = child.predict_df(long_frame, prediction_length=5, quantile_levels=[0.5])
    assert list(frame.columns) == ["item_id", "timestamp", "target_name", "predictions", "0.5"]
    assert len(frame) == 15


def test_predict_fev_works(pipeline, long_frame, tmp_path):
    import datasets
    import fev

    rows = long_frame.groupby("item_id").agg({"timestamp": list, "target": list}).reset_index()
    rows = rows.rename(columns={"item_id": "id"})
    path = tmp_path / "series.parquet"
    datasets.Dataset.from_pandas(rows).to_parquet(path)
    task = fev.Task(dataset_path=str(path), horizon=4, quantile_levels=[0.1, 0.5, 0.9])
    predictions, seconds = pipeline.predict_fev(task)
    assert len(predictions) == 1
    assert seconds > 0


@pytest.fixture(scope="module")
def children(bolt_folder, t5_folder):
    """Compressed models of both families and kinds: factors, and heads of widths of their own."""
    methods = {"joint": JointHeads(Budget(0.3)), "weight": WeightSVD(Uniform(0.3))}
    return {
        f"{folder.name} {name}": flowrank.compress(
            flowrank.load(folder), method, calibration_series=8, calibration_points=64
        )
        for folder in (bolt_folder, t5_folder)
        for name, method in methods.items()
    }


def test_a_fresh_process_forecasts_bit_for_bit_the_same(children, contexts, tmp_path):
    for name, child in children.items():
        child.save_pretrained(tmp_path / name)
        torch.manual_seed(3)
        np.save(tmp_path / name / "here.npy", child.predict(contexts).numpy())
    script = f"""
import sys
import flowrank
from chronos import BaseChronosPipeline
import torch, numpy as np
torch.set_num_threads({torch.get_num_threads()})
generator = torch.Generator().manual_seed(0)
series = [torch.randn(n, generator=generator).cumsum(0) for n in (64, 50, 33, 17)]
series[1][10:20] = torch.nan
for folder in sys.argv[1:]:
    pipeline = BaseChronosPipeline.from_pretrained(folder)
    torch.manual_seed(3)
    here = np.load(folder + "/here.npy")
    assert np.array_equal(pipeline.predict(series).numpy(), here), folder
    print("the same")
"""
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in children)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["the same"] * 4


def test_chronos_imported_first_knows_the_models_too(children, tmp_path):
    for name, child in children.items():
        child.save_pretrained(tmp_path / name)
    script = (
        "import sys; from chronos import BaseChronosPipeline; import flowrank;"
        "print(*(type(BaseChronosPipeline.from_pretrained(one)).__name__ for one in sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in children)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split() == [type(child).__name__ for child in children.values()]


def test_import_is_light():
    script = "import flowrank, sys; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_saved_folder_is_ordinary_and_says_where_it_comes_from(pipeline, folder, tmp_path):
    child = flowrank.compress(pipeline, WeightSVD(Uniform(0.4)), seed=5)
    child.save_pretrained(tmp_path / "child")
    files = {path.name for path in (tmp_path / "child").iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "recipe.json"} <= files
    recipe = json.loads((tmp_path / "child/recipe.json").read_text())
    assert recipe["parent"] == {"name": str(folder), "sha256": tensor_digest(pipeline.inner_model)}
    assert recipe["method"]["name"] == "WeightSVD"
    assert recipe["allocation"] == {"name": "Uniform", "ratio": 0.4}
    assert recipe["seed"] == 5
    assert "attention parameters" in (tmp_path / "child/README.md").read_text()
    assert flowrank.load(tmp_path / "child").recipe == recipe
    mode = stat.S_IMODE((tmp_path / "child/model.safetensors").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "child/recipe.json").stat().st_mode)


def test_digest_depends_on_every_tensor(pipeline):
    before = tensor_digest(pipeline.inner_model)
    with torch.no_grad():
        pipeline.inner_model.decoder.final_layer_norm.weight[0] += 1e-3
    assert tensor_digest(pipeline.inner_model) != before


def test_output_matrix_and_scaling_of_t5_survive(t5_folder, tmp_path):
    parent = flowrank.load(t5_folder)
    flowrank.compress(parent, WeightSVD(Uniform(1.0))).save_pretrained(tmp_path / "child")
    child = flowrank.load(tmp_path / "child").inner_model
    assert torch.equal(child.lm_head.weight, parent.inner_model.lm_head.weight)
    assert not torch.equal(child.lm_head.weight, child.shared.weight)
    assert child.config.scale_decoder_outputs == parent.inner_model.config.scale_decoder_outputs


def test_an_existing_folder_is_kept_unless_asked(pipeline, tmp_path):
    target = tmp_path / "child"
    pipeline.save_pretrained(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(FlowrankError, match="overwrit"):
        pipeline.save_pretrained(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    pipeline.save_pretrained(target, overwrite=True)
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_save_leaves_the_old_folder(pipeline, tmp_path, monkeypatch):
    target = tmp_path / "child"
    pipeline.save_pretrained(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.inner_model, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space"):
        pipeline.save_pretrained(target, overwrite=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_embedded_models_are_listed():
    names = ["flow-2", "flow-2-mini", "flow-bolt", "flow-bolt-mini", "flow-t5", "flow-t5-mini"]
    assert flowrank.embedded_models() == names
    assert flowrank.load().name == DEFAULT


@pytest.mark.parametrize("name", flowrank.embedded_models())
def test_embedded_model_loads_and_forecasts(name):
    pipeline = flowrank.load(name)
    assert pipeline.inner_model.dtype == torch.float32
    season = torch.sin(torch.arange(240.0) * 2 * np.pi / 24)
    _, median = pipeline.predict_quantiles([season], prediction_length=24)
    truth = torch.sin(torch.arange(240.0, 264.0) * 2 * np.pi / 24)
    assert float((median[0] - truth).abs().mean() / truth.abs().mean()) < 0.3


@pytest.mark.parametrize("name", flowrank.embedded_models())
def test_embedded_models_were_trained_on_synthetic_series_only_and_say_so(name):
    folder = Path(flowrank.__file__).parent / "embedded" / name
    assert "synthetic series only" in (folder / "README.md").read_text(encoding="utf-8")
    recipe = flowrank.load(name).recipe
    if recipe is not None:
        assert recipe["pretraining"]["recipe"]["training_data_paths"] == []


class TestBadModels:
    """Each is refused by name, and nothing else happens."""

    def refuse(self, source, *words):
        with pytest.raises(FlowrankError) as caught:
            flowrank.load(source)
        for word in words:
            assert word in str(caught.value)

    def copy(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "copy")

    def edit(self, folder, **changes):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_nothing_there(self):
        self.refuse("./no/such/folder", "not there", "flow-bolt", "flow-bolt-mini")
        self.refuse("", "not there")

    def test_unreachable_hub(self, monkeypatch):
        import huggingface_hub

        def offline(*args, **kwargs):
            raise ConnectionError("offline")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
        self.refuse("amazon/chronos-bolt-small", "amazon/chronos-bolt-small", "ConnectionError")

    def test_hub_id_is_downloaded_and_opened(self, monkeypatch, bolt_folder):
        import huggingface_hub

        asked = []

        def download(repo_id, *, revision, allow_patterns):
            asked.append((repo_id, revision, allow_patterns))
            return str(bolt_folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        pipeline = flowrank.load("amazon/chronos-bolt-tiny", revision="main")
        assert pipeline.name == "amazon/chronos-bolt-tiny"
        assert {entry[0] for entry in asked} == {"amazon/chronos-bolt-tiny"}
        assert not any("bin" in pattern for entry in asked for pattern in entry[2])

    def test_folder_without_config(self, tmp_path):
        self.refuse(tmp_path, "config.json")

    def test_config_that_is_not_json(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        self.refuse(tmp_path, "readable JSON")

    def test_not_chronos(self, tmp_path):
        from transformers import BertConfig, T5Config

        BertConfig().save_pretrained(tmp_path / "bert")
        self.refuse(tmp_path / "bert", "chronos-bolt, chronos-t5", "'bert'")
        T5Config().save_pretrained(tmp_path / "t5")
        self.refuse(tmp_path / "t5", "chronos-bolt, chronos-t5", "'t5'")

    def test_chronos_2_with_settings_of_another_model(self, tmp_path):
        config = tiny_config(BOLT_PATCHES, "Chronos2Pipeline")
        config.save_pretrained(tmp_path)
        self.refuse(tmp_path, "Chronos-2", "no output_patch_size, a prediction_length")

    def test_chronos_2_with_the_class_of_another_model(self, chronos2_folder, tmp_path):
        copy = self.copy(chronos2_folder, tmp_path)
        self.edit(copy, architectures=["T5ForConditionalGeneration"])
        self.refuse(copy, "'Chronos2Model'", "T5ForConditionalGeneration")

    def test_chronos_2_without_the_name_of_its_pipeline(self, chronos2_folder, tmp_path):
        copy = self.copy(chronos2_folder, tmp_path)
        self.edit(copy, chronos_pipeline_class=None)
        self.refuse(copy, "pipeline None", "add chronos_pipeline_class")

    def test_no_weights(self, folder, tmp_path):
        copy = self.copy(folder, tmp_path)
        (copy / "model.safetensors").unlink()
        self.refuse(copy, "model.safetensors", "neither")

    def test_pickled_weights_are_not_opened(self, folder, tmp_path):
        copy = self.copy(folder, tmp_path)
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        self.refuse(copy, "pytorch_model.bin", "unpickle")

    def test_truncated_weights(self, folder, tmp_path):
        copy = self.copy(folder, tmp_path)
        data = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
        self.refuse(copy, "model.safetensors", "copy or download")

    def test_a_missing_tensor_is_not_made_up(self, folder, tmp_path):
        copy = self.copy(folder, tmp_path)
        tensors = load_file(copy / "model.safetensors")
        del tensors["encoder.block.1.layer.0.SelfAttention.v.weight"]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        self.refuse(copy, "encoder.block.1.layer.0.SelfAttention.v.weight", "no such tensor")

    def test_widths_that_contradict_the_tensors(self, pipeline, tmp_path):
        flowrank.compress(
            pipeline, JointHeads(Uniform(0.3)), calibration_series=4, calibration_points=64
        ).save_pretrained(tmp_path / "child")
        config = json.loads((tmp_path / "child/config.json").read_text())
        shapes = config["flowrank"]
        name = next(iter(shapes["attention"]))
        shapes["attention"][name]["d_vo"][0] += 1
        self.edit(tmp_path / "child", flowrank=shapes)
        self.refuse(tmp_path / "child", name, "shape")

    @pytest.mark.parametrize("bad", [{"d_qk": [1]}, {"d_qk": [1, 1, -1], "d_vo": [1, 1, 1]}, 7, {"d_qk": 3, "d_vo": 3}])
    def test_shapes_that_are_none(self, pipeline, tmp_path, bad):
        flowrank.compress(pipeline, WeightSVD(Uniform(0.3))).save_pretrained(tmp_path / "child")
        config = json.loads((tmp_path / "child/config.json").read_text())
        name = next(iter(config["flowrank"]["attention"]))
        self.edit(tmp_path / "child", flowrank={**config["flowrank"], "attention": {name: bad}})
        self.refuse(tmp_path / "child", name, "non-negative integers")

    def test_dtype(self, bolt_folder):
        with pytest.raises(FlowrankError, match="dtype"):
            flowrank.load(bolt_folder, dtype="int3")
        assert flowrank.load(bolt_folder, dtype="bfloat16").inner_model.dtype == torch.bfloat16


def test_push_to_hub_uploads_the_whole_folder(bolt_folder, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["repo"] = (repo_id, private)

        def upload_folder(self, repo_id, folder_path):
            from pathlib import Path

            seen["files"] = {path.name for path in Path(folder_path).iterdir()}
            return "https://example.invalid/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert flowrank.load(bolt_folder).push_to_hub("me/model", private=True, token="t").endswith("/1")
    assert seen["repo"] == ("me/model", True)
    assert {"config.json", "model.safetensors", "README.md"} <= seen["files"]


def test_sharded_weights_are_opened(t5_folder, tmp_path, contexts):
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded/model.safetensors.index.json").exists()
    pipeline = flowrank.load(tmp_path / "sharded")
    assert torch.equal(pipeline.inner_model.lm_head.weight, model.lm_head.weight)


def test_frames_of_any_dtype(bolt_folder):
    frame = pd.DataFrame(
        {"item_id": "a", "timestamp": pd.date_range("2020", periods=30, freq="D"), "target": range(30)}
    )
    assert len(flowrank.load(bolt_folder).predict_df(frame, prediction_length=3)) == 3


@pytest.mark.parametrize("folder_of", ["bolt_folder", "t5_folder"])
def test_half_size_files_open_in_the_models_own_type(folder_of, request, tmp_path):
    pipeline = flowrank.load(request.getfixturevalue(folder_of))
    pipeline.save_pretrained(tmp_path / "whole")
    pipeline.save_pretrained(tmp_path / "half", file_dtype=torch.bfloat16)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert sizes["half"] < 0.6 * sizes["whole"]
    opened = flowrank.load(tmp_path / "half").inner_model.state_dict()
    for name, weights in pipeline.inner_model.state_dict().items():
        assert opened[name].dtype == torch.float32
        torch.testing.assert_close(opened[name], weights.bfloat16().float(), rtol=0, atol=0)
        assert weights.dtype == torch.float32
