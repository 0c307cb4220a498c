"""The Prefect step of embedding: reads keys, encodes what is missing, returns counts."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.embedding.embed import embed_missing
from tasks.embedding.vectors import encoder_settings
from tasks.project import Project
from tasks.records import Embedded
from tasks.sources import read_gold
from tasks.store import open_store
from tasks.store.items import known_keys, read_contents


@task(name="embed items", cache_policy=NO_CACHE)
def embed(project: Project) -> Embedded:
    """Afterwards every item and every gold item has a vector in the cache."""
    store = open_store(project.database_url, project.project)
    gold = read_gold(project).select("key", "text", "image")
    keys = pl.concat([known_keys(store), gold.select("key")])

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        stored = read_contents(store, missing).select("key", "text", "image")
        return pl.concat([stored, gold.join(missing, on="key", how="semi")])

    return embed_missing(
        encoder_settings(project.encoder), project.root, keys, contents, project.task.modality
    )
