"""Real processes, a real SIGKILL: writers and compactions die together, and the cache holds what it held."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import compact
from tasks.embedding.folders import LocalFolder
from tasks.embedding.verifying import verify
from tasks.errors import CacheError
from tests.conftest import ROOT
from tests.embedding.killed_caching import NUMBERS
from tests.embedding.numbered import append, cached, files, keys, part_files, vectors

ROUNDS = 2
ROUND_SECONDS = 1.0


@contextmanager
def at_work(folder: Path, seed: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Two writers and two compactions on one folder; whoever still lives at the end is killed."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.embedding.killed_caching", str(folder), work, str(seed + place)],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for place, work in enumerate(("write", "write", "compact", "compact"))
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_that_was_there_and_reads_nothing_wrong(tmp_path: Path) -> None:
    """Two writers, two compactions and a reader on one folder; all but the reader are killed, twice over.

    Whatever the reader once saw cached stays cached, and every vector it reads is its key's own, during and after.
    """
    folder, rng = tmp_path / "encoder-1", random.Random(0)
    reader, seen = EmbeddingCache(folder), set[int]()
    for turn in range(ROUNDS):
        with at_work(folder, seed=10 * turn) as workers:
            ends = time.monotonic() + ROUND_SECONDS
            while time.monotonic() < ends:
                now = cached(reader)
                assert seen <= now
                seen = now
                asked = rng.sample(sorted(seen), min(len(seen), 300))
                assert np.array_equal(reader.read(keys(asked)), vectors(asked))
            for worker in rng.sample(workers, len(workers)):
                worker.kill()
                time.sleep(
                    rng.random() * 0.02
                )  # so that they die at different points, not to wait for anything
            assert all(worker.wait() == -9 for worker in workers)
    survivor = EmbeddingCache(LocalFolder(folder))
    assert seen <= cached(survivor) <= set(range(NUMBERS))
    everything = sorted(cached(survivor))
    assert np.array_equal(survivor.read(keys(everything)), vectors(everything))
    found = verify(survivor, lambda _: (np.empty(0, np.int64), np.empty((0, 3))), 0, seed=0)
    assert found.wrong == {}
    assert found.parts == len(part_files(survivor)) > 0
    assert files(survivor, "*.damaged") == []
    # The next compaction finishes what the killed ones began.
    compact(survivor, at_least=2, now=time.time() + 2 * 86_400)
    assert files(survivor, ".*") == []
    replaced = {name for part in survivor.parts() for name in part.replaces}
    assert not replaced & {part.name for part in survivor.parts()}
    assert sorted(cached(survivor)) == everything


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the kernel refuses the next one, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 3, 1_000, 10_000, 16_000, 16_500])
def test_a_full_disk_is_an_error_that_leaves_nothing_torn(tmp_path: Path, size: int) -> None:
    """Wherever the disk fills up within a part: a sentence with the remedy, nothing torn, the rest as before."""
    cache = EmbeddingCache(tmp_path / "encoder-1")
    append(cache, [1_000, 1_001])
    before = files(cache)
    with (
        room_for(size),
        pytest.raises(CacheError, match=r"cannot be written \(File too large\).*run it again"),
    ):
        append(cache, list(range(600)))
    assert files(cache) == before
    assert cached(cache) == {1_000, 1_001}
    append(cache, list(range(600)))
    assert np.array_equal(cache.read(keys([599, 1_001])), vectors([599, 1_001]))


def test_a_disk_too_full_for_a_merged_part_leaves_the_small_ones(tmp_path: Path) -> None:
    """A compaction that finds no room says so and changes nothing; with room again it does its work."""
    cache = EmbeddingCache(tmp_path / "encoder-1")
    for first in range(0, 60, 10):
        append(cache, list(range(first, first + 10)))
    before = files(cache)
    with room_for(1_000):
        done = compact(cache, at_least=2)
    assert (done.merged, done.into) == (0, 0)
    assert "cannot be written" in (done.unfinished or "")
    assert files(cache) == before
    assert compact(cache, at_least=2).merged == 6
    assert np.array_equal(cache.read(keys(range(60))), vectors(range(60)))


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    """Where a file stands in the folder's place, the place and the way out are told."""
    (tmp_path / "embeddings").write_text("not a folder")
    cache = EmbeddingCache(tmp_path / "embeddings" / "encoder-1")
    with pytest.raises(CacheError, match=r"encoder-1: cannot be written .*permissions"):
        append(cache, [1])
    assert cached(cache) == set()
