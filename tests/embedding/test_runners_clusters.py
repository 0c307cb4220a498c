"""Two workers of a real Dask and of a real Ray cluster on loopback: equal to this process, whoever is killed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import fingerprint
from tasks.embedding.runners import ATTEMPTS, Pool, RunnerError
from tasks.embedding.sharding import Job, Shard, encode_shard
from tests.embedding.spread_items import HASH, ITEMS, SHARD_ROWS, locally, same, spread
from tests.embedding.traps import images, trapped

ABSENT = "{0} is not installed; it comes with the extra llm-flywheel[{0}]"
OpenPool = Callable[[], Pool]

pytestmark = [
    pytest.mark.slow,
    # Ray and Dask leave sockets and files to the garbage collector when a cluster is shut down.
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    """A scheduler with two worker processes, as it might stand elsewhere."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip(ABSENT.format("dask"))
    from tasks.embedding.clusters import local_dask

    with local_dask(2) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def ray_workers() -> Iterator[None]:
    """A Ray of two cores; whoever opens a pool in this process finds it there."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip(ABSENT.format("ray"))
    from tasks.embedding.clusters import RayPool

    try:
        pool = RayPool(2)
    except Exception:
        if not _ray_starts():
            pytest.skip("Ray itself does not start on this machine")
        raise
    with closing(pool):
        yield


def _ray_starts() -> bool:
    """Whether Ray starts a cluster of its own here, without anything of ours."""
    code = "import ray; ray.init(num_cpus=1, include_dashboard=False); ray.shutdown()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.fixture(params=["dask", "ray"])
def open_two(request: pytest.FixtureRequest) -> OpenPool:
    """Opens the pool of two workers of either cluster."""
    if request.param == "dask":
        address = request.getfixturevalue("dask_address")
        from tasks.embedding.clusters import DaskPool

        return partial(DaskPool, None, address)
    request.getfixturevalue("ray_workers")
    from tasks.embedding.clusters import RayPool

    return partial(RayPool, 2)


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return images(tmp_path_factory.mktemp("items"), ITEMS)


def test_two_workers_give_what_this_process_gives(
    open_two: OpenPool, tmp_path: Path, frame: pl.DataFrame
) -> None:
    """Equal key by key, one part a shard; a second run finds all of it cached."""
    done = spread(open_two, tmp_path / "spread", frame)
    assert (done.encoded, done.cached, done.total) == (ITEMS, 0, ITEMS)
    cache = cache_for(HASH, tmp_path / "spread")
    assert same(cache, locally(tmp_path / "local", frame), frame)
    assert [part.rows for part in cache.parts()] == [SHARD_ROWS] * 4
    assert spread(open_two, tmp_path / "spread", frame).encoded == 0


def test_a_worker_killed_in_the_middle_of_a_shard(
    open_two: OpenPool, tmp_path: Path, frame: pl.DataFrame
) -> None:
    """SIGKILL while it reads the shard's seventh item: another one does it, and the result is the local one's."""
    with trapped(Path(frame["text"][SHARD_ROWS + 6]), 1) as trap:
        done = spread(open_two, tmp_path / "spread", frame)
        assert len(trap.killed) == 1
    assert trap.killed[0] != os.getpid()
    assert done.encoded == ITEMS
    cache = cache_for(HASH, tmp_path / "spread")
    assert same(cache, locally(tmp_path / "local", frame), frame)
    assert sum(part.rows for part in cache.parts()) == ITEMS


def test_an_item_that_kills_every_dask_worker_is_named_and_the_rest_is_cached(
    dask_address: str, tmp_path: Path, frame: pl.DataFrame
) -> None:
    """Three kills: an error with the shard and its first key; a rerun encodes that shard alone."""
    from tasks.embedding.clusters import DaskPool

    first, pool = frame["key"][2 * SHARD_ROWS].hex(), partial(DaskPool, None, dask_address)
    with (
        trapped(Path(frame["text"][2 * SHARD_ROWS]), ATTEMPTS) as trap,
        pytest.raises(RunnerError, match=rf"shard 3 \(12 items, the first of key {first}\) ended 3 workers"),
    ):
        spread(pool, tmp_path, frame)
    assert len(set(trap.killed)) == ATTEMPTS
    rerun = spread(pool, tmp_path, frame)
    assert (rerun.encoded, rerun.cached) == (SHARD_ROWS, ITEMS - SHARD_ROWS)


def test_an_error_in_a_worker_comes_back_in_its_words(open_two: OpenPool, tmp_path: Path) -> None:
    """What nobody foresaw too: the future raises it, and it is no lost worker."""
    broken: Any = Shard(1, None)  # type: ignore[arg-type]
    with closing(open_two()) as pool:
        error = pool.submit(
            encode_shard, Job(HASH, str(tmp_path / fingerprint(HASH)), "image"), broken
        ).exception()
    assert error is not None
    assert not isinstance(error, pool.lost)


def test_a_dask_started_for_the_run_ends_with_it(tmp_path: Path, frame: pl.DataFrame) -> None:
    """Without an address a scheduler and two workers come and go; all on loopback, no process is left."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip(ABSENT.format("dask"))
    from tasks.embedding.clusters import DaskPool

    before, heard_before = set(children()), listening()  # Ray's may be there, on all interfaces
    outside: list[tuple[int, str, int]] = []

    def look(*_: object) -> None:
        outside.extend(one for one in listening() - heard_before if not one[1].startswith("127."))

    done = spread(lambda: DaskPool(2), tmp_path, frame, progress=look)
    assert done.encoded == ITEMS
    assert outside == []
    assert children() <= before


def listening() -> set[tuple[int, str, int]]:
    """Process, address and port of what this process and its children hear."""
    return {
        (one.pid, found.laddr.ip, found.laddr.port)
        for one in [psutil.Process(), *children()]
        for found in one.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }


def children() -> set[psutil.Process]:
    """The live child processes but multiprocessing's own, which stays as long as this one."""
    found = psutil.Process().children(recursive=True)
    return {one for one in found if one.is_running() and "resource_tracker" not in " ".join(one.cmdline())}


def test_an_address_where_nobody_is() -> None:
    """An error with the address and what to correct, soon."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip(ABSENT.format("dask"))
    from tasks.embedding.clusters import DaskPool

    with pytest.raises(RunnerError, match=r"no cluster at tcp://127\.0\.0\.1:9 .*runner\.address"):
        DaskPool(None, "tcp://127.0.0.1:9", connect_seconds=0.5)
