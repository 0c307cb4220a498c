"""A shard: some thousands of items, encoded and cached by whichever process has it, here or on another machine.

What travels is a job, a shard and what became of it. Knows nothing of who hands shards out, nor of any cluster.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.appending import AppendedFolder
from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import SHARD_ROWS, TEXTS_AT_ONCE, Refusals, names_of, readable_contents
from tasks.embedding.encoders import Encoder, EncoderSettings, encode_in_shards, fingerprint, load_encoder
from tasks.embedding.folders import folder_at
from tasks.embedding.parts import StorageDtype
from tasks.errors import EncoderError, FlywheelError

SHARD_BYTES = 8 << 20  # Dask warns of more in one task; a shard of long texts or of images has fewer items
_one_at_a_time = threading.Lock()  # a worker's threads share one encoder, and tokenizers refuse two callers


@dataclass(frozen=True)
class Job:
    """What all shards of a run have in common.

    Attributes:
        settings: the encoder.
        place: the encoder's cache, a path or an fsspec URL that every worker reaches.
        modality: text or image.
        threads: of computation in a worker.
    """

    settings: EncoderSettings
    place: str
    modality: str
    threads: int = 1


@dataclass(frozen=True)
class Shard:
    """Items (key, text, image, perhaps source_id) that are encoded together; `number` counts from 1 over a run."""

    number: int
    items: pl.DataFrame

    def __str__(self) -> str:
        first = self.items["key"][0].hex() if self.items.height else "none"
        return f"shard {self.number} ({self.items.height} items, the first of key {first})"


@dataclass(frozen=True)
class Finished:
    """How many vectors of a shard are cached now, and what could not be encoded; or the error of ours that ended it."""

    encoded: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    kind: type[FlywheelError] | None = None
    message: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def raised(self) -> Finished:
        """Itself.

        Raises:
            FlywheelError: what ended the shard.
        """
        if self.kind is None:
            return self
        error = self.kind.__new__(self.kind, self.message)
        error.__dict__.update(self.attributes)
        raise error


def shards(
    missing: pl.DataFrame,
    contents: Callable[[pl.DataFrame], pl.DataFrame],
    modality: str,
    rows: int = SHARD_ROWS,
) -> Iterator[Shard]:
    """The missing items, shard by shard; only a few thousand contents are held.

    Args:
        missing: a column `key`, and any others.
        contents: gives key, text, image of some rows of `missing`.
        modality: text or image.
        rows: the most items of a shard; large contents make smaller ones.
    """
    number = 0
    at_once = max(rows, TEXTS_AT_ONCE if modality == "text" else SHARD_ROWS)
    for first in range(0, missing.height, at_once):
        items = contents(missing.slice(first, at_once)).unique("key", keep="first", maintain_order=True)
        for shard in _cut(items, rows):
            number += 1
            yield Shard(number, shard)


def _cut(items: pl.DataFrame, rows: int) -> Iterator[pl.DataFrame]:
    sizes = items.select(
        pl.col("text").str.len_bytes().fill_null(0) + pl.col("image").bin.size().fill_null(0)
    ).to_series()
    start = held = 0
    for row, size in enumerate(sizes.to_list()):
        if row > start and (row - start >= rows or held + size > SHARD_BYTES):
            yield items[start:row]
            start, held = row, 0
        held += size
    if items.height > start:
        yield items[start:]


def encode_shard(job: Job, shard: Shard) -> Finished:
    """Afterwards the vectors of a shard's readable items are in the cache, as one part.

    A process loads its encoder once. An error of ours comes back as a value: exceptions whose constructors take
    several arguments do not survive a pickle.
    """
    try:
        with _one_at_a_time:
            _limit_threads(job.threads)
            encoder = _encoder(job.settings, job.place)
            _limit_threads(job.threads)
            return _encoded(encoder, _cache(job.place, job.settings.storage_dtype), shard, job.modality)
    except FlywheelError as error:
        return Finished(kind=type(error), message=str(error), attributes=dict(error.__dict__))


def _encoded(encoder: Encoder, cache: EmbeddingCache, shard: Shard, modality: str) -> Finished:
    refusals, refused = Refusals(), set[int]()
    items, contents = readable_contents(shard.items, modality, refusals)
    keys, names = items["key"].to_list(), names_of(items)

    def refuse(place: int, why: str) -> None:
        refused.add(place)
        refusals.add(names[place], why)

    def write(_: int, vectors: NDArray[np.float32]) -> None:
        good = [place for place in range(len(keys)) if place not in refused]
        cache.append([keys[place] for place in good], vectors[good] if refused else vectors)

    encode_in_shards(encoder, contents, max(1, len(contents)), write, None, refuse)
    return Finished(len(keys) - len(refused), refusals)


@lru_cache(maxsize=1)
def _encoder(settings: EncoderSettings, place: str) -> Encoder:
    """The encoder, if it is the one the cache is of.

    Raises:
        EncoderError: this machine has other weights under the same name.
    """
    wanted = folder_at(place).name
    if (found := fingerprint(settings)) != wanted:
        raise EncoderError(
            settings.model,
            f"a worker has it as {found}, the run as {wanted}",
            "Install the same version of the weights everywhere, or name encoder.revision.",
        )
    return load_encoder(settings)


def _limit_threads(threads: int) -> None:
    """Afterwards the numeric libraries of this process compute in so many threads; those not loaded yet will."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _cache(place: str, dtype: StorageDtype) -> EmbeddingCache:
    return EmbeddingCache(AppendedFolder(folder_at(place)), dtype)
