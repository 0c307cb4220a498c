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
from tasks.embedding.folders import inside
from tasks.embedding.key_index import asked_ids
from tasks.records import Embedded
from tasks.store.items import content_of

SHARD_ROWS = 4096
TEXTS_AT_ONCE = 4 * SHARD_ROWS  # contents held at once; images are a thousand times larger
EMBEDDINGS = "embeddings"


def embeddings_of(root: Path | str) -> Path | str:
    """Where the caches of all encoders lie under a project's root, a path or an fsspec URL."""
    return inside(root, EMBEDDINGS)


def cache_for(settings: EncoderSettings, root: Path | str) -> EmbeddingCache:
    """The cache of this encoder under a project's root."""
    return EmbeddingCache(inside(embeddings_of(root), fingerprint(settings)), settings.storage_dtype)


@dataclass(frozen=True)
class _Shards:
    cache: EmbeddingCache
    keys: list[bytes]

    def write(self, first: int, vectors: np.ndarray) -> None:
        self.cache.append(self.keys[first : first + len(vectors)], vectors)


def embed_missing(
    settings: EncoderSettings,
    root: Path | str,
    keys: pl.DataFrame,
    contents: Callable[[pl.DataFrame], pl.DataFrame],
    modality: str,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Afterwards every key of `keys` that has a content is cached; only missing ones were encoded.

    Args:
        settings: the encoder; loaded only when something is missing.
        root: the project's root.
        keys: a column `key`.
        contents: gives key, text, image of the keys asked for, which are some thousands at a time.
        modality: text or image.
        progress: told (done, of how many) after each shard.

    Raises:
        CacheError: the cache cannot be read or written; what was encoded before is kept.
    """
    started = time.monotonic()
    cache = cache_for(settings, root)
    damaged = len(cache.damaged)
    missing = cache.missing(keys)
    total, encoded = asked_ids(keys["key"]).n_unique(), 0
    if missing.height:
        check_reads(settings, modality)
        encoder = load_encoder(settings)
    at_once = TEXTS_AT_ONCE if modality == "text" else SHARD_ROWS
    for first in range(0, missing.height, at_once):
        items = contents(missing.slice(first, at_once)).unique("key", keep="first", maintain_order=True)

        def told(done: int, _: int, before: int = first) -> None:
            if progress is not None:
                progress(before + done, missing.height)

        shards = _Shards(cache, items["key"].to_list())
        encode_in_shards(encoder, content_of(items, modality), SHARD_ROWS, shards.write, told)
        encoded += items.height
    return Embedded(
        encoded,
        total - missing.height,
        total,
        cache.folder.name,
        round(time.monotonic() - started, 3),
        set_aside=[f"{name}: {problem}" for name, problem in cache.damaged[damaged:]],
    )
