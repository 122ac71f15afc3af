"""What a training needs to go on, as files of a limited size with digests, and back."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flowrank.errors import FlowrankError
from flowrank.files import refuse_other_run
from flowrank.pretraining.journal import last_whole_checkpoint
from flowrank.pretraining.training import CHECKPOINTS, HARMLESS, LOG, RECIPE_FILE

LIST = "parts.json"
MODEL = ("README.md", "recipe.json", "generation_config.json", "model.safetensors", "config.json")  # the config last
_CHUNK = 1 << 20


def packed(state: Path, out: Path, *, parts: str = "1-4", part_mib: float = 15.0) -> dict[str, Any]:
    """Write some parts of a training, and the list of all.

    Parameters
    ----------
    state
        Folder of a training.
    out
        Folder for the parts; those of an earlier piece that lie there are removed, others of this one stay.
    parts
        ``"5-8"``: the fifth to the eighth.
    part_mib
        Size of a part.

    Raises
    ------
    FlowrankError
        If there is no checkpoint to pack, or the numbers of parts are none.
    """
    first, last = _range(parts)
    names = list(_files(state))
    out.mkdir(parents=True, exist_ok=True)
    earlier = json.loads((out / LIST).read_text("utf-8"))["parts"] if (out / LIST).exists() else []
    writer = _Parts(out, int(part_mib * 2**20), range(first, last + 1))
    with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name in names:
            # The same files give the same bytes whenever they are packed: a second call writes the other parts.
            told = tarfile.TarInfo(name)
            told.size = (state / name).stat().st_size
            with (state / name).open("rb") as file:
                archive.addfile(told, file)
    writer.close()
    checkpoint = last_whole_checkpoint(state / CHECKPOINTS)
    found = {
        "step": checkpoint.step if checkpoint else None,
        "seconds": checkpoint.seconds if checkpoint else None,
        "finished": "config.json" in names,
        "parts": writer.told,
    }
    for old in out.glob("part-*") if earlier != writer.told else ():
        if old.name not in writer.written:
            old.unlink()
    (out / LIST).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    count, size = len(writer.told), sum(one["bytes"] for one in writer.told) / 2**20
    print(
        f"step {found['step']}, {'finished' if found['finished'] else 'not finished'}: parts {first} to "
        f"{min(last, count)} of {count} ({size:.1f} MiB in all) in {out}"
    )
    if last < count:
        following = f"{last + 1}-{min(count, 2 * last - first + 1)}"
        print(f"the rest: benchmarks/gpu/run.sh pack {state} {out} --parts {following}")
    return found


def joined(state: Path, folders: Sequence[Path]) -> None:
    """Put the parts of a training together in its folder.

    Raises
    ------
    FlowrankError
        If parts are missing, damaged or of several packings, or ``state`` holds another training or a later step.
    """
    lists = [json.loads((folder / LIST).read_text("utf-8")) for folder in folders if (folder / LIST).is_file()]
    if len(lists) < len(folders) or any(one != lists[0] for one in lists):
        raise FlowrankError(
            "parts",
            expected=f"folders with the same {LIST}",
            found=", ".join(str(folder) for folder in folders),
            todo="give folders of one packing only",
        )
    paths = list(_checked(lists[0]["parts"], folders))
    last, step = last_whole_checkpoint(state / CHECKPOINTS), lists[0]["step"]
    if last is not None and step is not None and (last.step > step or (last.step == step and not lists[0]["finished"])):
        if last.step == step:
            print(f"{state} is at step {step} already")
            return
        raise FlowrankError(
            "state",
            expected=f"a new folder, or a training that has not gone beyond step {step}",
            found=f"{str(state)!r}, which is at step {last.step}",
            todo="choose another folder",
        )
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state, prefix=".join-") as temporary:
        with tarfile.open(fileobj=_Joined(paths), mode="r|") as archive:  # type: ignore[call-overload]
            archive.extractall(temporary, filter="data")
        _refuse_other(state, Path(temporary))
        for name in (RECIPE_FILE, LOG):
            os.replace(Path(temporary, name), state / name)
        for folder in Path(temporary).glob(f"{CHECKPOINTS}/*"):
            (state / CHECKPOINTS).mkdir(exist_ok=True)
            os.replace(folder, state / CHECKPOINTS / folder.name)
        for name in MODEL:
            if Path(temporary, name).exists():
                os.replace(Path(temporary, name), state / name)
    print(f"{state} is at step {step}" + (", finished" if lists[0]["finished"] else ""))


def has_checkpoint(state: Path) -> bool:
    """Whether there is something to pack."""
    return (state / "config.json").exists() or last_whole_checkpoint(state / CHECKPOINTS) is not None


def _files(state: Path) -> Iterator[str]:
    """Names of the files that the next piece needs; of the model, if the training has ended."""
    finished = (state / "config.json").exists()
    checkpoint = last_whole_checkpoint(state / CHECKPOINTS)
    if not has_checkpoint(state):
        raise FlowrankError(
            "state",
            expected="a training with a whole checkpoint",
            found=repr(str(state)),
            todo="see what the training printed",
        )
    yield from (RECIPE_FILE, LOG)
    if finished:
        yield from (name for name in MODEL if (state / name).exists())
    elif checkpoint is not None:
        yield from sorted(str(path.relative_to(state)) for path in checkpoint.folder.rglob("*") if path.is_file())


def _range(parts: str) -> tuple[int, int]:
    """The first and the last number of ``"5-8"`` or ``"5"``."""
    first, _, last = parts.partition("-")
    if not (first.isdigit() and (last or first).isdigit() and 1 <= int(first) <= int(last or first)):
        raise FlowrankError("parts", expected="numbers such as 5-8", found=repr(parts))
    return int(first), int(last or first)


class _Parts:
    """Takes a stream, writes those of its parts that are wanted, and notes the digest of every one."""

    def __init__(self, folder: Path, size: int, wanted: range) -> None:
        self.folder, self.size, self.wanted = folder, size, wanted
        self.told: list[dict[str, Any]] = []
        self.written: set[str] = set()
        self._held = bytearray()

    def write(self, data: bytes) -> int:
        """Take some bytes."""
        self._held += data
        while len(self._held) >= self.size:
            self._part(bytes(self._held[: self.size]))
            del self._held[: self.size]
        return len(data)

    def close(self) -> None:
        """Write what is left."""
        if self._held:
            self._part(bytes(self._held))
            self._held.clear()

    def _part(self, data: bytes) -> None:
        name = f"part-{len(self.told) + 1:03}"
        if len(self.told) + 1 in self.wanted:
            (self.folder / name).write_bytes(data)
            self.written.add(name)
        self.told.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


class _Joined:
    """Reads files one after the other as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._left = list(paths)
        self._file: BinaryIO | None = None

    def read(self, size: int) -> bytes:
        """Give so many bytes, fewer at the end."""
        found = b""
        while len(found) < size and (self._file or self._left):
            if self._file is None:
                self._file = self._left.pop(0).open("rb")
            more = self._file.read(size - len(found))
            if not more:
                self._file.close()
                self._file = None
            found += more
        return found


def _checked(parts: Sequence[dict[str, Any]], folders: Sequence[Path]) -> Iterator[Path]:
    """Paths of all parts in their order, each of the size and with the digest that it had."""
    for part in parts:
        path = next((folder / part["name"] for folder in folders if (folder / part["name"]).is_file()), None)
        if path is None:
            raise FlowrankError(
                "parts",
                expected=f"{len(parts)} parts",
                found=f"no {part['name']}",
                todo="bring the missing parts back: benchmarks/gpu/run.sh pack … --parts FIRST-LAST",
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != part["sha256"]:
            raise FlowrankError(
                "parts",
                expected=f"{part['name']} as it was packed, {part['bytes']} bytes",
                found=f"{path.stat().st_size} bytes with another digest",
                todo="bring this part back again",
            )
        yield path


def _refuse_other(state: Path, unpacked: Path) -> None:
    """Refuse a folder of another training."""
    recipe = json.loads((unpacked / RECIPE_FILE).read_text("utf-8"))
    own = unpacked.name
    refuse_other_run(
        state,
        RECIPE_FILE,
        recipe,
        run="training",
        argument="state",
        harmless=HARMLESS,
        leftover=lambda path: path.name == own,
    )
