"""Vectors of any items, in order: what is missing is encoded, the rest comes out of the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.embed import cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings
from tasks.project import Encoder


def encoder_settings(encoder: Encoder) -> EncoderSettings:
    """The part of a project's settings that decides a vector."""
    return EncoderSettings(**encoder.model_dump())


def vectors_of(
    settings: EncoderSettings, root: Path | str, items: pl.DataFrame, modality: str
) -> NDArray[np.float32]:
    """Vectors float32 [n, d] of `items` (key, text, image), row by row; items may repeat.

    A part that turns out damaged while it is read is set aside, and its items are encoded anew.
    """
    if not items.height:
        return np.zeros((0, 0), np.float32)

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        return items.join(missing, on="key", how="semi")

    embed_missing(settings, root, items.select("key"), contents, modality)
    try:
        return cache_for(settings, root).read(items["key"])
    except KeyError:  # a part was set aside while it was read: what lay in it is encoded anew
        embed_missing(settings, root, items.select("key"), contents, modality)
        return cache_for(settings, root).read(items["key"])
