"""The same cache over a path, a file URL, and fsspec filesystems that upload whole files or write in place."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import compact
from tasks.embedding.folders import Folder, LocalFolder, folder_at, inside
from tasks.embedding.pruning import prune, survey
from tasks.embedding.remote_folders import RemoteFolder
from tasks.embedding.verifying import verify
from tasks.errors import CacheError
from tests.embedding.numbered import append, cached, keys, missing, vectors

NAME = "model-00aa00aa00aa"


@pytest.fixture(params=["path", "file URL", "memory", "fsspec's local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Folder]]:
    """Gives the folder of an encoder's cache, each time as another process would see it."""
    bucket = f"memory://{uuid.uuid4().hex}"
    yield {
        "path": lambda: folder_at(tmp_path / NAME),
        "file URL": lambda: folder_at((tmp_path / NAME).as_uri()),
        "memory": lambda: folder_at(f"{bucket}/{NAME}"),
        "fsspec's local": lambda: RemoteFolder(fsspec.filesystem("file"), str(tmp_path / NAME)),
    }[request.param]
    if request.param == "memory" and fsspec.filesystem("memory").exists(bucket):
        fsspec.filesystem("memory").rm(bucket, recursive=True)


def test_the_whole_life_of_a_cache(place: Callable[[], Folder]) -> None:
    """Written, read in any order and in a stream, cut, healed, compacted, verified and pruned."""
    cache = EmbeddingCache(place())
    assert cached(cache) == set()
    for first in range(0, 60, 10):
        append(cache, list(range(first, first + 10)))
    asked = [59, 0, 31, 31, 7]
    reader = EmbeddingCache(place())
    assert np.array_equal(reader.read(keys(asked)), vectors(asked))
    streamed = list(reader.stream(keys(asked), 2))
    assert np.array_equal(np.concatenate(streamed), vectors(asked))

    folder = place()
    cut = next(iter(folder.stamps()))
    with folder.open(cut) as stream:
        half = stream.read()[:300]
    folder.delete(cut)
    with folder.put(cut) as out:
        out.write(half)
    assert missing(reader, range(60)) == list(range(10))
    assert cut.replace(".parquet", ".damaged") in folder.stamps()
    append(reader, list(range(10)))

    assert compact(EmbeddingCache(place()), at_least=2).merged == 6
    assert len([name for name in folder.stamps() if name.endswith(".parquet")]) == 1
    assert np.array_equal(reader.read(keys(range(60))), vectors(range(60)))
    found = verify(reader, lambda _: (np.arange(0), vectors([])), 0, seed=0)
    assert (found.parts, found.rows, found.wrong) == (1, 60, {})


def test_a_write_that_fails_leaves_nothing(place: Callable[[], Folder]) -> None:
    """An exception while a file is written: not even a part of it is there, whatever the filesystem."""
    folder = place()
    with folder.put("kept") as out:
        out.write(b"kept")

    def write_half() -> None:
        with folder.put("torn") as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(folder.stamps()) == ["kept"]
    with folder.put("kept") as out:
        out.write(b"replaced")
    with folder.open("kept") as stream:
        assert stream.read() == b"replaced"


def test_a_file_that_is_gone_is_told_from_one_that_is_short(place: Callable[[], Folder]) -> None:
    """Reading, opening and renaming what another process took away raise FileNotFoundError; deleting does not."""
    folder, into = place(), memoryview(bytearray(4))
    with folder.put("short") as out:
        out.write(b"abcdef")
    also = memoryview(bytearray(2))
    assert folder.read_into("short", [(1, into), (4, also)])
    assert (bytes(into), bytes(also)) == (b"bcde", b"ef")
    assert not folder.read_into("short", [(0, also), (3, into)])
    folder.delete("gone")
    with pytest.raises(FileNotFoundError):
        folder.read_into("gone", [(0, into)])
    with pytest.raises(FileNotFoundError):
        folder.open("gone")
    with pytest.raises(FileNotFoundError):
        folder.rename("gone", "elsewhere")


def test_caches_are_surveyed_and_pruned_at_a_url() -> None:
    """The caches of several encoders below one URL, listed by size, the unused one taken away."""
    root = f"memory://{uuid.uuid4().hex}/embeddings"
    for name, rows in ((NAME, 10), ("model-11bb11bb11bb", 500)):
        append(EmbeddingCache(inside(root, name)), list(range(rows)))
    seen = survey(root, lambda name: name == NAME)
    assert [name for name, _ in seen.unused] == ["model-11bb11bb11bb"]
    assert seen.unused[0][1] > seen.used[0][1] > 0
    prune(root, lambda name: name == NAME)
    assert survey(root, lambda name: name == NAME) == ([], seen.used, 0)
    assert cached(EmbeddingCache(inside(root, NAME))) == set(range(10))


@pytest.mark.parametrize("url", ["gopher://host/embeddings", "s3-but-not-quite://bucket/embeddings"])
def test_a_url_that_nobody_here_can_read_is_named(url: str) -> None:
    """With the package to install, or a path, as the way out."""
    with pytest.raises(CacheError, match=r"rotocol not known.*s3fs for s3://"):
        EmbeddingCache(url)


def test_a_path_is_a_path() -> None:
    """Also one with a colon or a drive letter."""
    for written in ("relative/folder", "C:/data", "a:b", Path("s3:/x")):
        assert isinstance(folder_at(written), LocalFolder)
