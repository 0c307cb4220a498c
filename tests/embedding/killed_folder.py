"""A folder whose process dies at a given step: what a kill leaves is left, and nothing is tidied up."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tasks.embedding.folders import Folder, LocalFolder, Stamp


class Killed(BaseException):
    """Stands for SIGKILL: no code of the cache may catch it and go on."""


class KilledFolder:
    """A local folder that counts renames, deletions and the two steps of a write, and dies at step `dies_at`.

    Dying while writing leaves `share` of the bytes beside, as a killed process does.
    """

    reads_at_once, chunk_bytes = 1, 1 << 20

    def __init__(self, path: Path, dies_at: int | None, share: float = 0.5) -> None:
        self._folder, self._share = LocalFolder(path), share
        self._left = dies_at
        self.steps = 0

    @property
    def name(self) -> str:
        return self._folder.name

    def __str__(self) -> str:
        return str(self._folder)

    def stamps(self) -> dict[str, Stamp]:
        return self._folder.stamps()

    def open(self, name: str) -> BinaryIO:
        return self._folder.open(name)

    def read_into(self, name: str, spans: Sequence[tuple[int, memoryview]]) -> bool:
        return self._folder.read_into(name, spans)

    @contextmanager
    def put(self, name: str) -> Iterator[BinaryIO]:
        whole = io.BytesIO()
        yield whole
        beside = self._folder.path / f".{name}.{uuid.uuid4().hex}.tmp"
        self._folder.path.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(whole.getvalue()[: int(self._share * whole.tell())])
        self._step()
        beside.write_bytes(whole.getvalue())
        self._step()
        beside.rename(self._folder.path / name)

    def rename(self, old: str, new: str) -> None:
        self._step()
        self._folder.rename(old, new)

    def delete(self, name: str) -> None:
        self._step()
        self._folder.delete(name)

    def remove(self) -> None:
        self._folder.remove()

    def folders(self) -> list[Folder]:
        return []

    def _step(self) -> None:
        if self._left is not None and self.steps >= self._left:
            raise Killed
        self.steps += 1
