"""Frames some thousand rows at a time, all those about one item together.

Joins and groups of everything at once take several times the memory of what they read, most of all on keys. Knows
nothing of what the rows mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

ROWS_AT_ONCE = 30_000


def in_shards(*frames: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Parts of frames that have a `key`: rows with the same key stand in the same part, in their order."""
    count = -(-max(frame.height for frame in frames) // ROWS_AT_ONCE)
    if count < 2:
        yield frames
        return
    shards = [frame["key"].hash() % count for frame in frames]
    for place in range(count):
        yield tuple(frame.filter(shard == place) for frame, shard in zip(frames, shards, strict=True))
