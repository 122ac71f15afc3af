"""Outputs appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowrank.errors import FlowrankError
from flowrank.files import atomic_file, atomic_folder, read_json_lines, refuse_existing

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


@pytest.fixture
def umask():
    """Let groups read and nobody else, as long as a test runs."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_permissions_are_those_of_any_new_file(tmp_path, umask, monkeypatch):
    def refused(_mask):
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(os, "umask", refused)
    write_file(tmp_path / "a.txt")
    write_folder(tmp_path / "b")
    monkeypatch.undo()
    assert mode(tmp_path / "a.txt") == 0o640
    assert mode(tmp_path / "b") == 0o750
    assert mode(tmp_path / "b" / "inner" / "a.txt") == 0o640


def test_a_writer_that_puts_a_private_file_in_its_place(tmp_path, umask):
    with atomic_file(tmp_path / "a.safetensors") as temporary:
        save_file({"a": torch.ones(2)}, temporary)
    assert mode(tmp_path / "a.safetensors") == 0o640


def test_replacing_an_output_that_was_private(write, old, umask):
    """A new output is a new file; permissions of the old one do not matter."""
    old.chmod(0o700)
    write(old, overwrite=True)
    assert mode(old) == (0o750 if old.is_dir() else 0o640)


def test_two_threads_write_and_a_third_opens_files_of_its_own(tmp_path, umask, monkeypatch):
    """While outputs come into being, files that others make have the permissions that they should."""
    change = os.umask

    def slow(mask: int) -> int:
        before = change(mask)
        time.sleep(1e-3)  # whoever changes the umask gives others the time to meet it
        return before

    monkeypatch.setattr(os, "umask", slow)
    done = threading.Event()

    def outputs(thread: int) -> None:
        for number in range(150):
            write_file(tmp_path / f"{thread}-{number}.txt")
            write_folder(tmp_path / f"{thread}-{number}")

    def others() -> int:
        number = 0
        while not done.is_set() or number < 300:
            (tmp_path / f"other-{number}.txt").write_text("other")
            number += 1
        return number

    try:
        with ThreadPoolExecutor(3) as pool:
            other = pool.submit(others)
            writing = [pool.submit(outputs, thread) for thread in range(2)]
            for one in writing:
                one.result(120)
            done.set()
            assert other.result(120) >= 300
    finally:
        done.set()
    assert {mode(path) for path in tmp_path.iterdir() if path.is_file()} == {0o640}
    assert {mode(path) for path in tmp_path.iterdir() if path.is_dir()} == {0o750}
    assert len([path for path in tmp_path.iterdir() if not path.name.startswith("other")]) == 600


def test_refuse_existing_gives_the_path_back(tmp_path):
    assert refuse_existing(str(tmp_path / "a" / "b.csv"), overwrite=False) == tmp_path / "a" / "b.csv"
    assert not (tmp_path / "a").exists()
    (tmp_path / "c.csv").write_text("old")
    assert refuse_existing(tmp_path / "c.csv", overwrite=True) == tmp_path / "c.csv"
    with pytest.raises(FlowrankError, match=r"^output: .*c\.csv"):
        refuse_existing(tmp_path / "c.csv", overwrite=False)


@pytest.mark.parametrize(
    ("text", "skip", "stop"),
    [
        ('{"a": 1}\n{"a": 2}\n', 2, 2),
        ('{"a": 1}\n\n{"a": 2}\n', 2, 2),
        ('{"a": 1}\n{"a": 2}\n{"a', 2, 2),  # cut off
        ('{"a": 1}\n{"a{"a": 2}\n{"a": 2}\n', 2, 1),  # cut off, then gone on with
        ("", 0, 0),
    ],
)
def test_lines_of_a_log(tmp_path, text, skip, stop):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    expected = [{"a": 1}, {"a": 2}]
    assert read_json_lines(path, broken="skip") == expected[:skip]
    assert read_json_lines(path, broken="stop") == expected[:stop]


def test_a_log_that_is_none_is_refused_where_a_cut_off_line_is_not(tmp_path):
    path = tmp_path / "log.jsonl"
    for text in ('{"a{"a": 2}\n{"a": 2}\n', "not a log"):
        path.write_text(text)
        with pytest.raises(ValueError, match="line 1"):
            read_json_lines(path, broken="refuse")
    path.write_text('{"a": 1}\n{"a')
    assert read_json_lines(path, broken="refuse") == [{"a": 1}]
