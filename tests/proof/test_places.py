"""Data sets are found where the hub, its cache or a person puts them."""

from __future__ import annotations

import hashlib
import shutil

import huggingface_hub
import pyarrow.parquet as pq
import pytest

from flowrank import Budget, FlowrankError
from flowrank.proof.places import Home, Wanted, look_in_folder, look_on_hub
from flowrank.proof.plan import Plan, benchmark_files
from flowrank.proof.record import data_record
from flowrank.proof.sets import BENCHMARK, chosen, homes
from tests.proof.stand_in import COMMIT, DATA, TABLES, add_repo

NAMES = list(TABLES)


def ids_in(data) -> list[str]:
    return [one for path in data.files for one in pq.read_table(path)["id"].to_pylist()]


def test_the_cache_of_the_hub_is_enough(offline):
    found = look_on_hub([homes(name) for name in NAMES], offline=True)
    assert (sorted(found.sets), found.missing) == (sorted(NAMES), [])
    for name, data in found.sets.items():
        assert ids_in(data) == TABLES[name]["id"].to_pylist()
        assert data.revision == COMMIT["datasets"]
    assert found.sets["ercot"].home == Home(DATA, "ercot")
    assert found.sets["ETTh"].home == Home("autogluon/fev_datasets", "ETT_1H")


def test_what_the_cache_lacks_is_missing(offline):
    found = look_on_hub([homes("m5"), homes("ercot")], offline=True)
    assert (list(found.sets), found.missing) == (["ercot"], ["m5"])


@pytest.mark.parametrize("layout", ["flat", "cache", "cache of a home", "snapshot", "by config"])
def test_folders_of_every_layout(layout, flat, cache, tmp_path):
    names, place = NAMES, flat
    if layout == "cache":
        place = cache
    elif layout == "cache of a home":
        shutil.copytree(cache, tmp_path / "hub", symlinks=True)
        place = tmp_path
    elif layout == "snapshot":
        place, names = cache / "datasets--autogluon--chronos_datasets" / "snapshots" / COMMIT["datasets"], NAMES[:3]
    elif layout == "by config":
        place, names = tmp_path, ["ETTh"]
        (tmp_path / "ETT_1H").mkdir()
        shutil.copy(flat / "ETTh.parquet", tmp_path / "ETT_1H" / "train-00000-of-00001.parquet")
    found = look_in_folder(place, [homes(name) for name in names])
    assert (sorted(found.sets), found.missing) == (sorted(names), [])
    for name, data in found.sets.items():
        assert ids_in(data) == TABLES[name]["id"].to_pylist()


def test_a_file_that_is_missing_among_several_is_noticed(cache, tmp_path):
    home = cache / "datasets--autogluon--chronos_datasets" / "snapshots" / COMMIT["datasets"] / "ercot"
    (tmp_path / "ercot").mkdir()
    shutil.copy(home / "train-00001-of-00002.parquet", tmp_path / "ercot")
    with pytest.raises(FlowrankError, match="data: expected all 2 files of ercot, found 1 in"):
        look_in_folder(tmp_path, [homes("ercot")])


def test_only_the_split_for_training_counts(tmp_path):
    (tmp_path / "m5").mkdir()
    for name in ("test-0.parquet", "train-0.parquet"):
        (tmp_path / "m5" / name).touch()
    assert [path.name for path in look_in_folder(tmp_path, [Wanted("m5")]).sets["m5"].files] == ["train-0.parquet"]


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_folder(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(FlowrankError, match="data: expected a folder with files of the data sets"):
        look_in_folder(tmp_path / name, [Wanted("m5")])


def test_only_what_is_needed_is_downloaded(cache, monkeypatch):
    asked: list[tuple[str, tuple[str, ...]]] = []
    real = huggingface_hub.snapshot_download

    def download(repo, *, allow_patterns, cache_dir, local_files_only, **options):
        assert not local_files_only
        asked.append((repo, tuple(allow_patterns)))
        return real(repo, allow_patterns=allow_patterns, cache_dir=cache, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert len(look_on_hub([homes("ercot"), homes("ETTh"), homes("m5")]).sets) == 2
    fev = "autogluon/fev_datasets"
    assert asked == [
        (DATA, ("README.md",)),
        (DATA, ("ercot/*.parquet", "m5/*.parquet")),
        ("autogluon/chronos_datasets_extra", ("README.md",)),  # has no files of it
        (fev, ("README.md",)),
        (fev, ("ETT/1H/train*",)),
    ]


def test_why_the_hub_gave_nothing(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FlowrankError, match=r"none in the hub of m5 \(ConnectionError\); download them where"):
        benchmark_files(Plan(Budget(0.5), sets=("m5",)), None, offline=False, say=lambda _: None)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", ["x/a.parquet"]),
        ("data_files: deep/b.parquet", ["deep/b.parquet"]),
        ("data_files: [deep/b.parquet, deep/c.parquet]", ["deep/b.parquet", "deep/c.parquet"]),
        (
            "data_files: [{split: train, path: [deep/c.parquet]}, {split: test, path: deep/b.parquet}]",
            ["deep/c.parquet"],
        ),
    ],
)
def test_cards_say_where_files_are(tmp_path, said, found):
    card = f"---\nconfigs:\n- config_name: x\n  {said}\n---\n# Data\n"
    names = ("x/a.parquet", "deep/b.parquet", "deep/c.parquet")
    snapshot = add_repo(
        tmp_path, "datasets", "some/data", {"README.md": card.encode(), **{n: n.encode() for n in names}}
    )
    files = look_in_folder(tmp_path, [Wanted("mine", (Home("some/data", "x"),))]).sets["mine"].files
    assert [str(path.relative_to(snapshot)) for path in files] == found


def test_the_record_names_every_file_by_its_content(offline):
    data = look_on_hub([homes("ercot")], offline=True).sets["ercot"]
    record = data_record(data)
    assert (record["repo"], record["config"], record["revision"]) == (DATA, "ercot", COMMIT["datasets"])
    assert record["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.files}


def test_the_benchmark_is_what_was_published():
    assert len(BENCHMARK) == 27
    assert sum(one.prediction_length for one in BENCHMARK.values()) == 496
    assert {one.num_rolls for one in BENCHMARK.values()} == {1}
    assert {name for name, one in BENCHMARK.items() if one.offset != -one.prediction_length} == {"ETTm"}
    assert list(chosen(["m5", "ercot"])) == ["ercot", "m5"]
    with pytest.raises(FlowrankError, match=r"sets: expected .*, found 'm4_hourly'; there are: dominick, ercot, ETTh"):
        chosen(["m5", "m4_hourly"])
