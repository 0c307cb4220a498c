"""Vectors of any items, in order: what is missing is encoded, the rest comes out of the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.embedding.precision import resolved
from tasks.embedding.prefixes import known_prefix
from tasks.project import Encoder


def encoder_settings(encoder: Encoder) -> EncoderSettings:
    """The part of a project's settings that decides a vector, `auto` and what is left out resolved on this machine."""
    values = encoder.model_dump()
    computed_by_torch = encoder.backend == "torch" and encoder.model.partition(":")[0] not in (
        "hash",
        "pixels",
        "openai",
    )
    values["precision"] = resolved(encoder.precision, encoder.device) if computed_by_torch else "float32"
    if encoder.prefix is None:
        values["prefix"] = known_prefix(encoder.model)
    return EncoderSettings(**values)


def vectors_of(
    settings: EncoderSettings, root: Path | str, items: pl.DataFrame, modality: str
) -> NDArray[np.float32]:
    """Vectors float32 [n, d] of `items` (key, text, image), row by row; items may repeat.

    An item that cannot be encoded has a vector of zeros, which is like no other: see `has_vector`. A part that turns
    out damaged while it is read is set aside, and its items are encoded anew.
    """
    if not items.height:
        return np.zeros((0, 0), np.float32)

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        return items.join(missing, on="key", how="semi")

    for attempt in range(2):
        done = embed_missing(settings, root, items.select("key"), contents, modality)
        cache = cache_for(settings, root)
        try:
            if done.not_encoded:
                return _with_zeros(cache, items["key"], settings)
            return cache.read(items["key"])
        except KeyError:  # a part was set aside while it was read: what lay in it is encoded anew
            if attempt:
                raise
    raise AssertionError("the second attempt returns or raises")


def has_vector(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """bool [n]: False for those of `vectors_of` that could not be encoded."""
    return np.asarray(vectors.any(axis=1))


def _with_zeros(cache: EmbeddingCache, keys: pl.Series, settings: EncoderSettings) -> NDArray[np.float32]:
    """The matrix of `keys`, zeros where there is no vector; still one matrix and no copy."""
    asked = keys.to_frame("key")
    absent = cache.missing(asked).select("key").with_columns(absent=pl.lit(True))
    lacking = asked.join(absent, on="key", how="left", maintain_order="left")["absent"].fill_null(False)
    if lacking.all():
        return np.zeros((keys.len(), load_encoder(settings).dimension), np.float32)
    places = np.flatnonzero(lacking.to_numpy())
    stand_in = keys.filter(~lacking)[0]
    vectors = cache.read(pl.select(pl.when(lacking).then(pl.lit(stand_in)).otherwise(keys)).to_series())
    vectors[places] = 0.0
    return vectors
