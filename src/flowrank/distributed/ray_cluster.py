"""A Ray cluster: joined, or started on this machine; its nodes checked, and tasks done by a pool of actors there."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flowrank.distributed.workers import check_workers, looking
from flowrank.errors import FlowrankError, check_count, is_number

Task = TypeVar("Task")
Found = TypeVar("Found")

RETRIES = 3
"""How often a task is done again whose worker died."""
_ANSWER = 5.0  # seconds that the head of a cluster has to accept a connection


def ray_module() -> Any:
    """Ray, with its data sets.

    Raises
    ------
    FlowrankError
        If it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise FlowrankError(
            "ray", expected="Ray Data", found=f"none ({error})", todo='pip install "flowrank[ray]"'
        ) from error
    return ray


def results_of(
    work: Callable[[Task], Found],
    tasks: Sequence[Task],
    *,
    on: str | None,
    workers: int,
    threads: int,
    num_gpus: float,
    paths: dict[str, str],
) -> Iterator[Found]:
    """Do tasks that do not depend on one another, in this process or on Ray.

    On Ray each worker has a copy of ``work`` for as long as it lives, and takes one task at a time, in their order. A
    worker that dies is started again and does its task again, `RETRIES` times at most. One that is left without a task
    goes, so that a cluster can become smaller.

    Parameters
    ----------
    work
        What does a task; it can be pickled.
    tasks
        Can be pickled; their texts say what failed.
    on
        None: this process, one after the other. Otherwise of `ray_cluster`.
    workers, threads, num_gpus
        Processes on Ray, and CPU threads and GPUs of each.
    paths
        By argument; every node has to see them.

    Yields
    ------
    Found
        A result for each task: in their order in this process, in no order on Ray.

    Raises
    ------
    FlowrankError
        That of a task; or if the cluster cannot do them, or a worker dies again and again.
    """
    if on is None:
        with _own_threads():
            yield from map(work, tasks)
    elif tasks:
        with ray_cluster(on, threads, num_gpus) as ray:
            check_nodes(ray, paths)
            options = {"num_cpus": threads, "num_gpus": num_gpus, "max_restarts": -1, "max_task_retries": RETRIES}
            actor = ray.remote(**options)(_Actor)
            pool = [actor.remote(work) for _ in range(min(workers, len(tasks)))]
            try:
                yield from _by_pool(ray, pool, tasks)
            finally:
                for one in pool:
                    ray.kill(one)


def check_cluster(workers: int, threads: int | None, num_gpus: float) -> None:
    """Refuse sizes of a pool of workers that are none.

    Raises
    ------
    FlowrankError
        With the argument.
    """
    check_count(workers, "workers")
    if threads is not None:
        check_count(threads, "threads")
    if not is_number(num_gpus, 0):
        raise FlowrankError("num_gpus", expected="a number ≥ 0", found=repr(num_gpus), todo="pass e.g. 1")


def sent(argument: str, value: Any) -> bytes:
    """A value as workers get it, which ``pickle.loads`` opens.

    Raises
    ------
    FlowrankError
        If it cannot be sent.
    """
    try:
        return bytes(ray_module().cloudpickle.dumps(value))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise FlowrankError(
            argument,
            expected="a path, or what can be sent to workers, such as a data frame or a list of arrays",
            found=f"{type(value).__name__} ({error})",
            todo="write it to a file that every node sees, and pass its path",
        ) from error


class _Actor:
    """Does tasks; what refuses one is handed back in place of its result."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def ready(self) -> None:
        """Answers when the actor has started."""

    def do(self, task: Any) -> Any:
        """Do a task."""
        try:
            return self.work(task)
        except FlowrankError as error:
            return error


def _by_pool(ray: Any, pool: list[Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Results of tasks, each given to an actor that has started and has nothing to do."""
    busy: dict[Any, tuple[Any, int | None]] = {actor.ready.remote(): (actor, None) for actor in pool}
    waiting, left = iter(range(len(tasks))), len(tasks)
    while left:
        [done], _ = ray.wait([*busy], num_returns=1)
        actor, number = busy.pop(done)
        try:
            found = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OSError):  # as a full disk, told as it is in one process
                raise error.cause from error
            raise  # a fault of the work, with its traceback
        except ray.exceptions.RayError as error:
            raise FlowrankError(
                "workers",
                expected="processes that live until their task is done",
                found=f"one that died {RETRIES + 1} times, {'at its start' if number is None else tasks[number]} "
                f"({str(error).splitlines()[0]})",
                todo="give each more memory: fewer workers on a node, or smaller batches",
            ) from error
        if isinstance(found, FlowrankError):
            raise found
        if (following := next(waiting, None)) is None:
            ray.kill(actor)
        else:
            busy[actor.do.remote(tasks[following])] = (actor, following)
        if number is not None:
            left -= 1
            yield found


@contextmanager
def _own_threads() -> Iterator[None]:
    """Work sets torch's threads as workers have them; afterwards they are again as the caller had them."""
    torch = sys.modules.get("torch")  # where no model needs it, it is not there
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


@contextmanager
def ray_cluster(on: str, threads: int = 1, num_gpus: float = 0) -> Iterator[Any]:
    """Ray, in the cluster at an address, for as long as it is needed.

    Parameters
    ----------
    on
        "ray": the cluster that this process or machine belongs to, or a new one on this machine; or an address,
        "ray://HOST:PORT" or "HOST:PORT".
    threads, num_gpus
        CPUs and GPUs of a worker; a new cluster on a machine with less of them is refused, as it would wait forever.

    Raises
    ------
    FlowrankError
        If Ray is not installed, none answers, or the machine is too small.
    """
    ray = ray_module()
    mine = not ray.is_initialized()
    try:
        if mine and _join(ray, on):
            _check_room(ray.cluster_resources(), threads, num_gpus)
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _join(ray: Any, on: str) -> bool:
    """Join the cluster at an address, or start one here; whether it is a new one."""
    address = (os.environ.get("RAY_ADDRESS") or None) if on in ("ray", "ray://") else on
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
            return False
        try:
            if last := _last_started():
                _knock(last)
            ray.init(address="auto", **quiet)
        except OSError:
            ray.init(address="local", include_dashboard=False, **quiet)
            return True
        return False
    except (OSError, ValueError, RuntimeError) as error:
        raise FlowrankError(
            "on",
            expected='"ray", or the address of a Ray cluster, such as ray://head:10001',
            found=f"{address or on!r}, where none answers ({str(error).splitlines()[0]})",
            todo="start one (ray start --head), correct the address, or give the token of its cluster "
            "(RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)",
        ) from error


def _last_started() -> str:
    """Address of the cluster that was last started or joined on this machine, which Ray joins though it be gone."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    try:
        return (folder / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _knock(address: str) -> None:
    """Raise OSError where no one listens, for which Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()


def _check_room(has: dict[str, float], threads: int, num_gpus: float) -> None:
    """Refuse workers that no place of a new cluster is large enough for."""
    for argument, asked, kind in (("threads", threads, "CPU"), ("num_gpus", num_gpus, "GPU")):
        if asked > has.get(kind, 0):
            raise FlowrankError(
                argument,
                expected=f"at most {has.get(kind, 0):g}, as this machine has {kind}s",
                found=asked,
                todo="pass less, or join a cluster (on=ray://HOST:PORT)",
            )


def check_nodes(ray: Any, paths: dict[str, str]) -> None:
    """Refuse a cluster with a node that lacks this flowrank, or a path of this machine that workers are given.

    Raises
    ------
    FlowrankError
        If there is one.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(looking(paths))
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    placed = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False)) for one in nodes]
    todo = "install it into the image of every node (pip install, or runtime_env)"
    check_workers(ray.get([one.remote() for one in placed]), paths, todo)
