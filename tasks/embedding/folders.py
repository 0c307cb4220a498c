"""Where a cache's files lie: listed, read at an offset, written whole or not at all, renamed, deleted.

The one seam between the cache and a disk or an object store. Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from tasks.errors import CacheError

BESIDE = re.compile(r"^\.(?P<name>.+)\.[0-9a-f]{32}\.tmp$")
LOCAL_READS_AT_ONCE = 4
_URL = re.compile(r"^[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters and more: C: is a drive


class Stamp(NamedTuple):
    """What tells that a file of one name is another file now; `modified` is 0 where nobody can say."""

    size: int
    modified: float


class Folder(Protocol):
    """One flat folder. A file that another process took away in the meantime raises FileNotFoundError."""

    @property
    def reads_at_once(self) -> int:
        """How many reads at the same time pay."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """How much to read at a time."""
        ...

    @property
    def name(self) -> str:
        """Its last path component."""
        ...

    def __str__(self) -> str:
        """Its path or URL, without credentials."""
        ...

    def stamps(self) -> dict[str, Stamp]:
        """Every file by name, in the order of the names; empty where the folder is not there."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to read from anywhere in it."""
        ...

    def read_into(self, name: str, spans: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each buffer with the bytes from its offset on; False where the file ends before. Threads may do so."""
        ...

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        """A stream whose bytes stand under `name`, whole, once the block ends; nothing where it raises.

        Raises:
            CacheError: the disk is full, or the folder may not be written to.
        """
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        ...

    def delete(self, name: str) -> None:
        """Take a file away; one that is gone already is no error."""
        ...

    def remove(self) -> None:
        """Take the folder away if nothing is left in it."""
        ...

    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        ...


def folder_at(location: Path | str) -> Folder:
    """The folder at a path, or at an fsspec URL such as `s3://bucket/embeddings`.

    Raises:
        CacheError: nobody here can read such a URL.
    """
    if isinstance(location, str) and _URL.match(location):
        if location.startswith(
            "file:"
        ):  # through fsspec a local file would not be written beside and renamed
            return LocalFolder(Path("/" + location.removeprefix("file:").lstrip("/")))
        from tasks.embedding.remote_folders import remote_folder

        return remote_folder(location)
    return LocalFolder(Path(location))


def inside(location: Path | str, name: str) -> Path | str:
    """The path or URL of `name` within another."""
    return location / name if isinstance(location, Path) else f"{location.rstrip('/')}/{name}"


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine, or a shared one that is mounted."""

    path: Path
    reads_at_once: int = min(LOCAL_READS_AT_ONCE, os.cpu_count() or 1)
    chunk_bytes: int = 4 << 20  # of a size that the processor's cache holds between reading and scattering

    @property
    def name(self) -> str:
        """Its last path component."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def stamps(self) -> dict[str, Stamp]:
        """Every file by name."""
        found = {}
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.is_file():
                            stat = entry.stat()
                            found[entry.name] = Stamp(stat.st_size, stat.st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            problem = f"cannot be listed ({error.strerror})"
            raise CacheError(self.path, problem, "Is it mounted?", transient=True) from error
        return dict(sorted(found.items()))

    def open(self, name: str) -> BinaryIO:
        """A file to read from anywhere in it."""
        return (self.path / name).open("rb")

    def read_into(self, name: str, spans: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each buffer from its offset on, straight out of the page cache."""
        with (self.path / name).open("rb", buffering=0) as stream:
            for offset, into in spans:
                stream.seek(offset)
                while into.nbytes:
                    got = stream.readinto(into)
                    if not got:
                        return False
                    into = into[got:]
            return True

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        """Write beside, flush to the disk, rename."""
        beside = self.path / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = beside.open("xb")
        except OSError as error:
            raise unwritable(self, error) from error
        try:
            with stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(self.path / name)
            self._flush()
        except BaseException as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            # What the block read may have been taken away by another process; that is no failure to write.
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise unwritable(self, error) from error
            raise

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        (self.path / old).replace(self.path / new)

    def delete(self, name: str) -> None:
        """Take a file away."""
        (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the folder away if nothing is left in it."""
        with suppress(OSError):
            self.path.rmdir()

    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        if not self.path.is_dir():
            return []
        return [LocalFolder(path) for path in sorted(self.path.iterdir()) if path.is_dir()]

    def _flush(self) -> None:
        """Make the new name outlast a power cut: a compaction deletes what the new file replaces right after."""
        with suppress(OSError):  # not every filesystem can
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def unwritable(folder: Folder, error: OSError) -> CacheError:
    """What went wrong while writing, in words; what was written before is whole."""
    return CacheError(
        str(folder),
        f"cannot be written ({error.strerror or error})",
        "Free some space or mend the permissions, then run it again: what is cached stays, the rest is encoded then.",
        transient=True,
    )
