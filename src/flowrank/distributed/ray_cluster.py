"""A Ray cluster: joined, or started on this machine; its nodes checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowrank.distributed.workers import check_workers, looking
from flowrank.errors import FlowrankError


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


@contextmanager
def ray_cluster(on: str) -> Iterator[Any]:
    """Ray, in the cluster at an address, for as long as it is needed.

    Parameters
    ----------
    on
        "ray": the cluster that this process or machine belongs to, or a new one on this machine; or an address,
        "ray://HOST:PORT" or "HOST:PORT".

    Raises
    ------
    FlowrankError
        If Ray is not installed, or none answers.
    """
    ray = ray_module()
    mine = not ray.is_initialized()
    if mine:
        _join(ray, on)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _join(ray: Any, on: str) -> None:
    """Join the cluster at an address, or start one here."""
    address = None if on in ("ray", "ray://") else on
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False)
            return
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            ray.init(include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise FlowrankError(
            "on",
            expected='"ray", or the address of a Ray cluster, such as ray://head:10001',
            found=f"{on!r}, where none answers ({str(error).splitlines()[0]})",
            todo="start one (ray start --head), or correct the address",
        ) from error


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
