"""The embedding cache hands back what was put in, and no accident leaves it with anything else."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.embedding import parts as part_settings
from tasks.embedding.cache import EmbeddingCache
from tasks.errors import CacheError
from tests.embedding.numbered import (
    DIMENSION,
    append,
    cached,
    files,
    key,
    keys,
    missing,
    part_files,
    vectors,
)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "encoder-1")


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
        assert cached(cache) == known
        assert sorted(missing(cache, numbers)) == sorted(set(numbers) - known), "each missing key stands once"
        asked = [n for n in numbers if n in known]
        read = cache.read(keys(asked))
        assert read.dtype == np.float32
        assert read.shape[0] == len(asked)
        if asked:
            assert np.array_equal(read, vectors(asked))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "order", ["as written", "from the middle", "backwards", "shuffled", "a few", "twice"]
)
def test_many_rows_come_back_whichever_way_they_are_asked_for(tmp_path: Path, dtype: Any, order: str) -> None:
    """Several parts of several row groups, read straight through, scattered and picked: always the rows asked for."""
    cache = EmbeddingCache(tmp_path / "encoder-1", dtype)
    rng = np.random.default_rng(0)
    total = 2 * part_settings.BLOCK_ROWS + 5000
    matrix = rng.standard_normal((total, 4), dtype=np.float32)
    if dtype == "float16":
        matrix = matrix.astype(np.float16).astype(np.float32)
    names = [rng.bytes(16) for _ in range(total)]
    for first, last in ((0, 20_000), (20_000, 20_001), (20_001, total)):
        cache.append(names[first:last], matrix[first:last])
    asked = {
        "as written": np.arange(total),
        "from the middle": np.r_[9_000:total, 0:9_000],
        "backwards": np.arange(total)[::-1],
        "shuffled": rng.permutation(total),
        "a few": rng.choice(total, 200, replace=False),
        "twice": np.r_[np.arange(0, total, 3), rng.integers(0, total, 500), np.arange(0, total, 3)],
    }[order]
    wanted = [names[row] for row in asked]
    assert np.array_equal(cache.read(wanted), matrix[asked])
    batches = list(cache.stream(pl.Series("key", wanted, pl.Binary), 1_000))
    assert [len(batch) for batch in batches[:-1]] == [1_000] * (len(batches) - 1)
    assert np.array_equal(np.concatenate(batches), matrix[asked])
    assert cache.missing(pl.DataFrame({"key": [rng.bytes(16), *wanted]})).height == 1


def test_half_the_room_on_disk_for_float16(tmp_path: Path) -> None:
    """Vectors of unit length in float16 take half the bytes and come back as float32 within 0.0005."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((1_000, 256), dtype=np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    names, sizes = [rng.bytes(16) for _ in range(1_000)], {}
    for dtype in ("float32", "float16"):
        cache = EmbeddingCache(tmp_path / dtype, dtype)
        cache.append(names, matrix)
        read = cache.read(names)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, matrix, atol=0.0 if dtype == "float32" else 5e-4)
        sizes[dtype] = part_files(cache)[0].stat().st_size
    assert 0.5 < sizes["float16"] / sizes["float32"] < 0.52


def test_a_key_that_is_not_cached_is_an_error_that_counts(cache: EmbeddingCache) -> None:
    """Reading never makes a vector up: it says how many are lacking and what to do; a stream says so at once."""
    append(cache, [1])
    with pytest.raises(KeyError, match=r"2 of 3 keys .*flywheel embed"):
        cache.read(keys([1, 2, 3]))
    with pytest.raises(KeyError, match=r"2 of 3 keys .*flywheel embed"):
        next(cache.stream(keys([1, 2, 3]), 1))


def test_keys_that_differ_in_one_byte_only_are_different_keys(cache: EmbeddingCache) -> None:
    """All sixteen bytes count, the highest bit of each half included."""
    alike = [bytes([0x80 if place == at else 0 for place in range(16)]) for at in range(16)] + [b"\xff" * 16]
    cache.append(alike, vectors(range(17)))
    assert cache.missing(pl.DataFrame({"key": [*alike, bytes(16)]}))["key"].to_list() == [bytes(16)]
    assert np.array_equal(cache.read(alike[::-1]), vectors(range(17))[::-1])
    assert set(cache.keys()["key"]) == set(alike)


@pytest.mark.parametrize("kept_bytes", [0, 4, 200, -1])
@pytest.mark.parametrize("known_before", [False, True])
def test_a_cut_part_is_set_aside_and_its_keys_are_missing_again(
    cache: EmbeddingCache, kept_bytes: int, known_before: bool
) -> None:
    """A part cut at any byte costs its own keys and nobody else's; encoding them again heals the cache."""
    append(cache, [1, 2])
    [cut] = part_files(cache)
    append(cache, [3])
    if known_before:
        assert cached(cache) == {1, 2, 3}
    cut.write_bytes(cut.read_bytes()[:kept_bytes])
    assert missing(cache, [1, 2, 3]) == [1, 2]
    assert cut.with_suffix(".damaged").exists()
    assert [damage.part for damage in cache.damaged] == [cut.name]
    append(cache, [1, 2])
    assert np.array_equal(cache.read(keys([3, 1])), vectors([3, 1]))


FOREIGN = {
    "other columns": pa.table({"x": [1]}),
    "text keys": pa.table({"key": pa.array(["one"]), "vector": pa.array([b"1234"], pa.binary(4))}),
    "number keys": pa.table({"key": pa.array([7]), "vector": pa.array([b"1234"], pa.binary(4))}),
    "no vectors": pa.table({"key": pa.array([key(1)], pa.binary(16))}),
    "list vectors": pa.table(
        {"key": pa.array([key(1)], pa.binary(16)), "vector": pa.array([[0.5, 0.5, 0.5]])}
    ),
    "odd width": pa.table(
        {"key": pa.array([key(1)], pa.binary(16)), "vector": pa.array([b"12345"], pa.binary(5))}
    ),
    "a null": pa.table(
        {"key": pa.array([key(1)], pa.binary(16)), "vector": pa.array([None], pa.binary(4 * DIMENSION))}
    ),
}


def ours(**over: str) -> dict[str, str]:
    """What the footer of a part with one row group says."""
    about = {"format": "2", "fingerprint": "encoder-1", "dimension": "3", "dtype": "float32", "crc32": "[0]"}
    return about | {"replaces": "[]"} | over


@pytest.mark.parametrize("said", [None, ours()], ids=["as it is", "posing as a part"])
@pytest.mark.parametrize("table", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_parquet_is_set_aside(
    cache: EmbeddingCache, table: pa.Table, said: dict[str, str] | None
) -> None:
    """A parquet that is none of ours counts for nothing, whatever its columns are called and its footer says."""
    append(cache, [2])
    pq.write_table(table.replace_schema_metadata(said), part_files(cache)[0].with_name("part-0.parquet"))
    with pytest.raises(KeyError):  # of the one without a vector only the reading of it tells
        cache.read([key(1)])
    assert missing(cache, [1, 2]) == [1]
    assert np.array_equal(cache.read([key(2)]), vectors([2]))
    assert files(cache, "*.damaged") == ["part-0.damaged"]


def test_a_part_of_another_encoder_is_set_aside(tmp_path: Path) -> None:
    """A good part in the wrong folder, or of the wrong precision, never passes for this encoder's."""
    other, half = (
        EmbeddingCache(tmp_path / "encoder-2"),
        EmbeddingCache(tmp_path / "x" / "encoder-1", "float16"),
    )
    append(other, [1])
    append(half, [2])
    cache = EmbeddingCache(tmp_path / "encoder-1")
    append(cache, [3])
    for stray in (other, half):
        shutil.copy(part_files(stray)[0], tmp_path / "encoder-1")
    assert missing(cache, [1, 2, 3]) == [1, 2]
    said = " ".join(damage.problem for damage in cache.damaged)
    assert "written by the encoder 'encoder-2'" in said
    assert "holds float16, not float32" in said


@pytest.mark.parametrize(
    "written",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"write_page_checksum": True},
        {"data_page_size": 64},
        {"use_dictionary": False, "column_encoding": {"key": "PLAIN", "vector": "BYTE_STREAM_SPLIT"}},
        {"version": "1.0"},
    ],
    ids=str,
)
@pytest.mark.parametrize("nullable", [False, True])
def test_a_part_that_is_laid_out_otherwise_is_read_all_the_same(
    cache: EmbeddingCache, written: dict[str, Any], nullable: bool
) -> None:
    """Were parquet's writer to lay pages out differently one day, the vectors would be decoded, not misread."""
    numbers = list(range(3_000))
    append(cache, numbers)
    [file] = part_files(cache)
    table = pq.read_table(file)
    fields = [field.with_nullable(nullable) for field in table.schema]
    table = table.cast(pa.schema(fields, metadata=pq.read_metadata(file).metadata))
    pq.write_table(table, file, **({"compression": "none", "use_dictionary": False} | written))
    asked = numbers[::-7] + numbers[100:2_000]
    assert np.array_equal(cache.read(keys(asked)), vectors(asked))
    assert cache.damaged == []


def test_what_a_kill_before_the_rename_leaves_is_ignored(cache: EmbeddingCache) -> None:
    """A whole part that was not renamed yet is not there: its keys are missing, nothing is set aside."""
    append(cache, [1])
    [whole] = part_files(cache)
    whole.rename(whole.with_name(f".{whole.name}.tmp"))
    assert missing(cache, [1]) == [1]
    assert not files(cache, "*.damaged")


def test_a_finished_append_leaves_one_part_and_nothing_beside_it(cache: EmbeddingCache) -> None:
    """Writing beside and renaming cleans up after itself; an append of nothing writes nothing."""
    append(cache, [])
    assert files(cache) == []
    append(cache, [1, 2])
    assert [Path(name).suffix for name in files(cache)] == [".parquet"]


def test_two_writers_of_the_same_key_leave_one_vector(cache: EmbeddingCache) -> None:
    """Eight threads append the same and other keys at once: all keys are there, each once, all readable."""
    writers = [threading.Thread(target=append, args=(cache, [0, 10 + n])) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    wanted = [0, *range(10, 18)]
    assert cache.keys().height == len(wanted)
    assert np.array_equal(cache.read(keys(wanted * 2)), vectors(wanted * 2))


def test_what_another_process_added_or_took_away_is_seen(cache: EmbeddingCache, tmp_path: Path) -> None:
    """The keys a process remembers are compared with the folder at every question."""
    append(cache, [1])
    append(cache, [2])
    assert cached(cache) == {1, 2}
    part_files(cache)[0].rename(tmp_path / "elsewhere")
    assert missing(cache, [1, 2]) == [1]
    (tmp_path / "elsewhere").rename(Path(str(cache.folder)) / "part-9.parquet")
    assert np.array_equal(cache.read(keys([2, 1])), vectors([2, 1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_refused_whole(cache: EmbeddingCache, bad: float) -> None:
    """One NaN or infinity among good vectors: nothing of the batch is written."""
    matrix = vectors([1, 2])
    matrix[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        cache.append(keys([1, 2]), matrix)
    assert cache.keys().height == 0


def test_a_vector_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A number beyond 65,504 would become infinity on disk."""
    cache = EmbeddingCache(tmp_path / "encoder-1", "float16")
    with pytest.raises(ValueError, match="infinity in float16"):
        cache.append([key(1)], np.array([[1e6, 0, 0]], np.float32))
    assert cache.keys().height == 0


@pytest.mark.parametrize("wrong", [[b"short"], [], keys([1, 2]), [b"seventeen bytes.."]])
def test_keys_that_do_not_fit_the_vectors_are_refused(cache: EmbeddingCache, wrong: list[bytes]) -> None:
    """One vector takes exactly one key of sixteen bytes."""
    with pytest.raises(ValueError, match=r"16 bytes|keys for vectors"):
        cache.append(wrong, vectors([1]))
    assert cache.keys().height == 0


def test_a_key_of_another_length_is_no_key(cache: EmbeddingCache) -> None:
    """Asking for what cannot be a key is a mistake of the caller, not a missing item."""
    with pytest.raises(ValueError, match="16 bytes"):
        cache.read([b"short"])


def test_vectors_of_another_dimension_are_refused_where_they_are_written(cache: EmbeddingCache) -> None:
    """An encoder whose dimension changed under the same name is told so, with the ways out."""
    append(cache, [1])
    with pytest.raises(CacheError, match=r"holds vectors of 3 dimensions, the encoder now gives 4.*revision"):
        cache.append([key(2)], np.ones((1, DIMENSION + 1), np.float32))
    assert cached(cache) == {1}


def test_vectors_of_another_dimension_are_never_mixed(tmp_path: Path) -> None:
    """Two dimensions that two writers brought in at once are refused when they meet, with file and remedy."""
    cache, other = EmbeddingCache(tmp_path / "encoder-1"), EmbeddingCache(tmp_path / "x" / "encoder-1")
    append(cache, [1])
    other.append([key(2)], np.ones((1, DIMENSION + 1), np.float32))
    shutil.copy(part_files(other)[0], tmp_path / "encoder-1")
    with pytest.raises(CacheError, match=r"part-.*holds vectors of 4 dimensions, others 3.*--verify"):
        cache.read(keys([1, 2]))
    assert np.array_equal(cache.read([key(1)]), vectors([1]))
    assert cache.read([key(2)]).shape == (1, 4)
