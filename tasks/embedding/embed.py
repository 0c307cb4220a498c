"""Encoding what is missing: the one domain function of the room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.encoders import EncoderSettings, check_reads, encode_in_shards, fingerprint, load_encoder
from tasks.records import Embedded
from tasks.store.items import content_of

SHARD_ROWS = 4096


def cache_for(settings: EncoderSettings, root: Path) -> EmbeddingCache:
    """The cache of this encoder under a project's root."""
    return EmbeddingCache(root / "embeddings" / fingerprint(settings))


@dataclass(frozen=True)
class _Shards:
    cache: EmbeddingCache
    keys: list[bytes]

    def write(self, first: int, vectors: np.ndarray) -> None:
        self.cache.append(self.keys[first : first + len(vectors)], vectors)


def embed_missing(
    settings: EncoderSettings,
    root: Path,
    keys: pl.DataFrame,
    contents: Callable[[pl.DataFrame], pl.DataFrame],
    modality: str,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Afterwards every key of `keys` is cached; only missing ones were encoded.

    Args:
        settings: the encoder; loaded only when something is missing.
        root: the project's root.
        keys: a column `key`.
        contents: gives key, text, image of the keys asked for.
        modality: text or image.
        progress: told (done, of how many) after each shard.
    """
    started = time.monotonic()
    cache = cache_for(settings, root)
    total = keys["key"].n_unique()
    missing = cache.missing(keys)
    if missing.height:
        check_reads(settings, modality)
        items = contents(missing).unique("key", keep="first", maintain_order=True)
        shards = _Shards(cache, items["key"].to_list())
        encode_in_shards(
            load_encoder(settings), content_of(items, modality), SHARD_ROWS, shards.write, progress
        )
    seconds = round(time.monotonic() - started, 3)
    return Embedded(missing.height, total - missing.height, total, cache.folder.name, seconds)
