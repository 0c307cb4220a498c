"""Which key lies in which row of which part: 16 bytes a key in memory, kept while the process lives.

Parts are immutable, so only those that are new since the last look are read. Knows nothing of vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.folders import Folder, Stamp
from tasks.embedding.part_reading import open_part, read_keys
from tasks.embedding.parts import DAMAGED_SUFFIX, SUFFIX, Part, StorageDtype
from tasks.errors import DamagedPartError
from tasks.records import KEY_BYTES

LOOKS = 20  # a compaction may take parts away between listing and reading; each look sees what replaced them
FEW = 8  # asked keys that are so many times fewer than the known ones are met by a semi-join first
RUNS = 32
RUN_ROWS = 4096
T = TypeVar("T")
U = TypeVar("U")


class Damage(NamedTuple):
    """A part that was set aside (or could not even be renamed), and why."""

    part: str
    problem: str


class Located(NamedTuple):
    """The parts as they were, and for each asked key its row counted over all of them; -1 where it has none."""

    parts: tuple[Part, ...]
    rows: NDArray[np.int64]


@dataclass
class _Known:
    stamp: Stamp
    part: Part
    ids: pl.Series


@dataclass
class KeyIndex:
    """The keys of one folder's parts; threads may share it."""

    folder: Folder
    dtype: StorageDtype
    damaged: list[Damage] = field(default_factory=list)
    _known: dict[str, _Known] = field(default_factory=dict)
    _refused: dict[str, Stamp] = field(default_factory=dict)
    _ids: pl.Series | None = None
    _distinct: pl.DataFrame | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def parts(self) -> tuple[Part, ...]:
        """The parts that are there now, in the order they were written."""
        with self._lock:
            self._look()
            return tuple(known.part for known in self._known.values())

    def ids(self) -> pl.Series:
        """Every row's key as Int128, in the order of `parts`; a key that two writers encoded stands twice."""
        with self._lock:
            self._look()
            return self._all_ids()

    def missing(self, asked: pl.Series) -> pl.Series:
        """A mask (true where missing) over asked ids."""
        with self._lock:
            self._look()
            known = self._all_ids()
        if asked.len() == known.len() and (asked == known).all():
            return pl.repeat(False, asked.len(), dtype=pl.Boolean, eager=True)
        frame = asked.to_frame("id").with_row_index("place")
        absent = frame.join(_few(known.to_frame("id"), frame), on="id", how="anti")
        mask = np.zeros(asked.len(), bool)
        mask[absent["place"].to_numpy()] = True
        return pl.Series(mask)

    def locate(self, asked: pl.Series) -> Located:
        """Where each asked id lies."""
        with self._lock:
            self._look()
            parts = tuple(known.part for known in self._known.values())
            ids = self._all_ids()
            rows = _in_runs(asked, ids)
            if rows is None:
                rows = self._joined(asked, ids)
            return Located(parts, rows)

    def set_aside(self, name: str, problem: str) -> None:
        """Afterwards the part counts for nothing; it keeps its bytes under another name."""
        with self._lock:
            self.damaged.append(Damage(name, problem))
            self._known.pop(name, None)
            self._ids = self._distinct = None
            stamp = self.folder.stamps().get(name)
            try:
                self.folder.rename(name, name.removesuffix(SUFFIX) + DAMAGED_SUFFIX)
            except FileNotFoundError:
                pass  # another process was first
            except OSError:  # a folder one may only read
                if stamp is not None:
                    self._refused[name] = stamp

    def _look(self) -> None:
        """Read the keys of parts that are new, forget those that are gone."""
        for _ in range(LOOKS):
            stamps = {n: s for n, s in self.folder.stamps().items() if n.endswith(SUFFIX) and n[0] != "."}
            gone = [n for n, known in self._known.items() if stamps.get(n) != known.stamp]
            for name in gone:
                del self._known[name]
            new = [n for n in stamps if n not in self._known and self._refused.get(n) != stamps[n]]
            vanished = False
            for name, found in zip(new, _at_once(self._read, new, self.folder.reads_at_once), strict=True):
                if isinstance(found, DamagedPartError):
                    self.set_aside(name, found.problem)
                elif found is None:
                    vanished = True
                else:
                    self._known[name] = _Known(stamps[name], *found)
            if new or gone:
                self._known = dict(sorted(self._known.items()))
                self._ids = self._distinct = None
            if not (vanished or gone):  # a listing made while parts come and go may lack some of both
                return

    def _read(self, name: str) -> tuple[Part, pl.Series] | DamagedPartError | None:
        try:
            part = open_part(self.folder, name, self.dtype)
            return part, ids_of(read_keys(self.folder, part))
        except DamagedPartError as damage:
            return damage
        except FileNotFoundError:
            return None

    def _all_ids(self) -> pl.Series:
        if self._ids is None:
            series = [known.ids for known in self._known.values()]
            self._ids = pl.concat(series, rechunk=True) if series else pl.Series("id", [], pl.Int128)
            first = 0
            for known in self._known.values():  # from here on the keys stand in the one series only
                known.ids = self._ids.slice(first, known.part.rows)
                first += known.part.rows
        return self._ids

    def _joined(self, asked: pl.Series, ids: pl.Series) -> NDArray[np.int64]:
        frame = asked.to_frame("id")
        known = ids.to_frame("id").with_row_index("row") if self._distinct is None else self._distinct
        found = frame.join(_few(known, frame), on="id", how="left", maintain_order="left")
        if found.height > frame.height:  # some key was encoded by two writers: the first one counts
            known = self._distinct = known.unique("id", keep="first", maintain_order=True)
            found = frame.join(_few(known, frame), on="id", how="left", maintain_order="left")
        return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def ids_of(keys: NDArray[np.uint8]) -> pl.Series:
    """Keys uint8 [n, 16] as one Int128 each, which joins twice as fast as 16 bytes do."""
    words = np.ascontiguousarray(keys).view("<u8")
    halves = pl.DataFrame({"low": words[:, 0].copy(), "high": words[:, 1].copy().view("<i8")})
    return halves.select(
        id=pl.col("high").cast(pl.Int128) * pl.lit(1 << 64, pl.Int128) + pl.col("low").cast(pl.Int128)
    )["id"]


def asked_ids(keys: pl.Series) -> pl.Series:
    """A binary column of keys as one Int128 each.

    Raises:
        ValueError: a key is not of sixteen bytes.
    """
    if keys.len() and (keys.null_count() or not (keys.bin.size() == KEY_BYTES).all()):
        raise ValueError(f"a key is not of {KEY_BYTES} bytes")
    return keys.bin.reinterpret(dtype=pl.Int128, endianness="little").alias("id")


def keys_of(ids: Iterable[int]) -> list[bytes]:
    """The keys that some ids stand for."""
    return [int(value).to_bytes(KEY_BYTES, "little", signed=True) for value in ids]


def _few(known: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """What of `known` can matter, where few keys are asked: probing a million rows beats hashing them."""
    return known.join(asked, on="id", how="semi") if asked.height * FEW < known.height else known


def _in_runs(asked: pl.Series, ids: pl.Series) -> NDArray[np.int64] | None:
    """Rows of asked ids that stand in the index in few long runs, as written so asked; None where they do not."""
    if not asked.len():
        return np.empty(0, np.int64)
    rows, done = np.empty(asked.len(), np.int64), 0
    for _ in range(RUNS):
        if asked.len() - done < RUN_ROWS and done == 0:
            return None
        place = (ids == asked[done]).arg_max()
        if place is None or ids[place] != asked[done]:
            return None
        most = min(asked.len() - done, ids.len() - place)
        same = asked.slice(done, most) == ids.slice(place, most)
        length = most if same.all() else int(same.arg_min() or 0)
        if length < min(RUN_ROWS, asked.len() - done):
            return None
        rows[done : done + length] = np.arange(place, place + length)
        done += length
        if done == asked.len():
            return rows
    return None


def _at_once(work: Callable[[T], U], on: list[T], threads: int) -> Iterable[U]:
    if len(on) < 2 or threads < 2:
        return [work(one) for one in on]
    with ThreadPoolExecutor(min(threads, len(on))) as pool:
        return list(pool.map(work, on))
