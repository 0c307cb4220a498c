"""A cache's folder as somebody sees it who only adds to it: what others have written is not read.

Many workers on many machines would otherwise read the keys of each other's parts. Knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from tasks.embedding.folders import Folder, Stamp
from tasks.embedding.parts import SUFFIX


@dataclass
class AppendedFolder:
    """Lists one part of what is there, and once: enough to refuse vectors of another dimension."""

    folder: Folder

    @property
    def reads_at_once(self) -> int:
        """How many reads at the same time pay."""
        return self.folder.reads_at_once

    @property
    def chunk_bytes(self) -> int:
        """How much to read at a time."""
        return self.folder.chunk_bytes

    @property
    def name(self) -> str:
        """Its last path component."""
        return self.folder.name

    def __str__(self) -> str:
        return str(self.folder)

    def stamps(self) -> dict[str, Stamp]:
        """The first part by name, as it was when first asked for."""
        return dict(self._first)

    @cached_property
    def _first(self) -> dict[str, Stamp]:
        parts = ((name, stamp) for name, stamp in self.folder.stamps().items() if name.endswith(SUFFIX))
        return dict([part] if (part := next(parts, None)) else [])

    def open(self, name: str) -> BinaryIO:
        """A file to read from anywhere in it."""
        try:
            return self.folder.open(name)
        except FileNotFoundError:  # compacted meanwhile: the next look finds another
            self.__dict__.pop("_first", None)
            raise

    def read_into(self, name: str, spans: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each buffer from its offset on."""
        return self.folder.read_into(name, spans)

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        """A stream whose bytes stand under `name`, whole, once the block ends."""
        with self.folder.put(name) as stream:
            yield stream

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        self.folder.rename(old, new)

    def delete(self, name: str) -> None:
        """Take a file away."""
        self.folder.delete(name)

    def remove(self) -> None:
        """Take the folder away if nothing is left in it."""
        self.folder.remove()

    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        return self.folder.folders()
