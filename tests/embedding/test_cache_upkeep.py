"""Compaction, verification and pruning of the cache: what is good stays, what is wrong is named."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import Compacted, compact
from tasks.embedding.folders import LocalFolder
from tasks.embedding.pruning import prune, survey
from tasks.embedding.verifying import Encode, verify
from tests.embedding.killed_folder import Killed, KilledFolder
from tests.embedding.numbered import (
    append,
    cached,
    files,
    keys,
    missing,
    part_files,
    vectors,
)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "encoder-1")


def encoder(known: Sequence[int], change: float = 0.0, dimension: int = 3) -> Encode:
    """Gives fresh vectors of the numbers it knows; `change` turns them away from what they were."""

    def encode(asked: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        numbers = [int.from_bytes(key, "big") for key in asked]
        places = [place for place, number in enumerate(numbers) if number in known]
        fresh = vectors([numbers[place] for place in places])
        fresh[:, 1] += change * np.abs(fresh[:, 0])
        return np.array(places, np.int64), np.hstack([fresh, fresh])[:, :dimension]

    return encode


def no_encoder(asked: Sequence[bytes]) -> Any:
    raise AssertionError("nothing was to be encoded")


def test_many_small_parts_become_few_and_each_key_stands_once(cache: EmbeddingCache) -> None:
    """Forty parts with repeats are one afterwards, in the order of writing, with every key's first vector."""
    for first in range(0, 400, 10):
        append(cache, list(range(first, first + 15)))
    assert compact(cache) == Compacted(40, 1)
    assert len(files(cache)) == 1
    [part] = cache.parts()
    assert part.rows == 405
    assert len(part.replaces) == 40
    everything = list(range(405))
    assert cache.keys()["key"].to_list() == keys(everything)
    assert np.array_equal(cache.read(keys(everything)), vectors(everything))
    assert compact(cache) == Compacted(), "what is done is done"


def test_few_parts_and_large_ones_are_left_alone(cache: EmbeddingCache) -> None:
    """Below `at_least` small parts nothing is copied, and a large part is never copied again."""
    for first in range(0, 100, 10):
        append(cache, list(range(first, first + 10)))
    before = files(cache)
    assert compact(cache, at_least=11) == Compacted()
    assert compact(cache, at_least=2, target_bytes=4 * 120) == Compacted(), "a part of 120 bytes is a quarter"
    assert files(cache) == before
    assert compact(cache, at_least=10, target_bytes=6 * 120) == Compacted(10, 2), "six parts fill one"


def test_a_rotten_part_is_not_copied_into_a_good_one(cache: EmbeddingCache) -> None:
    """Compaction checks what it copies: the rotten part is set aside, the others stay as they were."""
    for first in range(0, 40, 10):
        append(cache, list(range(first, first + 10)))
    rotten = part_files(cache)[1]
    flip(rotten, vectors([15]).tobytes())
    assert compact(cache, at_least=2).merged == 0
    assert cache.damaged[-1].part == rotten.name
    assert missing(cache, range(40)) == list(range(10, 20))
    assert compact(cache, at_least=2).merged == 3
    assert missing(cache, range(40)) == list(range(10, 20))


def flip(file: Path, within: bytes) -> None:
    """Turn one bit of the first place where these bytes stand."""
    content = bytearray(file.read_bytes())
    content[content.index(within)] ^= 1
    file.write_bytes(content)


def test_a_compaction_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    """Before and after every write, rename and deletion: all keys are there, and the next one ends with one part."""
    died = 0
    for dies_at in range(12):
        path = tmp_path / f"encoder-{dies_at}"
        cache = EmbeddingCache(path)
        for first in range(0, 60, 10):
            append(cache, list(range(first, first + 12)))
        try:
            compact(EmbeddingCache(KilledFolder(path, dies_at)), at_least=2)
        except Killed:
            died += 1
        after = EmbeddingCache(LocalFolder(path))
        assert np.array_equal(after.read(keys(range(62))), vectors(range(62)))
        compact(after, at_least=2, now=4e9)
        assert len(files(after)) == 1
        assert np.array_equal(cache.read(keys(range(62))), vectors(range(62))), "one who read before reads on"
    assert died == 8, "two steps of writing and six deletions"


def test_two_compactions_at_once_lose_nothing(tmp_path: Path) -> None:
    """One that had listed the parts before another one merged them stops, or writes the very same file."""
    path = tmp_path / "encoder-1"
    cache = EmbeddingCache(path)
    for first in range(0, 60, 10):
        append(cache, list(range(first, first + 10)))
    for dies_at in (0, 1, 2, 5):
        copy = tmp_path / str(dies_at) / "encoder-1"
        shutil.copytree(path, copy)
        late = EmbeddingCache(KilledFolder(copy, dies_at))
        late.parts()
        with pytest.raises(Killed):
            compact(late, at_least=2)
        other = EmbeddingCache(LocalFolder(copy))
        compact(other, at_least=2)
        compact(EmbeddingCache(LocalFolder(copy)), at_least=2, now=4e9)
        assert len(files(other)) == 1
        assert np.array_equal(other.read(keys(range(60))), vectors(range(60)))


def test_interrupted_writes_are_cleared_away_a_day_later(cache: EmbeddingCache) -> None:
    """What a killed writer left beside is kept for a day, for it may be somebody's who still writes."""
    append(cache, [1])
    left = Path(str(cache.folder)) / f".{part_files(cache)[0].name}.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    os.utime(left, (1_000_000.0, 1_000_000.0))
    compact(cache, now=1_000_000.0 + 86_400)
    assert left.exists()
    compact(cache, now=1_000_000.0 + 86_401)
    assert not left.exists()
    assert cached(cache) == {1}


def test_a_good_cache_passes_whole(cache: EmbeddingCache) -> None:
    """Every part is read, and the sample is spread over all of them, one each at least."""
    for first in range(0, 60, 10):
        append(cache, list(range(first, first + 10)))
    found = verify(cache, encoder(range(60)), sample=8, seed=0)
    assert (found.parts, found.rows, found.compared, found.wrong) == (6, 60, 8, {})
    assert found.least_cosine == pytest.approx(1.0)
    everything = verify(cache, encoder(range(60)), sample=10_000, seed=0)
    assert everything.compared == 60
    assert verify(cache, no_encoder, sample=0, seed=0).compared == 0


def test_items_that_are_gone_are_not_compared(cache: EmbeddingCache) -> None:
    """A vector whose content nobody has any more is judged by its checksum alone."""
    append(cache, list(range(20)))
    found = verify(cache, encoder(range(5)), sample=20, seed=0)
    assert (found.rows, found.compared, found.wrong) == (20, 5, {})


@pytest.mark.parametrize("what", ["key", "vector"])
def test_a_rotten_part_is_named_and_set_aside(cache: EmbeddingCache, what: str) -> None:
    """One bit of a key or of a vector: the checksum tells, and only that part's items are to be encoded anew."""
    append(cache, list(range(10)))
    append(cache, list(range(10, 20)))
    rotten = part_files(cache)[1]
    flip(rotten, keys([15])[0] if what == "key" else vectors([15]).tobytes())
    found = verify(cache, encoder(range(20)), sample=20, seed=0)
    assert found.wrong == {rotten.name: "its checksum is wrong in row group 0"}
    assert (found.parts, found.rows, found.compared) == (2, 20, 10)
    assert missing(cache, range(20)) == list(range(10, 20))
    assert rotten.with_suffix(".damaged").exists()


def test_a_flipped_bit_anywhere_in_a_part_never_outlives_verification(tmp_path: Path) -> None:
    """One bit in every byte of a part, footer included: afterwards its keys are missing or its vectors right."""
    path, rng, harmless = tmp_path / "encoder-1", random.Random(0), 0
    append(EmbeddingCache(LocalFolder(path)), [1, 2, 3])
    [file] = path.iterdir()
    content = file.read_bytes()
    for place in range(len(content)):
        rotten = bytearray(content)
        rotten[place] ^= 1 << rng.randrange(8)
        for left in path.iterdir():
            left.unlink()
        file.write_bytes(rotten)
        cache = EmbeddingCache(LocalFolder(path))
        found = verify(cache, no_encoder, sample=0, seed=0)
        if found.wrong:
            assert cached(cache) == set()
        else:  # in a name, a magic number, a hint nobody needs
            harmless += 1
            assert np.array_equal(cache.read(keys([3, 1, 2])), vectors([3, 1, 2]))
    assert harmless < len(content) / 3


def test_another_model_behind_the_same_name_is_found_out(cache: EmbeddingCache) -> None:
    """Where a fresh encoding points elsewhere, the part is set aside and the cosine is told."""
    append(cache, list(range(1, 11)))
    found = verify(cache, encoder(range(11), change=0.5), sample=4, seed=0)
    [(name, problem)] = found.wrong.items()
    assert problem.startswith("4 of 4 vectors are not what the encoder gives now (cosine 0.9")
    assert missing(cache, [1]) == [1]
    assert [path.name for path in part_files(cache)] != [name]


def test_another_dimension_behind_the_same_name_is_found_out(cache: EmbeddingCache) -> None:
    """Vectors of three dimensions, where the encoder now gives four, are set aside, and four can be appended."""
    append(cache, list(range(1, 11)))
    [problem] = verify(cache, encoder(range(11), dimension=4), sample=4, seed=0).wrong.values()
    assert problem == "holds vectors of 3 dimensions, the encoder gives 4"
    cache.append(keys([1]), np.ones((1, 4), np.float32))
    assert cache.read(keys([1])).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("change", [0.0, 1e-4, 0.01])
def test_the_noise_of_batches_and_processors_is_no_fault(cache: EmbeddingCache, change: float) -> None:
    """A fresh encoding that differs in the third digit is the same vector."""
    append(cache, list(range(1, 11)))
    assert verify(cache, encoder(range(11), change=change), sample=10, seed=0).wrong == {}


def caches(root: Path) -> dict[str, EmbeddingCache]:
    found = {name: EmbeddingCache(root / name) for name in ("model-00aa00aa00aa", "model-11bb11bb11bb")}
    append(found["model-00aa00aa00aa"], list(range(10)))
    append(found["model-11bb11bb11bb"], list(range(1_000)))
    return found


def test_only_caches_that_nobody_uses_are_pruned(tmp_path: Path) -> None:
    """The survey changes nothing; pruning takes the unused cache and the damaged parts of the used one."""
    found = caches(tmp_path)
    used = found["model-00aa00aa00aa"]
    append(used, [10])
    used.set_aside(part_files(used)[1].name, "for the test")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "part-mine.parquet").write_text("mine")

    def in_use(name: str) -> bool:
        return name == "model-00aa00aa00aa"

    seen = survey(tmp_path, in_use)
    assert [name for name, _ in seen.unused] == ["model-11bb11bb11bb"]
    assert seen.unused[0][1] == sum(f.stat().st_size for f in (tmp_path / "model-11bb11bb11bb").iterdir())
    assert [name for name, _ in seen.used] == ["model-00aa00aa00aa"]
    assert seen.leftovers == next((tmp_path / "model-00aa00aa00aa").glob("*.damaged")).stat().st_size
    assert survey(tmp_path, in_use) == seen
    prune(tmp_path, in_use)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-00aa00aa00aa", "notes"]
    assert cached(EmbeddingCache(LocalFolder(tmp_path / "model-00aa00aa00aa"))) == set(range(10))
    assert files(used, "*.damaged") == []
    assert survey(tmp_path, in_use).unused == []


def test_a_file_the_cache_did_not_write_outlives_pruning(tmp_path: Path) -> None:
    """Somebody's notes in an unused cache stay, and so the folder does."""
    caches(tmp_path)
    (tmp_path / "model-11bb11bb11bb" / "README").write_text("mine")
    prune(tmp_path, lambda _: False)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "model-11bb11bb11bb",
        "model-11bb11bb11bb/README",
    ]


def test_nothing_lies_where_nothing_was_written(tmp_path: Path) -> None:
    """A project that never embedded has nothing to prune."""
    assert survey(tmp_path / "embeddings", lambda _: True) == ([], [], 0)
    prune(tmp_path / "embeddings", lambda _: False)
