"""The workers a project names under `runner`, started or reached. Knows nothing of what they do."""

from __future__ import annotations

import os
from typing import Literal

from tasks.embedding.runners import Pool

Kind = Literal["processes", "dask", "ray"]


def open_pool(
    kind: Kind, address: str | None = None, workers: int | None = None, threads: int = 1, gpus: float = 0.0
) -> Pool:
    """The workers, ready for shards; whoever opened them closes them.

    Args:
        kind: of runner.
        address: of a Dask scheduler or a Ray cluster; None starts workers on this machine.
        workers: how many; None: one for every `threads` cores of this machine, or all that a cluster has.
        threads: of computation in each.
        gpus: that each takes of a Ray cluster, which hides them from work that asks for none.

    Raises:
        RunnerError: the package is not installed, or the cluster cannot be reached or started.
    """
    if address is None and workers is None:
        workers = max(1, usable_cores() // threads)
    if kind == "processes":
        from tasks.embedding.worker_processes import ProcessPool

        return ProcessPool(workers or 1)
    from tasks.embedding.clusters import DaskPool, RayPool

    return DaskPool(workers, address) if kind == "dask" else RayPool(workers, address, threads, gpus)


def usable_cores() -> int:
    """The processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not say
        return os.cpu_count() or 1
