"""Handing shards out: bounded, again where a worker is lost, killers named; real worker processes killed with -9."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import polars as pl
import psutil
import pytest

from tasks.embedding.embed import cache_for
from tasks.embedding.runners import ATTEMPTS, Pool, RunnerError, Work, run_shards
from tasks.embedding.sharding import SHARD_BYTES, Finished, Job, Shard, encode_shard, shards
from tasks.embedding.worker_processes import ProcessPool
from tasks.errors import EncoderError
from tests.conftest import ROOT
from tests.embedding.spread_items import HASH, ITEMS, SHARD_ROWS, locally, same, spread
from tests.embedding.traps import images, trapped

T = TypeVar("T")


class LostError(Exception):
    """What the workers below raise for a process that died."""


class ThreadsThatDie:
    """Workers that are threads and lose what they are told to: a shard's number, and how often."""

    name, lost = "threads that die", (LostError,)

    def __init__(self, slots: int, deaths: dict[int, int]) -> None:
        self._slots, self._deaths = slots, Counter(deaths)
        self._threads = ThreadPoolExecutor(slots)
        self._counting, self.at_once = threading.Lock(), 0
        self.given: list[int] = []
        self.beside: list[tuple[int, int]] = []

    def slots(self) -> int:
        return self._slots

    def submit(self, work: Work, job: Job, shard: Shard) -> Future[Finished]:
        with self._counting:
            self.given.append(shard.number)
            self.beside.append((shard.number, self.at_once))
            self.at_once += 1
        return self._threads.submit(self._run, work, job, shard)

    def _run(self, work: Work, job: Job, shard: Shard) -> Finished:
        with self._counting:
            self._deaths[shard.number] -= 1
            dies = self._deaths[shard.number] >= 0
        try:
            if dies:
                raise LostError("killed")
            return work(job, shard)
        finally:
            with self._counting:
                self.at_once -= 1

    def close(self) -> None:
        self._threads.shutdown()


def shard(number: int) -> Shard:
    items = {"key": [number.to_bytes(16, "big")], "text": ["a"], "image": [None]}
    return Shard(
        number, pl.DataFrame(items, schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary})
    )


JOB = Job(HASH, "nowhere", "text")


def count(_: Job, given: Shard) -> Finished:
    return Finished(given.items.height)


def test_every_shard_is_done_once_and_no_more_are_taken_than_there_is_room_for() -> None:
    """Twenty shards, three workers: read one ahead at most, each handed out once."""
    taken: list[int] = []

    def read() -> Iterator[Shard]:
        for number in range(1, 21):
            taken.append(number)
            yield shard(number)

    with closing(ThreadsThatDie(3, {})) as pool:
        done = []
        for one, finished in run_shards(pool, count, JOB, read()):
            done.append(one.number)
            assert finished.encoded == 1
            assert len(taken) - len(done) <= 3 + 1
    assert sorted(done) == list(range(1, 21))
    assert sorted(pool.given) == sorted(done)
    assert max(beside for _, beside in pool.beside) < 3


@pytest.mark.parametrize("deaths", [{2: 1}, {2: 2}, {1: 1, 2: 1, 3: 2}])
def test_a_lost_shard_is_done_again(deaths: dict[int, int]) -> None:
    """So many workers die, every shard is finished, and only the lost ones were given twice or thrice."""
    with closing(ThreadsThatDie(2, deaths)) as pool:
        done = [one.number for one, _ in run_shards(pool, count, JOB, map(shard, range(1, 9)))]
    assert sorted(done) == list(range(1, 9))
    assert Counter(pool.given) == {number: 1 + deaths.get(number, 0) for number in range(1, 9)}


def test_a_shard_that_ends_every_worker_is_named_when_the_rest_is_done() -> None:
    """Three attempts, the last one alone; all other shards are finished before the error, which says who it was."""
    done: list[int] = []
    with (
        closing(ThreadsThatDie(2, {4: 99})) as pool,
        pytest.raises(
            RunnerError, match=r"shard 4 \(1 items, the first of key 0+4\) ended 3 workers.*shard_rows"
        ),
    ):
        done.extend(one.number for one, _ in run_shards(pool, count, JOB, map(shard, range(1, 9))))
    assert sorted(done) == [1, 2, 3, 5, 6, 7, 8]
    assert Counter(pool.given)[4] == ATTEMPTS
    assert pool.beside[-1] == (4, 0), "the last attempt had no neighbour"


def test_where_every_worker_dies_nobody_goes_on_for_ever() -> None:
    """No shard ever finishes: after some deaths in a row the run ends, however many shards are left."""
    with (
        closing(ThreadsThatDie(2, dict.fromkeys(range(1, 1000), 9))) as pool,
        pytest.raises(RunnerError, match=r"6 workers in a row died.*memory"),
    ):
        list(run_shards(pool, count, JOB, map(shard, range(1, 1000))))
    assert len(pool.given) <= 6 + 2


def test_a_worker_that_died_after_writing_costs_nothing() -> None:
    """What is cached is not encoded again."""
    with closing(ThreadsThatDie(2, {2: 9})) as pool:
        done = {
            one.number: finished.encoded
            for one, finished in run_shards(
                pool, count, JOB, map(shard, range(1, 5)), is_cached=lambda one: one.number == 2
            )
        }
    assert done == {1: 1, 2: 1, 3: 1, 4: 1}
    assert Counter(pool.given)[2] == 1


def test_an_error_of_a_shard_ends_the_run_when_the_others_at_work_are_finished() -> None:
    """The error comes through; what was being worked on is done, the many others are never begun."""
    begun, ended = list[int](), list[int]()
    second_works, first_fails = threading.Event(), threading.Event()

    def work(_: Job, given: Shard) -> Finished:
        begun.append(given.number)
        if given.number == 1:
            assert second_works.wait(10)
            first_fails.set()
            raise ValueError("not a number")
        second_works.set()
        assert first_fails.wait(10)
        ended.append(given.number)
        return Finished(1)

    with closing(ThreadsThatDie(2, {})) as pool, pytest.raises(ValueError, match="not a number"):
        list(run_shards(pool, work, JOB, map(shard, range(1, 1000))))
    assert sorted(ended) == sorted({*begun} - {1})
    assert 2 in ended
    assert len(begun) < 100


def test_without_any_worker_the_wait_ends() -> None:
    """A cluster whose workers are all gone is an error that says so."""
    with closing(ThreadsThatDie(1, {})) as pool:
        pool._slots = 0
        with pytest.raises(RunnerError, match=r"has had no worker for 0 s.*Start some"):
            list(run_shards(pool, count, JOB, [shard(1)], patience_seconds=0.0))


def test_shards_are_cut_by_rows_and_by_bytes() -> None:
    """In the order given, each key once; a shard of long texts has fewer items, one giant stands alone."""
    sizes = [10] * 5 + [SHARD_BYTES // 2 + 1] * 3 + [2 * SHARD_BYTES] + [10] * 3
    texts = [chr(97 + place) * size for place, size in enumerate(sizes)]
    frame = pl.DataFrame(
        {
            "key": [n.to_bytes(16, "big") for n in range(len(sizes))],
            "text": texts,
            "image": [None] * len(sizes),
        },
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    cut = list(shards(frame.select("key"), lambda _: pl.concat([frame, frame[:1]]), "text", rows=3))
    assert [one.number for one in cut] == list(range(1, len(cut) + 1))
    assert [one.items.height for one in cut] == [3, 3, 1, 1, 1, 3]
    assert pl.concat([one.items for one in cut]).equals(frame)


# Real processes from here on.


def two() -> ProcessPool:
    return ProcessPool(2)


def children() -> list[psutil.Process]:
    """The live worker processes of this one."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if one.is_running() and "spawn_main" in " ".join(one.cmdline())]


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return images(tmp_path_factory.mktemp("items"), ITEMS)


def test_two_processes_give_what_one_gives(tmp_path: Path, frame: pl.DataFrame) -> None:
    """Equal key by key, one part a shard, told as it goes; a second run starts nobody; nobody is left."""
    told: list[tuple[int, int]] = []
    done = spread(two, tmp_path / "spread", frame, lambda *now: told.append(now))
    assert (done.encoded, done.cached, done.total) == (ITEMS, 0, ITEMS)
    cache = cache_for(HASH, tmp_path / "spread")
    assert same(cache, locally(tmp_path / "local", frame), frame)
    assert [part.rows for part in cache.parts()] == [SHARD_ROWS] * 4
    assert told == [(n, ITEMS) for n in range(0, ITEMS + 1, SHARD_ROWS)]
    assert children() == []

    def nobody() -> Pool:
        raise AssertionError("nothing is missing")

    again = spread(nobody, tmp_path / "spread", frame)
    assert (again.encoded, again.cached, again.fingerprint) == (0, ITEMS, done.fingerprint)


def test_a_process_killed_in_the_middle_of_a_shard(tmp_path: Path, frame: pl.DataFrame) -> None:
    """SIGKILL while it reads the shard's seventh item, twice: a third does it, and the result is the local one's."""
    with trapped(Path(frame["text"][SHARD_ROWS + 6]), 2) as trap:
        done = spread(two, tmp_path / "spread", frame)
        assert len({*trap.killed}) == 2
    assert (done.encoded, done.not_encoded) == (ITEMS, 0)
    cache = cache_for(HASH, tmp_path / "spread")
    assert same(cache, locally(tmp_path / "local", frame), frame)
    assert sum(part.rows for part in cache.parts()) == ITEMS, "no item was encoded twice"
    assert children() == []


def test_an_item_that_kills_every_process_is_named_and_the_rest_is_cached(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    """Three kills: an error with the shard, its first key and the signal; a rerun encodes that shard alone."""
    first = frame["key"][2 * SHARD_ROWS].hex()
    with (
        trapped(Path(frame["text"][2 * SHARD_ROWS]), ATTEMPTS) as trap,
        pytest.raises(
            RunnerError,
            match=rf"runner processes: shard 3 \(12 items, the first of key {first}\) ended 3 workers.*SIGKILL",
        ),
    ):
        spread(two, tmp_path, frame)
    assert len(set(trap.killed)) == ATTEMPTS
    assert children() == []
    rerun = spread(two, tmp_path, frame)
    assert (rerun.encoded, rerun.cached) == (SHARD_ROWS, ITEMS - SHARD_ROWS)
    assert same(cache_for(HASH, tmp_path), locally(tmp_path / "local", frame), frame)


def test_what_cannot_be_encoded_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    """A file that is gone is told with its path by whichever process met it, and counted."""
    frame = images(tmp_path / "items", ITEMS)
    gone = Path(frame["text"][20])
    gone.unlink()
    done = spread(two, tmp_path / "spread", frame)
    assert (done.encoded, done.not_encoded) == (ITEMS - 1, 1)
    assert "0020.png" in done.not_encoded_rows[0]
    assert cache_for(HASH, tmp_path / "spread").missing(frame.select("key"))["key"].to_list() == [
        frame["key"][20]
    ]


def test_an_error_of_ours_comes_back_as_itself(tmp_path: Path, frame: pl.DataFrame) -> None:
    """A worker that has another encoder by the name refuses, in the words and with the attributes of the error."""
    wrong = Job(HASH, str(tmp_path / "hash-16-of-others"), "image")
    with closing(two()) as pool:
        done = pool.submit(encode_shard, wrong, Shard(1, frame[:3])).result()
    with pytest.raises(EncoderError, match=r"hash-16-of-others.*same version of the weights") as raised:
        done.raised()
    assert raised.value.model == "hash:16"
    assert raised.value.exit_code == 2


def test_a_killed_driver_leaves_no_process_behind_and_what_was_done(
    tmp_path: Path, frame: pl.DataFrame
) -> None:
    """SIGKILL to the driver while a worker is held in a shard: its workers end too, a rerun encodes what is missing."""
    frame.write_parquet(tmp_path / "items.parquet")
    held = Path(frame["text"][3 * SHARD_ROWS])
    whole = held.read_bytes()
    held.unlink()
    os.mkfifo(held)
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.embedding.killed_driver", str(tmp_path)], cwd=ROOT, env=dict(os.environ)
    )
    try:
        end = wait_until(lambda: _writing_end(held))
        cache = cache_for(HASH, tmp_path)
        wait_until(lambda: len(cache.parts()) == 3)
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len(workers) >= 2
        driver.kill()
        driver.wait()
        os.write(end, whole)
        os.close(end)  # the held worker goes on, finishes its shard, and finds nobody to tell
        assert psutil.wait_procs(workers, timeout=20)[1] == []
    finally:
        driver.kill()
        driver.wait()
        held.unlink()
        held.write_bytes(whole)
    missing = cache.missing(frame.select("key")).height
    assert missing in (0, SHARD_ROWS)
    rerun = spread(two, tmp_path, frame)
    assert (rerun.encoded, rerun.cached) == (missing, ITEMS - missing)
    assert same(cache, locally(tmp_path / "local", frame), frame)


def _writing_end(pipe: Path) -> int | None:
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def wait_until(found: Callable[[], T | None], seconds: float = 60.0) -> T:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if (value := found()) not in (None, False):
            return value
        time.sleep(0.02)
    raise AssertionError("it never came to be")
