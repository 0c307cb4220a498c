"""The embedding cache hands back what was put in, and no accident leaves it with anything else."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.embedding.cache import EmbeddingCache
from tasks.errors import InputError

DIMENSION = 3


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def vector(number: int) -> np.ndarray:
    """The one vector that belongs to a key."""
    return np.array([number, number / 7, -number], np.float32)


def keys_frame(numbers: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"key": [key(n) for n in numbers]}, schema={"key": pl.Binary})


def append(cache: EmbeddingCache, numbers: list[int]) -> None:
    cache.append(
        [key(n) for n in numbers], np.array([vector(n) for n in numbers], np.float32).reshape(-1, DIMENSION)
    )


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "encoder-1")


def parts(cache: EmbeddingCache) -> list[Path]:
    return sorted(cache.folder.glob("part-*.parquet"))


NUMBERS = st.lists(st.integers(0, 30), max_size=12)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), NUMBERS), max_size=8))
def test_what_was_appended_is_read_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, list[int]]]
) -> None:
    """Whatever is appended when and how often, a read gives each asked key its own vector, once, in order."""
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache"))
    known: set[int] = set()
    for writes, numbers in steps:
        if writes:
            append(cache, numbers)
            known |= set(numbers)
            continue
        missing = {int.from_bytes(k, "big") for k in cache.missing(keys_frame(numbers))["key"]}
        cached = {int.from_bytes(k, "big") for k in cache.keys()["key"]}
        assert cached == known
        assert missing == set(numbers) - known
        assert cache.missing(keys_frame(numbers)).height == len(missing), "each missing key stands once"
        asked = [n for n in numbers if n in known]
        read = cache.read([key(n) for n in asked])
        assert read.dtype == np.float32
        assert read.shape[0] == len(asked)
        if asked:
            assert np.array_equal(read, np.stack([vector(n) for n in asked]))


def test_a_key_that_is_not_cached_is_an_error_that_counts(cache: EmbeddingCache) -> None:
    """Reading never makes a vector up: it says how many are lacking and what to do."""
    append(cache, [1])
    with pytest.raises(KeyError, match=r"2 of 3 keys .*flywheel embed"):
        cache.read([key(1), key(2), key(3)])


@pytest.mark.parametrize("kept_bytes", [0, 4, 200, -1])
def test_a_cut_part_is_set_aside_and_its_keys_are_missing_again(
    cache: EmbeddingCache, kept_bytes: int
) -> None:
    """A part cut at any byte costs its own keys and nobody else's; encoding them again heals the cache."""
    append(cache, [1, 2])
    [cut] = parts(cache)
    append(cache, [3])
    cut.write_bytes(cut.read_bytes()[:kept_bytes])
    assert cache.missing(keys_frame([1, 2, 3]))["key"].to_list() == [key(1), key(2)]
    assert cut.with_suffix(".damaged").exists()
    append(cache, [1, 2])
    assert np.array_equal(cache.read([key(3), key(1)]), np.stack([vector(3), vector(1)]))


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"x": [1]}),
        pa.table({"key": pa.array(["one"]), "vector": pa.array([b"1234"], pa.binary(4))}),
        pa.table({"key": pa.array([7]), "vector": pa.array([b"1234"], pa.binary(4))}),
        pa.table({"key": pa.array([key(1)], pa.binary(16))}),
        pa.table({"key": pa.array([key(1)], pa.binary(16)), "vector": pa.array([[0.5, 0.5, 0.5]])}),
        pa.table({"key": pa.array([key(1)], pa.binary(16)), "vector": pa.array([b"12345"], pa.binary(5))}),
    ],
    ids=["other columns", "text keys", "number keys", "no vectors", "list vectors", "odd width"],
)
def test_a_foreign_parquet_is_set_aside(cache: EmbeddingCache, table: pa.Table) -> None:
    """A parquet that is none of ours counts for nothing, whatever its columns are called."""
    append(cache, [2])
    pq.write_table(table, cache.folder / "part-0.parquet")
    assert cache.missing(keys_frame([1, 2]))["key"].to_list() == [key(1)]
    assert np.array_equal(cache.read([key(2)]), vector(2)[None])
    assert [path.name for path in cache.folder.glob("*.damaged")] == ["part-0.damaged"]


def test_what_a_kill_before_the_rename_leaves_is_ignored(cache: EmbeddingCache) -> None:
    """A whole part that was not renamed yet is not there: its keys are missing, nothing is set aside."""
    append(cache, [1])
    [whole] = parts(cache)
    whole.rename(whole.with_name(f".{whole.name}.tmp"))
    assert cache.missing(keys_frame([1]))["key"].to_list() == [key(1)]
    assert not list(cache.folder.glob("*.damaged"))


def test_a_finished_append_leaves_one_part_and_nothing_beside_it(cache: EmbeddingCache) -> None:
    """Writing beside and renaming cleans up after itself."""
    append(cache, [1, 2])
    assert [path.suffix for path in cache.folder.iterdir()] == [".parquet"]


def test_two_writers_of_the_same_key_leave_one_vector(cache: EmbeddingCache) -> None:
    """Eight threads append the same and other keys at once: all keys are there, each once, all readable."""
    writers = [threading.Thread(target=append, args=(cache, [0, 10 + n])) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    wanted = [0, *range(10, 18)]
    assert cache.keys().height == len(wanted)
    assert np.array_equal(cache.read([key(n) for n in wanted]), np.stack([vector(n) for n in wanted]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_refused_whole(cache: EmbeddingCache, bad: float) -> None:
    """One NaN or infinity among good vectors: nothing of the batch is written."""
    vectors = np.stack([vector(1), vector(2)])
    vectors[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        cache.append([key(1), key(2)], vectors)
    assert cache.keys().height == 0


@pytest.mark.parametrize("keys", [[b"short"], [], [key(1), key(2)]])
def test_keys_that_do_not_fit_the_vectors_are_refused(cache: EmbeddingCache, keys: list[bytes]) -> None:
    """One vector takes exactly one key of sixteen bytes."""
    with pytest.raises(ValueError):  # noqa: PT011 - the words for a short key are pyarrow's
        cache.append(keys, vector(1)[None])
    assert cache.keys().height == 0


def test_vectors_of_another_dimension_are_never_mixed(cache: EmbeddingCache) -> None:
    """Two dimensions under one fingerprint are refused when they meet, with the file and the remedy."""
    append(cache, [1])
    cache.append([key(2)], np.ones((1, DIMENSION + 1), np.float32))
    with pytest.raises(InputError, match=r"part-.*dimensions, others .*Delete the folder"):
        cache.read([key(1), key(2)])
