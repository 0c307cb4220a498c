"""Encoding what is missing by workers in other processes: what `embed_missing` does, with a pool instead of this one.

Knows nothing of what kind the workers are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import SHARD_ROWS, SHOWN_ROWS, Refusals, cache_for, embedded, embeddings_of
from tasks.embedding.encoders import EncoderSettings, check_reads, fingerprint
from tasks.embedding.folders import inside
from tasks.embedding.runners import Pool, RunnerError, run_shards
from tasks.embedding.sharding import Finished, Job, Shard, encode_shard, shards
from tasks.records import Embedded

LOOKS = 30  # a second apart: a network disk may show what another machine wrote only after a while


def embed_missing_by(
    open_pool: Callable[[], Pool],
    settings: EncoderSettings,
    root: Path | str,
    keys: pl.DataFrame,
    contents: Callable[[pl.DataFrame], pl.DataFrame],
    modality: str,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
    shard_rows: int = SHARD_ROWS,
) -> Embedded:
    """Afterwards what `embed_missing` promises holds; the encoder was loaded by the workers, never here.

    Args:
        open_pool: starts the workers; not called when nothing is missing. They are ended again.
        settings: the encoder.
        root: the project's cache root, the same path or URL on every worker.
        keys: a column `key`.
        contents: gives key, text, image (and perhaps source_id) of the keys asked for.
        modality: text or image.
        progress: told (done, of how many) at first and after each shard.
        threads: of computation in a worker.
        shard_rows: the most items of a shard.

    Raises:
        RunnerError: the workers cannot be had, or do not write where this machine reads, or a shard ends each of them.
        CacheError: the cache cannot be read or written; what was encoded before is kept.
        EncoderError: a worker cannot load the encoder, or has another one by its name.
    """
    started = time.monotonic()
    cache = cache_for(settings, root)
    damaged = len(cache.damaged)
    missing = cache.missing(keys)
    encoded, refusals = 0, Refusals()
    if missing.height:
        check_reads(settings, modality)
        job = Job(settings, _place(settings, root), modality, threads)
        with closing(open_pool()) as pool:
            if progress is not None:
                progress(0, missing.height)
            work = shards(missing, contents, modality, shard_rows)
            gone, seen = 0, False
            for shard, finished in run_shards(
                pool, encode_shard, job, work, lambda shard: _has_all(cache, shard)
            ):
                if not seen and finished.encoded:
                    _check_shared(cache, shard, finished, pool)
                    seen = True
                encoded += finished.encoded
                gone += shard.items.height
                refusals.count += finished.refusals.count
                refusals.shown += finished.refusals.shown[: SHOWN_ROWS - len(refusals.shown)]
                if progress is not None:
                    progress(gone, missing.height)
    return embedded(settings, cache, damaged, keys, missing.height, encoded, refusals, started)


def _place(settings: EncoderSettings, root: Path | str) -> str:
    """As it was written, credentials in a URL included: the workers need them."""
    place = inside(embeddings_of(root), fingerprint(settings))
    return str(place.absolute() if isinstance(place, Path) else place)


def _has_all(cache: EmbeddingCache, shard: Shard) -> bool:
    return not cache.missing(shard.items.select("key")).height


def _check_shared(cache: EmbeddingCache, shard: Shard, finished: Finished, pool: Pool) -> None:
    """The first shard that a worker wrote is seen here too; else hours of work would go to that worker's own disk.

    Raises:
        RunnerError: it is not.
    """
    for look in range(LOOKS):
        if cache.missing(shard.items.select("key")).height <= shard.items.height - finished.encoded:
            return
        if look + 1 < LOOKS:
            time.sleep(1.0)
    raise RunnerError(
        pool.name,
        f"a worker wrote {shard} to {cache.folder}, and it is not to be seen there from here",
        "Set storage.cache to a folder that all machines share, or to a URL such as s3://bucket/prefix.",
    )
