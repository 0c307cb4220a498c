"""Workers of a Dask or a Ray cluster: one that stands at an address, or one that is started here for the run.

Knows nothing of encoders.
"""

# Not Prefect's task runners (3.8.8; prefect-dask 0.3.7, prefect-ray 0.6.0). Each task run reports to Prefect's server
# from its worker, and the server of a command without `flywheel up` listens on this machine's loopback alone: a worker
# elsewhere does not reach it, and six tasks of 0.3 s took two local Dask workers 53 s. ProcessPoolTaskRunner does not
# replace a pool that a killed process broke, DaskTaskRunner's future hides that a worker died, and prefect-ray brings
# Ray's dashboard with fourteen packages.

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tasks.embedding.runners import RunnerError, Work
from tasks.embedding.sharding import Finished, Job, Shard

CONNECT_SECONDS = 30.0
LOOPBACK = "127.0.0.1"


class DaskPool:
    """The workers of a Dask scheduler, a shard each at a time, however many threads they have.

    Args:
        workers: how many to start; of a cluster at an address, how many to use at most (None: all).
        address: of a scheduler; None starts one here, on loopback, without a dashboard.
        connect_seconds: how long to try to reach it.

    Raises:
        RunnerError: Dask is not installed, or there is no scheduler at the address.
    """

    name = "dask"

    def __init__(
        self, workers: int | None, address: str | None = None, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise _not_installed("dask") from error
        self.lost: tuple[type[BaseException], ...] = (distributed.KilledWorker,)
        self._most, self._closing = workers, ExitStack()
        self._held: dict[Future[Finished], Any] = {}
        try:
            if address is None:
                cluster = self._closing.enter_context(local_dask(workers or 1))
                self._client = distributed.Client(cluster, set_as_default=False)
            else:
                self._client = distributed.Client(address, timeout=connect_seconds, set_as_default=False)
            self._closing.callback(self._client.close)
        except (OSError, ValueError, TimeoutError) as error:
            self._closing.close()
            raise _unreachable("dask", address, error) from error

    def slots(self) -> int:
        """As many as there are workers now."""
        try:
            there = len(self._client.nthreads())
        except (OSError, TimeoutError):  # the scheduler is gone; it may come back
            return 0
        return there if self._most is None else min(there, self._most)

    def submit(self, work: Work, job: Job, shard: Shard) -> Future[Finished]:
        """Have a worker do it."""
        result: Future[Finished] = Future()
        theirs = self._client.submit(
            work, job, shard, key=f"encode-shard-{shard.number}-{time.monotonic_ns()}", pure=False
        )
        self._held[result] = theirs  # what nobody holds, Dask forgets

        def settle(ended: Any) -> None:
            self._held.pop(result, None)
            if ended.status == "finished":
                result.set_result(ended.result())
            elif ended.status == "error":
                result.set_exception(ended.exception())
            else:
                result.set_exception(
                    RunnerError(
                        "dask",
                        f"the scheduler gave {shard} up ({ended.status})",
                        "Is it still there? Run it again: what is cached stays.",
                    )
                )

        theirs.add_done_callback(settle)
        return result

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        for theirs in list(self._held.values()):
            theirs.cancel(force=True)
        self._closing.close()


@contextmanager
def local_dask(workers: int) -> Iterator[Any]:
    """A Dask cluster on loopback, so many processes of one thread, without dashboards, ended with the block."""
    import dask
    import distributed

    here = {
        "distributed.scheduler.allowed-failures": 0,  # attempts are counted here, for every runner the same
        "distributed.worker.memory.terminate": False,
    }
    with (
        _folder("flywheel-dask-") as folder,
        dask.config.set(here),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",  # None would be port 8787 of every interface
            worker_dashboard_address=f"{LOOPBACK}:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            local_directory=str(folder),
        ) as cluster,
    ):
        yield cluster


class RayPool:
    """The processor cores of a Ray cluster, a shard for every `threads` of them; a GPU each where one is asked for.

    Args:
        workers: how many to start; of a cluster at an address, how many shards at a time at most (None: as many as
            it has cores for).
        address: of a cluster, `auto` or `ray://HOST:10001`; None starts one here, on loopback, without a dashboard.
        threads: cores that a shard takes.
        gpus: GPUs that a shard takes.

    Raises:
        RunnerError: Ray is not installed, or there is no cluster at the address.
    """

    name = "ray"

    def __init__(
        self, workers: int | None, address: str | None = None, threads: int = 1, gpus: float = 0.0
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise _not_installed("ray") from error
        kinds = ray.exceptions
        self.lost: tuple[type[BaseException], ...] = (
            kinds.WorkerCrashedError,
            kinds.NodeDiedError,
            kinds.OutOfMemoryError,
            kinds.LocalRayletDiedError,
            kinds.ObjectLostError,
        )
        self._ray, self._most, self._closing = ray, workers, ExitStack()
        self._cores = threads
        self._options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0}
        self._remote: dict[Work, Any] = {}
        try:
            if not ray.is_initialized():
                if address is None:
                    folder = self._closing.enter_context(_folder("ray-"))
                    if (
                        "RAY_AUTH_TOKEN_PATH" not in os.environ
                    ):  # left alone, Ray writes one into the home folder
                        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                    self._closing.callback(ray.shutdown)
                    ray.init(
                        address="local",
                        num_cpus=(workers or 1) * threads,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level="ERROR",
                        _node_ip_address=LOOPBACK,
                        _temp_dir=str(folder),
                    )
                else:
                    self._closing.callback(ray.shutdown)
                    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            self._closing.close()
            raise _unreachable("ray", address, error) from error

    def slots(self) -> int:
        """As many as the cluster's cores, and GPUs where they are asked for, have room for now."""
        has, gpus = self._ray.cluster_resources(), self._options["num_gpus"]
        there = int(has.get("CPU", 0)) // self._cores
        if gpus:
            there = min(there, int(has.get("GPU", 0) / gpus))
        return there if self._most is None else min(there, self._most)

    def submit(self, work: Work, job: Job, shard: Shard) -> Future[Finished]:
        """Have a worker do it."""
        if work not in self._remote:  # each one made is kept by the cluster
            self._remote[work] = self._ray.remote(**self._options)(work)
        future: Future[Finished] = self._remote[work].remote(job, shard).future()
        return future

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        self._closing.close()


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A folder for a cluster's logs and sockets, gone at the end; Ray leaves its own behind."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _not_installed(runner: str) -> RunnerError:
    return RunnerError(
        runner,
        "its package is not installed",
        f'pip install "llm-flywheel[{runner}]", on the workers too, or set runner: processes.',
    )


def _unreachable(runner: str, address: str | None, error: BaseException) -> RunnerError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    where = f"there is no cluster at {address}" if address else "no cluster could be started here"
    return RunnerError(
        runner,
        f"{where} ({reason})",
        "Correct runner.address, or leave it out for one that is started for the run.",
    )
