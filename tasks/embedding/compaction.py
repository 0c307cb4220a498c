"""Making a few large parts out of many small ones, while others read and write.

What is merged is written whole before its inputs go, and says which they were: a kill in between leaves both, and
the next compaction finishes. Two compactions of the same parts write the same file. Knows nothing of encoders.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.folders import BESIDE, Folder
from tasks.embedding.key_index import ids_of
from tasks.embedding.part_reading import read_blocks, read_keys
from tasks.embedding.parts import SUFFIX, Part, Rows, block_rows, write_part
from tasks.errors import CacheError, DamagedPartError

AT_LEAST = 32  # parts smaller than a quarter of the target before any is touched
TARGET_BYTES = 256 << 20
ABANDONED_SECONDS = 86_400.0


@dataclass(frozen=True)
class Compacted:
    """How many parts were merged, into how many; `unfinished` says why it stopped before the end, if it did."""

    merged: int = 0
    into: int = 0
    unfinished: str | None = None


def compact(
    cache: EmbeddingCache,
    at_least: int = AT_LEAST,
    target_bytes: int = TARGET_BYTES,
    now: float | None = None,
) -> Compacted:
    """Where `at_least` parts are small they are merged afterwards, and every key is cached as before.

    A part whose checksums are wrong is set aside rather than merged. A disk too full for a merged part leaves
    everything as it is.

    Args:
        cache: what to compact.
        at_least: small parts before anything is done; the rows of a part are then copied a few times in its life.
        target_bytes: of a merged part.
        now: seconds since 1970, to know which interrupted writes are old enough to be cleared away.
    """
    folder = cache.folder
    _clear_abandoned(folder, time.time() if now is None else now)
    _finish(cache)
    small = [part for part in cache.parts() if part.rows * part.width < target_bytes // 4]
    merged = into = 0
    if len(small) < at_least:
        return Compacted()
    for group in _groups(small, target_bytes):
        try:
            with folder.put(_merged_name(group)) as stream:
                write_part(
                    stream,
                    _distinct_rows(folder, group),
                    folder.name,
                    group[0].dimension,
                    group[0].dtype,
                    [part.name for part in group],
                )
        except FileNotFoundError:
            return Compacted(merged, into, "another compaction is at work")
        except DamagedPartError as damage:
            cache.set_aside(damage.place.rpartition("/")[2], damage.problem)
            continue
        except CacheError as error:
            return Compacted(merged, into, str(error))
        for part in group:
            folder.delete(part.name)
        merged, into = merged + len(group), into + 1
    return Compacted(merged, into)


def _finish(cache: EmbeddingCache) -> None:
    """Take away what an earlier compaction merged and was killed before it could delete."""
    parts = cache.parts()
    replaced = {name for part in parts for name in part.replaces}
    for part in parts:
        if part.name in replaced:
            cache.folder.delete(part.name)


def _groups(small: Sequence[Part], target_bytes: int) -> Iterator[list[Part]]:
    """Neighbours in the order of writing, two or more, of one dimension, as many as make a part of that size."""
    group: list[Part] = []
    size = 0
    for part in small:
        if group and (part.dimension != group[0].dimension or size + part.rows * part.width > target_bytes):
            if len(group) > 1:
                yield group
            group, size = [], 0
        group.append(part)
        size += part.rows * part.width
    if len(group) > 1:
        yield group


def _distinct_rows(folder: Folder, group: Sequence[Part]) -> Iterator[Rows]:
    """Every row of some parts once a key, in blocks of full size; two blocks are held at most."""
    keys = [read_keys(folder, part) for part in group]
    first = pl.concat([ids_of(part_keys) for part_keys in keys]).is_first_distinct().to_numpy()
    full = block_rows(group[0].dimension, group[0].dtype)
    waiting: list[Rows] = []
    held = done = 0
    for part in group:
        for rows in read_blocks(folder, part):
            wanted = first[done : done + len(rows.keys)]
            done += len(rows.keys)
            waiting.append(Rows(rows.keys[wanted], rows.vectors[wanted]))
            held += int(wanted.sum())
            if held >= full:
                joined = _joined(waiting)
                for at in range(0, held - held % full, full):
                    yield Rows(joined.keys[at : at + full], joined.vectors[at : at + full])
                rest = held - held % full
                waiting, held = [Rows(joined.keys[rest:], joined.vectors[rest:])], held % full
    if held:
        yield _joined(waiting)


def _joined(rows: Sequence[Rows]) -> Rows:
    if len(rows) == 1:
        return rows[0]
    return Rows(np.concatenate([one.keys for one in rows]), np.concatenate([one.vectors for one in rows]))


def _merged_name(group: Sequence[Part]) -> str:
    """The first one's place in the order of writing, and a digest of all names."""
    digest = hashlib.blake2b("\n".join(part.name for part in group).encode(), digest_size=6).hexdigest()
    return "-".join([*group[0].name.removesuffix(SUFFIX).split("-")[:2], digest]) + SUFFIX


def _clear_abandoned(folder: Folder, now: float) -> None:
    """Interrupted writes of yesterday go; a younger one may still be at work."""
    for name, stamp in folder.stamps().items():
        if BESIDE.match(name) and stamp.modified < now - ABANDONED_SECONDS:
            folder.delete(name)
