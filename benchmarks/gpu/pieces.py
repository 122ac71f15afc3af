"""A training in pieces, on a machine that is reached for a few minutes at a time: train, pack, join.

benchmarks/gpu/run.sh train RECIPE --state DIR --out DIR [--minutes 9] [-- OPTIONS OF flowrank pretrain]
benchmarks/gpu/run.sh pack DIR OUT [--parts 5-8]
benchmarks/gpu/run.sh join DIR PARTS [PARTS …]

`train` goes on with the training in the state folder, or begins one, and ends it with a checkpoint so many minutes
after the script was started; then it packs. `pack` writes what the next piece needs (the last whole checkpoint with
weights, optimiser and random states, the log and the recipe; of a finished training the model instead) as files of a
limited size and a list of them with their digests, parts.json. `join` puts such files, from one or several folders,
together again in a state folder that is new or behind them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flowrank.errors import FlowrankError  # what takes seconds to import is imported once training has ended


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the three, and give an exit status."""
    given = list(sys.argv[1:] if words is None else words)
    given, further = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train for some minutes, and pack")
    train.add_argument("recipe", type=Path, help="YAML file of a recipe")
    train.add_argument("--state", type=Path, required=True, help="folder of the training")
    train.add_argument("--out", type=Path, required=True, help="folder for the parts")
    train.add_argument("--minutes", type=float, default=9.0, help="until training stops, from the start of the script")
    train.add_argument("--device", choices=["auto", "cpu"], default="auto")
    train.add_argument("--workers", type=int, help="processes that make series; default: two fewer than there are CPUs")
    pack = commands.add_parser("pack", help="pack what a piece left")
    pack.add_argument("state", type=Path)
    pack.add_argument("out", type=Path)
    for one in (train, pack):
        one.add_argument("--parts", default="1-4", help="numbers of the first and the last part; default: 1-4")
        one.add_argument("--part-mib", type=float, default=15.0, help="size of a part")
    join = commands.add_parser("join", help="put parts together")
    join.add_argument("state", type=Path)
    join.add_argument("parts", type=Path, nargs="+", help="folders that hold parts")
    settings = parser.parse_args(given)
    if further and settings.command != "train":
        parser.error("only train takes options of flowrank pretrain")
    try:
        status = trained(settings, further) if settings.command == "train" else 0
        import packing

        if settings.command == "join":
            packing.joined(settings.state, settings.parts)
        elif not status or packing.has_checkpoint(settings.state):
            packing.packed(settings.state, settings.out, parts=settings.parts, part_mib=settings.part_mib)
    except FlowrankError as error:
        print(f"error {error}", file=sys.stderr)
        return 2
    return status


def trained(settings: argparse.Namespace, further: Sequence[str]) -> int:
    """Train until the minutes are over; gives the exit status of the training."""
    passed = time.time() - float(os.environ.get("STARTED", time.time()))
    left = settings.minutes - passed / 60
    if left <= 0:
        raise FlowrankError("minutes", expected=f"more than the {passed:.0f} seconds used up", found=settings.minutes)
    spare = max(0, (os.cpu_count() or 1) - 2)
    workers = spare if settings.workers is None else settings.workers
    command = [sys.executable, "-m", "flowrank.cli", "pretrain", str(settings.state), "--config", str(settings.recipe)]
    command += ["--device", settings.device, "--quiet", "--dataloader-num-workers", str(workers), *further]
    status = subprocess.run([*command, "--stop-after", f"{left:.4f}"], check=False).returncode
    log = settings.state / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines()[-3:] if log.exists() else ():
        print(line)
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
