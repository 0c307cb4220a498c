"""The same seam over any fsspec filesystem: object stores by URL.

Object stores show an upload only when it is whole; elsewhere a file is written beside and moved. Knows nothing
of what the files hold.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from tasks.embedding.folders import Folder, Stamp, unwritable
from tasks.errors import CacheError

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci"})
WHOLE_UPLOADS = OBJECT_STORES | {"memory"}
EXTRAS = {"s3": "s3", "s3a": "s3"}  # by protocol
REMOTE_READS_AT_ONCE = 16  # a request costs tens of milliseconds of waiting


def remote_folder(url: str) -> RemoteFolder:
    """The folder at an fsspec URL.

    Raises:
        CacheError: no such protocol, or the package that speaks it is not installed.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        filesystem, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(url.partition(":")[0].lower())
        raise CacheError(
            url.partition("?")[0],
            str(error).splitlines()[0],
            f'pip install "llm-flywheel[{extra}]", on every machine that embeds.'
            if extra and isinstance(error, ImportError)
            else "Install the package fsspec names for it, s3fs for s3:// say, or give a path.",
        ) from error
    return RemoteFolder(filesystem, path.rstrip("/"))


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an fsspec filesystem."""

    filesystem: Any
    path: str
    reads_at_once: int = REMOTE_READS_AT_ONCE
    chunk_bytes: int = 32 << 20

    @property
    def name(self) -> str:
        """Its last path component."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return str(self.filesystem.unstrip_protocol(self.path))

    def stamps(self) -> dict[str, Stamp]:
        """Every file by name, asked afresh."""
        found = {
            entry["name"].rpartition("/")[2]: Stamp(int(entry["size"] or 0), _modified(entry))
            for entry in self._entries()
            if entry["type"] == "file"
        }
        return dict(sorted(found.items()))

    def open(self, name: str) -> BinaryIO:
        """A file to read from anywhere in it."""
        return cast(BinaryIO, self.filesystem.open(f"{self.path}/{name}", "rb"))

    def read_into(self, name: str, spans: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each buffer from its offset on by one range request each, sent together where the store allows it."""
        starts = [offset for offset, _ in spans]
        ends = [offset + into.nbytes for offset, into in spans]
        paths = [f"{self.path}/{name}"] * len(spans)
        for (_, into), found in zip(
            spans, self.filesystem.cat_ranges(paths, starts, ends, on_error="raise"), strict=True
        ):
            into[: len(found)] = found
            if len(found) < into.nbytes:
                return False
        return True

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        """Gather the bytes in memory, then upload them."""
        whole = io.BytesIO()
        yield whole
        protocol = self.filesystem.protocol
        kinds = {protocol} if isinstance(protocol, str) else set(protocol)
        target = f"{self.path}/{name}"
        try:
            if not kinds & OBJECT_STORES:  # there it would make a bucket of a name that was mistyped
                self.filesystem.makedirs(self.path, exist_ok=True)
            if kinds & WHOLE_UPLOADS:
                self.filesystem.pipe_file(target, whole.getvalue())
                return
            beside = f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp"
            try:
                self.filesystem.pipe_file(beside, whole.getvalue())
                self.filesystem.mv(beside, target)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.rm_file(beside)
                raise
        except OSError as error:
            raise unwritable(self, error) from error

    def rename(self, old: str, new: str) -> None:
        """Give a file another name (object stores copy and delete)."""
        self.filesystem.mv(f"{self.path}/{old}", f"{self.path}/{new}")

    def delete(self, name: str) -> None:
        """Take a file away."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.path}/{name}")

    def remove(self) -> None:
        """Take the folder away if nothing is left in it; object stores have no empty ones."""
        with suppress(OSError, NotImplementedError):
            self.filesystem.rmdir(self.path)

    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        names = sorted(entry["name"].rstrip("/") for entry in self._entries() if entry["type"] == "directory")
        return [RemoteFolder(self.filesystem, name) for name in names]

    def _entries(self) -> list[dict[str, Any]]:
        self.filesystem.invalidate_cache(self.path)
        try:
            return list(self.filesystem.ls(self.path, detail=True))
        except FileNotFoundError:
            return []
        except OSError as error:
            problem = f"cannot be listed ({error})"
            raise CacheError(str(self), problem, "Is it within reach?", transient=True) from error


def _modified(entry: dict[str, Any]) -> float:
    """When an entry was last written; every filesystem has a word of its own for it."""
    for word in ("mtime", "LastModified", "last_modified", "updated", "created"):
        said = entry.get(word)
        if isinstance(said, datetime):
            return said.timestamp()
        if isinstance(said, int | float):
            return float(said)
    return 0.0
