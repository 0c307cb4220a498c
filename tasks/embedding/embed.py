"""Encoding what is missing: the one domain function of the room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.encoders import (
    Encoder,
    EncoderSettings,
    check_reads,
    complaints,
    encode_in_shards,
    fingerprint,
    load_encoder,
)
from tasks.embedding.folders import inside
from tasks.embedding.key_index import asked_ids
from tasks.errors import InputError
from tasks.records import Embedded, normalise
from tasks.store.items import content_of

SHARD_ROWS = 4096
TEXTS_AT_ONCE = 4 * SHARD_ROWS  # contents held at once; images are a thousand times larger
EMBEDDINGS = "embeddings"
SHOWN_ROWS = 20


def embeddings_of(root: Path | str) -> Path | str:
    """Where the caches of all encoders lie under a project's root, a path or an fsspec URL."""
    return inside(root, EMBEDDINGS)


def cache_for(settings: EncoderSettings, root: Path | str) -> EmbeddingCache:
    """The cache of this encoder under a project's root."""
    return EmbeddingCache(inside(embeddings_of(root), fingerprint(settings)), settings.storage_dtype)


@dataclass
class Refusals:
    """Items that cannot be encoded: how many, and of the first ones who they are and why."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, name: str, why: str) -> None:
        """One more."""
        self.count += 1
        if len(self.shown) < SHOWN_ROWS:
            self.shown.append(f"{name}: {why}")


@dataclass(frozen=True)
class _Shards:
    """Writes what was encoded of a slab of items, and notes what was not."""

    cache: EmbeddingCache
    keys: list[bytes]
    names: list[str]
    refusals: Refusals
    refused: set[int] = field(default_factory=set)

    def refuse(self, place: int, why: str) -> None:
        self.refused.add(place)
        self.refusals.add(self.names[place], why)

    def write(self, first: int, vectors: NDArray[np.float32]) -> None:
        good = [place for place in range(first, first + len(vectors)) if place not in self.refused]
        if len(good) < len(vectors):
            vectors = vectors[np.array(good, np.int64) - first]
        self.cache.append([self.keys[place] for place in good], vectors)


def embed_missing(
    settings: EncoderSettings,
    root: Path | str,
    keys: pl.DataFrame,
    contents: Callable[[pl.DataFrame], pl.DataFrame],
    modality: str,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Afterwards every key of `keys` that has a content which can be encoded is cached; only missing ones were encoded.

    Args:
        settings: the encoder; loaded only when something is missing.
        root: the project's root.
        keys: a column `key`.
        contents: gives key, text, image of the keys asked for, which are some thousands at a time; with a column
            `source_id`, what cannot be encoded is named by it.
        modality: text or image.
        progress: told (done, of how many): once the encoder is loaded, and after each batch or shard.

    Raises:
        CacheError: the cache cannot be read or written; what was encoded before is kept.
        EncoderError: the encoder cannot be loaded, or is not for this kind of item.
    """
    started = time.monotonic()
    cache = cache_for(settings, root)
    damaged = len(cache.damaged)
    missing = cache.missing(keys)
    encoded, refusals = 0, Refusals()
    if missing.height:
        check_reads(settings, modality)
        encoder = load_encoder(settings)
        if progress is not None:
            progress(0, missing.height)
    at_once = TEXTS_AT_ONCE if modality == "text" else SHARD_ROWS
    for first in range(0, missing.height, at_once):
        items = contents(missing.slice(first, at_once)).unique("key", keep="first", maintain_order=True)

        def told(done: int, _: int, before: int = first) -> None:
            if progress is not None:
                progress(before + done, missing.height)

        encoded += encode_items(encoder, cache, items, modality, refusals, told)
    return embedded(settings, cache, damaged, keys, missing.height, encoded, refusals, started)


def embedded(
    settings: EncoderSettings,
    cache: EmbeddingCache,
    damaged: int,
    keys: pl.DataFrame,
    missing: int,
    encoded: int,
    refusals: Refusals,
    started: float,
) -> Embedded:
    """What a run did that began at `started` (monotonic seconds), when so many parts had been found damaged before."""
    total = asked_ids(keys["key"]).n_unique()
    return Embedded(
        encoded,
        total - missing,
        total,
        cache.folder.name,
        round(time.monotonic() - started, 3),
        set_aside=[f"{name}: {problem}" for name, problem in cache.damaged[damaged:]],
        not_encoded=refusals.count,
        not_encoded_rows=refusals.shown,
        warnings=list(complaints(settings)),
    )


def encode_items(
    encoder: Encoder,
    cache: EmbeddingCache,
    items: pl.DataFrame,
    modality: str,
    refusals: Refusals,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Encode and cache items (key, text, image) in shards; what cannot be encoded is told to `refusals`.

    Returns:
        How many were encoded.
    """
    readable, held = readable_contents(items, modality, refusals)
    shards = _Shards(cache, readable["key"].to_list(), names_of(readable), refusals)
    encode_in_shards(encoder, held, SHARD_ROWS, shards.write, progress, shards.refuse)
    return readable.height - len(shards.refused)


def names_of(items: pl.DataFrame) -> list[str]:
    """What to call each item: the id it came with, else its key."""
    keys = [key.hex() for key in items["key"].to_list()]
    if "source_id" not in items.columns:
        return keys
    return [name or key for name, key in zip(items["source_id"].to_list(), keys, strict=True)]


def readable_contents(
    items: pl.DataFrame, modality: str, refusals: Refusals
) -> tuple[pl.DataFrame, list[Any]]:
    """The items that have a content, and their contents; the others are told to `refusals`."""
    good: list[int] = []
    held: list[Any] = []
    names = names_of(items)
    for place, (text, image) in enumerate(items.select("text", "image").iter_rows()):
        content: Any = None
        if modality == "text":
            content = text
            why = None if text and normalise(text) else "no text, or none that can be printed"
        elif image is None and text is None:
            why = "no image"
        else:
            try:
                [content], why = content_of(items[place], modality), None
            except InputError as error:
                why = f"{error.file}: {error.problem}"
        if why is None:
            good.append(place)
            held.append(content)
        else:
            refusals.add(names[place], why)
    return (items if len(good) == items.height else items[good]), held
