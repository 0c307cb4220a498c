"""Embedding a frame of items by some pool of workers, and by this process, to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings
from tasks.embedding.runners import Pool
from tasks.embedding.spreading import embed_missing_by
from tasks.records import Embedded

HASH = EncoderSettings("hash:16")
ITEMS, SHARD_ROWS = 48, 12


def spread(
    pool: Callable[[], Pool],
    root: Path | str,
    frame: pl.DataFrame,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Embed the frame's items by the workers of a pool, twelve a shard."""
    return embed_missing_by(
        pool,
        HASH,
        root,
        frame.select("key"),
        lambda missing: frame.join(missing, on="key", how="semi", maintain_order="left"),
        "image",
        progress,
        shard_rows=SHARD_ROWS,
    )


def locally(root: Path, frame: pl.DataFrame) -> EmbeddingCache:
    """The same items embedded in this process."""
    embed_missing(HASH, root, frame.select("key"), lambda _: frame, "image")
    return cache_for(HASH, root)


def same(cache: EmbeddingCache, local: EmbeddingCache, frame: pl.DataFrame) -> bool:
    """Equal to the bit, key by key: an encoder that takes items one by one gives no other vector in another shard."""
    keys = frame["key"].reverse()
    return np.array_equal(cache.read(keys), local.read(keys))
