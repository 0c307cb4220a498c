"""The Prefect steps of embedding: encode what is missing, verify the cache, prune what nobody uses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy import select

from tasks.embedding.compaction import compact
from tasks.embedding.embed import (
    Refusals,
    cache_for,
    embed_missing,
    embeddings_of,
    readable_contents,
)
from tasks.embedding.encoders import EncoderSettings, fingerprint, load_encoder, stem_of
from tasks.embedding.pools import open_pool
from tasks.embedding.progress import progress_line
from tasks.embedding.spreading import embed_missing_by
from tasks.embedding.vectors import encoder_settings
from tasks.embedding.verifying import verify
from tasks.errors import EncoderError
from tasks.monitoring.progress import heard
from tasks.project import Project
from tasks.records import Embedded, PrunedCaches, VerifiedCache
from tasks.retries import AGAIN
from tasks.sources import read_gold
from tasks.store import Store, open_store, schema

IDS_AT_ONCE = 10_000  # databases take some ten thousands of values in one query
CONTENT = ("key", "source_id", "text", "image")


@task(name="embed items", cache_policy=NO_CACHE, **AGAIN)
def embed(project: Project) -> Embedded:
    """Afterwards every item and every gold item has a vector in the cache, and small parts of it are merged."""
    store = open_store(project.database_url, project.project)
    gold = read_gold(project).select(*CONTENT)
    keys, settings = _keys(store, gold), encoder_settings(project.encoder)

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        return _contents(store, gold, missing)

    modality, runner = project.task.modality, project.runner
    progress = heard("embedding", progress_line("embedding"))
    if runner.kind == "threads":
        embedded = embed_missing(settings, project.cache_root, keys, contents, modality, progress)
    else:
        gpus = 1.0 if settings.device == "cuda" else 0.0
        workers = partial(open_pool, runner.kind, runner.address, runner.workers, runner.threads, gpus)
        embedded = embed_missing_by(
            workers,
            settings,
            project.cache_root,
            keys,
            contents,
            modality,
            progress,
            runner.threads,
            runner.shard_rows,
        )
    return replace(embedded, merged=compact(cache_for(settings, project.cache_root)).merged)


@task(name="verify the embedding cache", cache_policy=NO_CACHE, **AGAIN)
def verify_cache(project: Project, sample: int, seed: int) -> VerifiedCache:
    """Afterwards every part of the project's cache that is not what its encoder gives is set aside."""
    started = time.monotonic()
    store = open_store(project.database_url, project.project)
    gold = read_gold(project).select(*CONTENT)
    settings = encoder_settings(project.encoder)
    cache = cache_for(settings, project.cache_root)

    def encode(keys: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
        drawn = pl.DataFrame({"key": keys}, schema={"key": pl.Binary}).with_row_index("place")
        known = _keys(store, gold).unique("key", keep="first")
        items = _contents(store, gold, known.join(drawn, on="key", how="semi"))
        found = drawn.join(items.unique("key"), on="key", how="inner", maintain_order="left")
        found, contents = readable_contents(found, project.task.modality, Refusals())
        encoded = load_encoder(settings).encode_each(contents)
        good = np.array([row for row in range(len(contents)) if row not in encoded.refused], np.int64)
        return found["place"].cast(pl.Int64).to_numpy()[good], encoded.vectors[good]

    found = verify(cache, encode, sample, seed)
    return VerifiedCache(
        cache.folder.name,
        found.parts,
        found.rows,
        found.compared,
        found.least_cosine,
        round(time.monotonic() - started, 3),
        [f"{name}: {problem}" for name, problem in sorted(found.wrong.items())],
    )


@task(name="prune embedding caches", cache_policy=NO_CACHE, **AGAIN)
def prune_caches(project: Project, delete: bool) -> PrunedCaches:
    """What caches there are; where `delete` is set, those are gone that neither the project nor a version uses."""
    from tasks.embedding.pruning import prune, survey
    from tasks.promotion.tracking import registry_of

    settings = encoder_settings(project.encoder)
    stems: set[str] = set()
    used = {fingerprint(settings)}
    if project.encoder.precision == "auto":  # another machine that shares the folder may resolve it otherwise
        used |= {fingerprint(replace(settings, precision=other)) for other in ("float32", "bfloat16")}
    for settings in registry_of(project).encoders():
        name = _fingerprint_if_known(settings)
        if name is None:
            stems.add(stem_of(settings))
        else:
            used.add(name)

    def in_use(name: str) -> bool:
        return name in used or name.rpartition("-")[0] in stems

    embeddings = embeddings_of(project.cache_root)
    found = survey(embeddings, in_use)
    if delete:
        prune(embeddings, in_use)
    return PrunedCaches(found.unused, found.used, found.leftovers, delete)


def _fingerprint_if_known(settings: EncoderSettings) -> str | None:
    """None for a model that is not on this machine any more: then every cache of a model of its name is kept."""
    try:
        return fingerprint(settings)
    except EncoderError:
        return None


def _keys(store: Store, gold: pl.DataFrame) -> pl.DataFrame:
    """Keys of all items with their ids in the database, and of gold with none."""
    known = store.read(select(schema.items.c.id, schema.items.c.key))
    return pl.concat([known, gold.select(pl.lit(None, pl.Int64).alias("id"), "key")])


def _contents(store: Store, gold: pl.DataFrame, missing: pl.DataFrame) -> pl.DataFrame:
    """key, source_id, text, image of some rows of `_keys`, found by id: there is no index on keys."""
    columns = schema.items.c
    ids = missing["id"].drop_nulls().to_list()
    stored = [
        store.read(
            select(columns.key, columns.source_id, columns.text, columns.image)
            .where(columns.id.in_(ids[first : first + IDS_AT_ONCE]))
            .order_by(columns.id)
        )
        for first in range(0, len(ids), IDS_AT_ONCE)
    ]
    rest = missing.filter(pl.col("id").is_null())
    return pl.concat([*stored, gold.join(rest, on="key", how="semi")])
