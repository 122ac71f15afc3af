"""Outputs appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file, atomic_folder, current_umask, refuse_existing

INTERRUPTIONS = [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device"), ValueError("a bug")]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with what files hold."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def write_file(path: Path, **options) -> None:
    with atomic_file(path, **options) as temporary:
        temporary.write_text("new")


def write_folder(path: Path, **options) -> None:
    with atomic_folder(path, **options) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("new")


@pytest.fixture(params=["file", "folder"])
def kind(request):
    return request.param


@pytest.fixture
def write(kind):
    return write_file if kind == "file" else write_folder


@pytest.fixture
def old(kind, tmp_path):
    """An output that is there already."""
    path = tmp_path / "out.txt"
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "b.txt").write_text("old")
    return path


def test_a_new_output_in_folders_that_are_made(write, kind, tmp_path):
    path = tmp_path / "not" / "there" / "yet.txt"
    write(path)
    inside = {"inner": None, "inner/a.txt": b"new"}
    assert tree(tmp_path / "not" / "there") == (
        {"yet.txt": b"new"}
        if kind == "file"
        else {"yet.txt": None, **{f"yet.txt/{name}": held for name, held in inside.items()}}
    )


def test_nothing_shows_under_the_final_name_before_the_end(tmp_path):
    with atomic_file(tmp_path / "a.csv") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        assert not (tmp_path / "a.csv").exists()
    with atomic_folder(tmp_path / "b") as temporary:
        assert temporary.parent == tmp_path
        assert not (tmp_path / "b").exists()
    assert sorted(tree(tmp_path)) == ["a.csv", "b"]


def test_an_output_that_exists_is_refused_unless_asked(write, old, tmp_path):
    before = tree(tmp_path)
    with pytest.raises(FlowrankError, match=r"--place: expected a path that does not exist.*overwrit"):
        write(old, argument="--place")
    assert tree(tmp_path) == before
    write(old, overwrite=True)
    assert b"old" not in tree(tmp_path).values()
    assert b"new" in tree(tmp_path).values()
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda error: type(error).__name__)
def test_an_interrupted_block_leaves_what_was_there(kind, old, tmp_path, error):
    before = tree(tmp_path)

    def half() -> None:
        with (atomic_file if kind == "file" else atomic_folder)(old, overwrite=True) as temporary:
            (temporary if kind == "file" else temporary / "c.txt").write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert tree(tmp_path) == before


def test_an_interrupted_block_leaves_nothing_where_nothing_was(kind, tmp_path):
    manager = (atomic_file if kind == "file" else atomic_folder)(tmp_path / "new")
    with pytest.raises(KeyboardInterrupt), manager:
        raise KeyboardInterrupt
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("renames", [0, 1])
def test_an_interruption_between_the_two_renames_of_a_folder(tmp_path, monkeypatch, error, renames):
    """The old folder has been moved aside, or is about to be: it comes back."""
    path = tmp_path / "model"
    write_folder(path)
    before = tree(tmp_path)
    rename = os.replace
    done = []

    def interrupted(source, target):
        if len(done) == renames:
            done.append(None)
            raise error
        done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)), atomic_folder(path, overwrite=True) as temporary:
        (temporary / "half.txt").write_text("half")
    assert tree(tmp_path) == before


def test_a_failed_rename_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full_disk(*_paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_file(path, overwrite=True)
    assert tree(tmp_path) == {"a.txt": b"old"}


def test_a_path_below_a_file_is_refused(write, tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FlowrankError, match=r"inside a folder.*file"):
        write(tmp_path / "file" / "deep" / "out")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_file_never_replaces_a_folder_nor_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FlowrankError, match=r"a file to replace.*is a folder"):
        write_file(tmp_path / "folder", overwrite=True)
    with pytest.raises(FlowrankError, match=r"a folder to replace.*is a file"):
        write_folder(tmp_path / "file", overwrite=True)
    assert tree(tmp_path) == {"file": b"old", "folder": None}


@pytest.mark.parametrize("name", [".", "..", "../..", "{here}", "{here}/.."])
def test_a_folder_around_the_current_one_is_never_replaced(tmp_path, monkeypatch, name):
    here = tmp_path / "project" / "results"
    here.mkdir(parents=True)
    (here / "thesis.txt").write_text("old")
    monkeypatch.chdir(here)
    before = tree(tmp_path)
    with pytest.raises(FlowrankError, match="holds the current folder"):
        write_folder(Path(name.format(here=here)), overwrite=True)
    assert tree(tmp_path) == before


def test_a_link_is_replaced_and_its_target_left_alone(write, old, tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to(old)
    before = {name: held for name, held in tree(tmp_path).items() if name.startswith("out")}
    write(link, overwrite=True)
    assert not link.is_symlink()
    assert {name: held for name, held in tree(tmp_path).items() if name.startswith("out")} == before


def test_permissions_are_those_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        assert current_umask() == 0o027
        write_file(tmp_path / "a.txt")
        write_folder(tmp_path / "b")
        assert current_umask() == 0o027
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


def test_refuse_existing_gives_the_path_back(tmp_path):
    assert refuse_existing(str(tmp_path / "a" / "b.csv"), overwrite=False) == tmp_path / "a" / "b.csv"
    assert not (tmp_path / "a").exists()
    (tmp_path / "c.csv").write_text("old")
    assert refuse_existing(tmp_path / "c.csv", overwrite=True) == tmp_path / "c.csv"
    with pytest.raises(FlowrankError, match=r"^output: .*c\.csv"):
        refuse_existing(tmp_path / "c.csv", overwrite=False)
