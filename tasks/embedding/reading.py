"""Vectors of located rows, put where they are wanted: no second copy, each byte read once and straight.

Holds the matrix and a few chunks of some megabytes. Knows nothing of keys.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.folders import Folder
from tasks.embedding.part_reading import decoded, read_spans
from tasks.embedding.parts import Part
from tasks.errors import CacheError, DamagedPartError

DENSE = 8  # where at least one row in so many is wanted, what lies between is read too


@dataclass
class Unread:
    """What a reading could not give: places of the matrix, and the parts that turned out damaged."""

    places: list[NDArray[np.int64]] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


class _Chunk(NamedTuple):
    """Wanted rows of one block: `rows` count within the block, ascending; `places` are theirs in the matrix."""

    part: Part
    group: int
    rows: NDArray[np.int64]
    places: NDArray[np.int64] | slice


def dimension_of(folder: Folder, parts: tuple[Part, ...], rows: NDArray[np.int64]) -> int:
    """The one dimension of all parts that the rows lie in; 0 where there are no rows.

    Raises:
        CacheError: they have several.
    """
    if not rows.size:
        return 0
    dimensions = {part.dimension for part in parts}
    if len(dimensions) > 1:
        ends = np.cumsum([part.rows for part in parts])
        met = [parts[place] for place in np.unique(np.searchsorted(ends, rows, "right"))]
        dimensions = {part.dimension for part in met}
        if len(dimensions) > 1:
            odd = next(part for part in met if part.dimension != met[0].dimension)
            raise CacheError(
                f"{folder}/{odd.name}",
                f"holds vectors of {odd.dimension} dimensions, others {met[0].dimension}",
                "The model behind the name changed: `flywheel embed --verify` sets aside what it no longer gives.",
            )
    return dimensions.pop()


def fill(
    folder: Folder,
    parts: tuple[Part, ...],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
    places: NDArray[np.int64] | None = None,
) -> Unread:
    """Afterwards `out[i]` (or `out[places[i]]`) is the vector of `rows[i]`, save for what is returned as unread.

    Args:
        folder: where the parts lie.
        parts: rows are counted over all of them, in this order.
        rows: int64 [n] in any order, with repeats.
        out: float32, of the parts' dimension.
        places: int64 [n], rows of `out`; all of them in order where it is None.
    """
    unread, own = Unread(), threading.local()

    def read(chunk: _Chunk) -> None:
        try:
            _read(folder, chunk, out, own)
        except (FileNotFoundError, DamagedPartError) as error:
            here = chunk.places
            unread.places.append(np.arange(here.start, here.stop) if isinstance(here, slice) else here)
            if isinstance(error, DamagedPartError):
                unread.damaged[chunk.part.name] = error.problem

    chunks = list(_chunks(parts, rows, places, folder.chunk_bytes))
    if len(chunks) < 2 or folder.reads_at_once < 2:
        for chunk in chunks:
            read(chunk)
    else:
        with ThreadPoolExecutor(min(folder.reads_at_once, len(chunks))) as pool:
            list(pool.map(read, chunks))
    return unread


def _chunks(
    parts: tuple[Part, ...], rows: NDArray[np.int64], places: NDArray[np.int64] | None, chunk_bytes: int
) -> Iterator[_Chunk]:
    order = None if (rows[1:] >= rows[:-1]).all() else np.argsort(rows)
    ascending = rows if order is None else rows[order]
    if order is not None and places is not None:
        places = places[order]
    elif order is not None:
        places = order
    starts, owners, first = [0], [], 0
    for part in parts:
        chunk_rows = _chunk_rows(part, chunk_bytes)
        for group, block in enumerate(part.blocks):
            step = block.rows if block.vectors_at is None else chunk_rows
            for start in range(0, block.rows, max(1, step)):
                owners.append((part, group, first + block.first))
                starts.append(first + block.first + min(start + step, block.rows))
        first += part.rows
    cuts = np.searchsorted(ascending, starts)
    for (part, group, block_first), low, high in zip(owners, cuts[:-1], cuts[1:], strict=True):
        if low < high:
            here = slice(int(low), int(high)) if places is None else places[low:high]
            yield _Chunk(part, group, ascending[low:high] - block_first, here)


def _chunk_rows(part: Part, chunk_bytes: int) -> int:
    return max(1, chunk_bytes // part.width)


def _read(folder: Folder, chunk: _Chunk, out: NDArray[np.float32], own: threading.local) -> None:
    part, rows = chunk.part, chunk.rows
    offset = part.blocks[chunk.group].vectors_at
    if offset is None:
        raw = decoded(folder, part, chunk.group, "vector", part.width)
        out[chunk.places] = raw.view(part.dtype)[rows]
        return
    low, span = int(rows[0]), int(rows[-1] - rows[0]) + 1
    whole = span == rows.size and bool((rows[1:] > rows[:-1]).all())
    if whole and part.dtype == "float32" and isinstance(chunk.places, slice):
        read_spans(folder, part, [(offset + low * part.width, out[chunk.places])])
    elif span <= DENSE * rows.size:
        between = _scratch(own, span, part)
        read_spans(folder, part, [(offset + low * part.width, between)])
        out[chunk.places] = between if whole else between[rows - low]
    else:
        distinct, at = np.unique(rows, return_inverse=True)
        wanted = _scratch(own, distinct.size, part)
        breaks = (np.flatnonzero(np.diff(distinct) > 1) + 1).tolist()
        runs = zip([0, *breaks], [*breaks, distinct.size], strict=True)
        spans = [(offset + int(distinct[start]) * part.width, wanted[start:stop]) for start, stop in runs]
        read_spans(folder, part, spans)
        out[chunk.places] = wanted[at]


def _scratch(own: threading.local, rows: int, part: Part) -> NDArray[Any]:
    """Room for some rows, the thread's own and used again."""
    room = getattr(own, "room", None)
    if room is None or room.nbytes < rows * part.width:
        room = own.room = np.empty(rows * part.width, np.uint8)
    return room[: rows * part.width].view(part.dtype).reshape(rows, part.dimension)
