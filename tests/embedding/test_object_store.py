"""The cache in a bucket: moto's S3 server on loopback, spoken to through s3fs as any other."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.compaction import compact
from tasks.embedding.embed import cache_for
from tasks.embedding.folders import folder_at, inside
from tasks.embedding.worker_processes import ProcessPool
from tasks.errors import CacheError
from tests.conftest import ROOT
from tests.embedding.numbered import append, cached, keys, missing, vectors
from tests.embedding.spread_items import HASH, ITEMS, locally, same, spread
from tests.embedding.traps import images

NAME = "model-00aa00aa00aa"
MEGABYTES = 8

needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto", "flask_cors")),
    reason="s3fs and moto are not installed; they come with the extras llm-flywheel[s3] and llm-flywheel[dev]",
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A running S3 server; everything this process and its children do with s3:// goes there."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.embedding.s3_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", url)
                patch.setenv("AWS_ACCESS_KEY_ID", "testing")
                patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
                patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
                patch.delenv("AWS_PROFILE", raising=False)
                patch.setenv("AWS_CONFIG_FILE", os.devnull)
                patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
                yield url
        finally:
            server.kill()


@pytest.fixture
def bucket(endpoint: str) -> Iterator[str]:
    """An empty bucket, as a URL."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"b{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def objects(url: str) -> list[str]:
    """Every key in the bucket."""
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    return sorted(name.partition("/")[2] for name in filesystem.find(url))


@needs_server
def test_the_whole_life_of_a_cache_in_a_bucket(bucket: str) -> None:
    """Missing, written, read in any order, a cut part refused and its keys encoded anew, compacted."""
    url = f"{bucket}/deep/{NAME}"
    cache = EmbeddingCache(url)
    assert missing(cache, range(40)) == list(range(40))
    for first in range(0, 40, 10):
        append(cache, list(range(first, first + 10)))
    asked = [39, 0, 17, 17, 3]
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # as another process sees it
    reader = EmbeddingCache(folder_at(url))
    assert np.array_equal(reader.read(keys(asked)), vectors(asked))
    assert missing(reader, range(45)) == list(range(40, 45))

    cut = f"{bucket}/{objects(bucket)[1]}"
    whole = fsspec.filesystem("s3").cat_file(cut)
    fsspec.filesystem("s3").pipe_file(cut, whole[: len(whole) // 2])
    assert missing(reader, range(40)) == list(range(10, 20))
    assert [name.rpartition("/")[2] for name in objects(bucket) if name.endswith(".damaged")] == [
        cut.rpartition("/")[2].replace(".parquet", ".damaged")
    ]
    append(reader, list(range(10, 20)))
    assert compact(EmbeddingCache(folder_at(url)), at_least=2).merged == 4
    assert np.array_equal(reader.read(keys(range(40))), vectors(range(40)))


@needs_server
def test_two_writers_in_two_processes_lose_nothing(bucket: str) -> None:
    """Each appends its half in eight parts at the same time; all of it is there, and right."""
    url = f"{bucket}/{NAME}"
    writers = [writer(url, half * 40, (half + 1) * 40, 5, os.environ) for half in range(2)]
    assert [one.wait(timeout=60) for one in writers] == [0, 0]
    cache = EmbeddingCache(url)
    assert len(cache.parts()) == 16
    assert np.array_equal(cache.read(keys(range(80))), vectors(range(80)))


@needs_server
def test_a_writer_killed_in_the_middle_of_an_upload_leaves_no_part(bucket: str, endpoint: str) -> None:
    """SIGKILL when a quarter of the bytes has gone through: the bucket stays empty, and another write succeeds."""
    url = f"{bucket}/{NAME}"
    with Wire(urlparse(endpoint).port or 0, MEGABYTES * (1 << 20) // 4) as wire:
        rows = MEGABYTES * (1 << 20) // 28
        killed = writer(url, 0, rows, rows, os.environ | {"AWS_ENDPOINT_URL": wire.url})
        try:
            assert wire.reached.wait(60), "the upload never came so far"
        finally:
            killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert objects(bucket) == []
    cache = EmbeddingCache(url)
    assert missing(cache, range(3)) == [0, 1, 2]
    append(cache, [0, 1, 2])
    assert cached(cache) == {0, 1, 2}


@needs_server
def test_processes_embed_into_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Two worker processes write their shards to S3; the result is the local one's, key by key."""
    frame = images(tmp_path / "items", ITEMS)
    done = spread(lambda: ProcessPool(2), f"{bucket}/project", frame)
    assert (done.encoded, done.cached) == (ITEMS, 0)
    cache = cache_for(HASH, f"{bucket}/project")
    assert same(cache, locally(tmp_path / "local", frame), frame)
    assert {name.split("/")[1] for name in objects(bucket)} == {"embeddings"}
    assert spread(lambda: ProcessPool(2), f"{bucket}/project", frame).encoded == 0


@needs_server
def test_a_bucket_that_is_not_there_is_not_made(bucket: str) -> None:
    """A wrong name is an error that names it, not a new bucket."""
    url = f"{bucket}-and-more/{NAME}"
    cache = EmbeddingCache(url)
    assert cached(cache) == set()
    with pytest.raises(CacheError, match=r"and-more.*cannot be written .*bucket does not exist"):
        append(cache, [1])
    assert not fsspec.filesystem("s3").exists(f"{bucket}-and-more")


def test_without_its_driver_a_url_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """s3:// without s3fs says what to install."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    registry = importlib.import_module("fsspec.registry")  # `fsspec.registry` itself is a mapping
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(CacheError, match=r's3://bucket/x: .*s3fs.*pip install "llm-flywheel\[s3\]"'):
        folder_at(str(inside("s3://bucket", "x")))


def writer(
    url: str, first: int, end: int, step: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A process that appends numbered vectors to the cache at a URL, so many a part."""
    code = (
        "import sys; from tasks.embedding.cache import EmbeddingCache; from tests.embedding.numbered import append\n"
        "url, first, end, step = sys.argv[1], *map(int, sys.argv[2:]); cache = EmbeddingCache(url)\n"
        "for n in range(first, end, step): append(cache, list(range(n, n + step)))"
    )
    arguments = [sys.executable, "-c", code, url, str(first), str(end), str(step)]
    return subprocess.Popen(arguments, cwd=ROOT, env=dict(environment))


class Wire:
    """A wire to the server on loopback that lets so many bytes through and then holds what comes."""

    def __init__(self, port: int, lets_through: int) -> None:
        self._port, self._left = port, lets_through
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.reached, self._end = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Wire:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            _hang_up(one)
        for thread in self._threads:
            thread.join()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._end.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._open += [near, far]
            self._start(self._carry, near, far, True)
            self._start(self._carry, far, near, False)

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while block := source.recv(1 << 16):
                if counted:
                    with self._lock:
                        self._left -= len(block)
                        held = self._left < 0
                    if held:
                        self.reached.set()
                        self._end.wait()
                        break
                target.sendall(block)
        except OSError:
            pass
        for one in (source, target):
            _hang_up(one)


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):  # a thread that waits for bytes wakes up only so
        one.shutdown(socket.SHUT_RDWR)
    one.close()
