"""Training in pieces by `benchmarks/gpu/run.sh`: packed, joined and gone on with; what it needs is pinned."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from flowrank.errors import FlowrankError
from flowrank.pretraining import Recipe, pretrain, read_recipe
from flowrank.pretraining.architecture import build

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"
TINY = {
    **{"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": 1, "context_length": 32, "lengths": (32,)},
    **{"prediction_length": 8, "input_patch_size": 8, "per_device_train_batch_size": 4, "precision": "float32"},
    **{"max_steps": 3, "save_steps": 100, "log_steps": 1, "eval_steps": 2, "eval_series": 4, "dropout_rate": 0.1},
}
RECIPE = Recipe(**TINY)
PART = 0.01  # MiB


def module(name):
    specification = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    made = importlib.util.module_from_spec(specification)
    sys.modules[made.__name__] = made  # dataclasses look there
    specification.loader.exec_module(made)
    return made


packing = module("packing")


def piece(folder: Path):
    return pretrain(RECIPE, folder, progress=False, device="cpu", stop_after=1e-9)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def state(tmp_path):
    piece(tmp_path / "state")
    return tmp_path / "state"


def test_a_training_that_moved_between_machines_is_one_that_stayed(tmp_path):
    whole = pretrain(RECIPE, tmp_path / "whole", progress=False, device="cpu")
    for number in range(3):
        moved = piece(tmp_path / f"machine-{number}")
        packing.packed(tmp_path / f"machine-{number}", tmp_path / f"parts-{number}", parts="1-99", part_mib=PART)
        packing.joined(tmp_path / f"machine-{number + 1}", [tmp_path / f"parts-{number}"])
    last = tmp_path / "machine-3"
    assert (last / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert moved.recipe["pretraining"]["finished"]
    assert not (last / "checkpoints").exists()
    for name, weights in whole.inner_model.state_dict().items():
        assert torch.equal(weights, moved.inner_model.state_dict()[name]), name


def test_parts_are_limited_and_come_in_several_calls(state, tmp_path):
    told = packing.packed(state, tmp_path / "one", parts="1-2", part_mib=PART)
    assert packing.packed(state, tmp_path / "other", parts="3-99", part_mib=PART) == told
    files = {path.name: path.stat().st_size for path in tmp_path.glob("o*/part-*")}
    assert sorted(files) == [part["name"] for part in told["parts"]]
    assert len(files) > 3
    assert max(files.values()) <= PART * 2**20
    assert [path.name for path in sorted((tmp_path / "one").iterdir())] == ["part-001", "part-002", "parts.json"]
    with pytest.raises(FlowrankError, match="no part-003; bring the missing parts back"):
        packing.joined(tmp_path / "new", [tmp_path / "one"])
    packing.joined(tmp_path / "new", [tmp_path / "other", tmp_path / "one"])
    expected = {name: data for name, data in contents(state).items() if not name.startswith("tensorboard")}
    assert contents(tmp_path / "new") == expected


def test_packing_into_the_same_folder_keeps_parts_of_this_piece_only(state, tmp_path):
    packing.packed(state, tmp_path / "out", parts="1-2", part_mib=PART)
    packing.packed(state, tmp_path / "out", parts="3-99", part_mib=PART)
    packing.joined(tmp_path / "new", [tmp_path / "out"])
    piece(state)
    packing.packed(state, tmp_path / "out", parts="1-1", part_mib=PART)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-001", "parts.json"]


def test_damaged_parts_are_refused(state, tmp_path):
    packing.packed(state, tmp_path / "out", parts="1-99", part_mib=PART)
    part = tmp_path / "out" / "part-002"
    data = bytearray(part.read_bytes())
    data[17] ^= 1
    part.write_bytes(data)
    with pytest.raises(FlowrankError, match=r"part-002 as it was packed.*another digest"):
        packing.joined(tmp_path / "new", [tmp_path / "out"])
    assert not (tmp_path / "new").exists()


def test_parts_of_two_pieces_are_refused(state, tmp_path):
    packing.packed(state, tmp_path / "early", parts="1-99", part_mib=PART)
    piece(state)
    packing.packed(state, tmp_path / "late", parts="1-99", part_mib=PART)
    for folders in (["early", "late"], ["early", "nowhere"]):
        with pytest.raises(FlowrankError, match=r"the same parts\.json"):
            packing.joined(tmp_path / "new", [tmp_path / folder for folder in folders])
    before = contents(state)
    with pytest.raises(FlowrankError, match=r"has not gone beyond step 1, found .* at step 2"):
        packing.joined(state, [tmp_path / "early"])
    packing.joined(state, [tmp_path / "late"])
    assert contents(state) == before


def test_folders_of_something_else_are_left_alone(state, tmp_path):
    packing.packed(state, tmp_path / "out", parts="1-99", part_mib=PART)
    other = Recipe(**{**TINY, "d_ff": 32})
    pretrain(other, tmp_path / "other", progress=False, device="cpu", stop_after=1e-9)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "other" / "checkpoints" / "checkpoint-1" / "complete.json").unlink()  # the same step otherwise
    for folder, words in (("other", "another d_ff"), ("mine", "something else")):
        before = contents(tmp_path / folder)
        with pytest.raises(FlowrankError, match=words):
            packing.joined(tmp_path / folder, [tmp_path / "out"])
        assert contents(tmp_path / folder) == before


def test_nothing_to_pack(tmp_path):
    with pytest.raises(FlowrankError, match="state: expected a training with a whole checkpoint"):
        packing.packed(tmp_path, tmp_path / "out")
    for parts in ("x", "0-3", "4-2", "-"):
        with pytest.raises(FlowrankError, match="parts: expected numbers such as 5-8"):
            packing.packed(tmp_path, tmp_path / "out", parts=parts)


def test_the_script_trains_packs_and_goes_on(tmp_path):
    lines = [f"{name}: {list(value) if isinstance(value, tuple) else value}" for name, value in TINY.items()]
    (tmp_path / "tiny.yaml").write_text("\n".join(lines))

    def call(*words: object, **environment: str) -> str:
        command = [str(GPU / "run.sh"), *map(str, words)]
        given = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "WHEELS": "no-wheels", **environment}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=given).stdout

    told = ["train", tmp_path / "tiny.yaml", "--state", tmp_path / "run", "--out", tmp_path / "out"]
    told += ["--device", "cpu", "--workers", 1]
    assert "step 3, finished: parts 1 to 1 of 1" in call(*told, "--", "--seed", 7)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["pretraining"]["recipe"]["seed"] == 7
    assert f"{tmp_path / 'new'} is at step 3, finished" in call("join", tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "new" / "config.json").exists()


def test_what_the_machine_needs_is_pinned_and_closed():
    wheels = module("wheels")
    assert wheels.LIST.read_text(encoding="utf-8").splitlines() == list(wheels.pinned())
    listed = {name.lower().replace("_", "-") for name in wheels.listed()}
    assert "torch" not in listed
    with_torch = {"torch", "hf-xet", "filelock", "fsspec", "typing-extensions", "jinja2", "setuptools"}
    for name in listed:
        for one in map(Requirement, requires(name) or ()):
            target = {"extra": "", "python_version": "3.12", "platform_system": "Linux", "sys_platform": "linux"}
            if one.marker is None or one.marker.evaluate(target):
                assert one.name.lower().replace("_", "-") in listed | with_torch, (name, one.name)
    assert list(wheels.missing()) == []


@pytest.mark.parametrize("path", sorted((GPU.parent / "recipes" / "gpu").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_for_a_gpu(path):
    recipe = read_recipe(path)
    model = build(recipe).inner_model
    limits = {"flow-2": 20, "flow-2-mini": 6, "flow-t5": 24, "flow-bolt": 20}
    assert 2 * model.num_parameters() <= limits[path.stem] * 2**20  # bytes in bfloat16
    assert recipe.minutes is not None


def test_timings_are_written_row_by_row_and_not_repeated(tmp_path, capsys):
    timing = module("timing")
    ways = ["predict, exact", "predict, stock", "core", "core, CUDA graph"]
    call = ["--output", str(tmp_path / "time.json"), "--device", "cpu", "--models", "flow-bolt-mini", "--batches", "2"]
    call += ["--dtypes", "float32", "--repeats", "3", "--context", "64", "--ways"]
    assert timing.main([*call, *ways[:2]]) == 0
    before = json.loads((tmp_path / "time.json").read_text())
    assert timing.main([*call, *ways]) == 0
    after = json.loads((tmp_path / "time.json").read_text())
    assert after["rows"][:2] == before["rows"]
    assert [row["way"] for row in after["rows"]] == ways
    assert all(row["least s"] > 0 for row in after["rows"][:3])
    assert after["rows"][3]["error"] == "ValueError: a CUDA graph needs a GPU"
    assert {"device", "versions", "CUDA"} <= set(after)
    capsys.readouterr()


@pytest.mark.parametrize("name", ["flow-bolt-mini", "chronos-2-small"])
def test_the_core_is_what_a_forecast_computes(name, monkeypatch):
    monkeypatch.syspath_prepend(GPU.parent)
    timing = module("timing")
    device = torch.device("cpu")
    pipeline, work = timing.opened(name, "float32", device), timing.Work(batch=2, context=128, horizon=64, samples=1)
    core = timing.core_of(pipeline, work, device)
    model, series = pipeline.inner_model, work.series()
    with torch.inference_mode():
        core()
        made = core()  # the same again: nothing is overwritten
        _, scale = model.instance_norm(series)
    if name.startswith("chronos"):
        size = model.chronos_config.output_patch_size
        made = made.view(2, -1, model.num_quantiles, size).transpose(1, 2).flatten(1)
        expected = torch.cat(pipeline.predict(list(series), prediction_length=64))
    else:
        expected = pipeline.predict(series, prediction_length=64)
    found = model.instance_norm.inverse(made.float(), scale).unflatten(1, (model.num_quantiles, -1))
    torch.testing.assert_close(found, expected)


def test_rates(tmp_path, monkeypatch, capsys):
    rates = module("rates")
    monkeypatch.setattr(rates, "_STARTING", 4.0)
    (tmp_path / "tiny.yaml").write_text("\n".join(f"{k}: {list(v) if k == 'lengths' else v}" for k, v in TINY.items()))
    call = [str(tmp_path / "tiny.yaml"), "--seconds", "2", "--workers", "1", "--device", "cpu"]
    assert rates.main([*call, "--output", str(tmp_path / "r.json"), "--", "--per-device-train-batch-size", "2"]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["batch"] == 2
    kinds = ("one worker alone", "workers alone", "training alone", "training with workers")
    assert all(told[kind] > 0 for kind in kinds)
    assert rates.main([*call, "--", "--d-model", "0"]) == 2
    assert "error d_model" in capsys.readouterr().err
