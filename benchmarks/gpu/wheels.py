"""What a machine that has torch still needs to train flowrank's models and to time them: wheels, and what is missing.

benchmarks/gpu/run.sh wheels FOLDER [--python 3.12] [--only NAME …]
benchmarks/gpu/run.sh missing
benchmarks/gpu/run.sh wheels --list

`wheels` downloads what requirements.txt lists, for Linux on x86-64, and says which wheels are pure Python and fit any
machine. `missing` says on that machine what is not there, or older. `--list` writes requirements.txt anew, by what the
packages installed here need and the versions of constraints.txt. The list is closed: nothing is resolved on the
machine, and nothing that comes with torch is on it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

HERE = Path(__file__).parent
LIST, CONSTRAINTS = HERE / "requirements.txt", HERE.parents[1] / "constraints.txt"
NEEDED = (
    *("accelerate", "chronos-forecasting", "huggingface_hub", "jaxtyping", "numpy", "pandas", "PyYAML", "psutil"),
    *("rich", "safetensors", "scipy", "transformers", "typer"),
)
"""What training on synthetic series and the engines import; the rest follows. Series in Parquet need pyarrow too."""
THERE = {"torch", "hf-xet"}  # with all that torch needs; the second speeds up downloads, of which there are none
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(words: Sequence[str] | None = None) -> int:
    """Run it, and give an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("missing", help="what is not there, or older")
    wheels = commands.add_parser("wheels", help="download wheels")
    wheels.add_argument("folder", type=Path, nargs="?")
    wheels.add_argument("--python", default="3.12", help="version of Python there")
    wheels.add_argument("--only", nargs="+", default=[], help="packages, where not all are missing")
    wheels.add_argument("--list", action="store_true", help="write requirements.txt anew, with what is installed here")
    settings = parser.parse_args(words)
    if settings.command == "missing":
        print("\n".join(missing()) or "nothing is missing")
    elif settings.list:
        LIST.write_text("".join(f"{line}\n" for line in pinned()), encoding="utf-8")
    elif settings.folder is None:
        parser.error("wheels needs a folder")
    else:
        return downloaded(settings.folder, settings.python, settings.only)
    return 0


def listed() -> dict[str, str]:
    """Versions on the list, by name."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def missing() -> Iterator[str]:
    """Packages of the list that are not installed, or in an older version."""
    for name, wanted in listed().items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield f"{name}=={wanted}"
            continue
        if _numbers(found) < _numbers(wanted):
            yield f"{name}=={wanted}  # {found} is there"


def downloaded(folder: Path, python: str, only: Sequence[str]) -> int:
    """Download wheels, and say of each how large it is and what it fits."""
    known = {_plain(name): f"{name}=={pin}" for name, pin in listed().items()}
    unknown = [name for name in only if _plain(name) not in known]
    if unknown:
        print(f"error only: expected packages of {LIST.name}, found {', '.join(unknown)}", file=sys.stderr)
        return 2
    chosen = [known[_plain(name)] for name in only] or list(known.values())
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", python, *(word for one in PLATFORMS for word in ("--platform", one)), *chosen]
    status = subprocess.run(command, check=False).returncode
    total = 0.0
    for path in sorted(folder.glob("*.whl"), key=lambda path: -path.stat().st_size):
        size = path.stat().st_size / 2**20
        total += size
        print(f"{size:8.2f} MiB  {'any machine' if path.stem.endswith('-any') else 'this platform'}  {path.name}")
    print(f"{total:8.2f} MiB in all")
    return status


def pinned() -> Iterator[str]:
    """Lines of the list: all that is needed, at the versions of constraints.txt for Python 3.11 and newer."""
    from packaging.requirements import Requirement

    target = {"python_version": "3.12", "python_full_version": "3.12.0", "platform_machine": "x86_64", "extra": ""}
    pins = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate(target):
                pins[_plain(one.name)] = f"{one.name}{one.specifier}"
    found: set[str] = set()

    def collect(name: str, into: set[str], without: set[str]) -> None:
        if _plain(name) in into | without:
            return
        into.add(_plain(name))
        for text in requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate(target):
                collect(one.name, into, without)

    there: set[str] = set(THERE)
    for text in requires("torch") or ():
        if "extra ==" not in text and "nvidia" not in text:
            collect(Requirement(text).name, there, set())
    for name in NEEDED:
        collect(name, found, there)
    yield "# What training and timing need beside torch, on Linux with Python 3.12; written by `run.sh wheels --list`."
    yield from (pins[name] for name in sorted(found))


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".") if part.isdigit())


if __name__ == "__main__":
    sys.exit(main())
