"""Contents that are traps: a named pipe holds whoever opens it in the middle of a shard, until it is killed there."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

PATIENCE_SECONDS = 60.0


def images(folder: Path, count: int, of_bytes: int = 40) -> pl.DataFrame:
    """So many items that are files (no pictures: the hash encoder reads any bytes), kept by their path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(content(number, of_bytes))
    return pl.DataFrame(
        {
            "key": [number.to_bytes(16, "big") for number in range(count)],
            "text": [str(path) for path in paths],
            "image": [None] * count,
        },
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )


def content(number: int, of_bytes: int = 40) -> bytes:
    return (f"item {number} " * (of_bytes // 4)).encode()[:of_bytes]


class Trap:
    """Stands in an item's place and kills with SIGKILL, one after the other, those who open it.

    Attributes:
        killed: their process ids.
    """

    def __init__(self, path: Path, kills: int) -> None:
        self.killed: list[int] = []
        self._path, self._whole, self._kills = path, path.read_bytes(), kills
        self._stop = threading.Event()
        self._set()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _set(self) -> None:
        pipe = self._path.with_suffix(".pipe")
        os.mkfifo(pipe)
        pipe.rename(self._path)

    def _watch(self) -> None:
        while len(self.killed) < self._kills and not self._stop.is_set():
            end = self._caught()
            if end is None:
                time.sleep(0.005)
                continue
            held, victim = os.fstat(end), None
            while victim is None and not self._stop.is_set():
                victim = _reader_of(held.st_ino)
            if len(self.killed) + 1 < self._kills:
                self._set()  # whoever comes next meets another pipe
            else:
                self._release()
            if victim is not None:
                self.killed.append(victim)
                os.kill(victim, signal.SIGKILL)
            os.close(end)

    def _caught(self) -> int | None:
        """The other end of the pipe once somebody has opened it."""
        try:
            return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    def _release(self) -> None:
        whole = self._path.with_suffix(".whole")
        whole.write_bytes(self._whole)
        whole.rename(self._path)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._release()

    def start(self) -> None:
        self._thread.start()


def _reader_of(inode: int) -> int | None:
    """The process other than this one that has the pipe open."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if descriptor.stat().st_ino == inode and descriptor.is_fifo():
                        return int(process.name)
    return None


@contextmanager
def trapped(path: Path, kills: int) -> Iterator[Trap]:
    """For a while the file is a trap that kills so many; afterwards it is what it was."""
    trap = Trap(path, kills)
    trap.start()
    try:
        yield trap
    finally:
        trap.end()
