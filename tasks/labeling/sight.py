"""Looks up what embeddings and the current student say about the items that may be asked about.

Encodes nothing: an item without a vector is simply not seen. Where the student comes from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import EncoderSettings, fingerprint
from tasks.errors import CacheError, EncoderError
from tasks.labeling.acquisition import LABELLED_ITEMS, POOL_ITEMS, Sight, margins_of

MARGINS_AT_ONCE = 8_192


class Judge(Protocol):
    """The current student, as far as choosing needs one."""

    @property
    def encoder(self) -> EncoderSettings:
        """Whose vectors it reads."""

    @property
    def reads_images(self) -> bool:
        """Whether it reads images instead of vectors."""

    def probabilities(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Leaf probabilities float32 [n, leaves] of vectors [n, d]."""


def look(
    items: pl.DataFrame,
    labelled: pl.DataFrame,
    root: Path | str,
    encoder: EncoderSettings,
    current_student: Callable[[], Judge | None],
) -> Sight | None:
    """What is known about the first `POOL_ITEMS` items that have a vector; None where none has one.

    Args:
        items: a column `key`, in random order.
        labelled: a column `key`, the items that have a label already.
        root: where the embedding cache lies.
        encoder: of the project.
        current_student: called only when there are vectors; None stands for no student.

    Returns:
        No margins where there is no student, where it reads images, or where it has an encoder of its own whose
        cache lacks an item.
    """
    try:
        cache = cache_for(encoder, root)
        pool = _cached(cache, items.select("key").with_row_index("row")).head(POOL_ITEMS)
        if not pool.height:
            return None
        # Keys are hashes: the first ones are a random sample, the same every time.
        known = _cached(cache, labelled.select("key").unique()).sort("key").head(LABELLED_ITEMS)
        keys = pool["key"].to_list()
        vectors = cache.read(keys)
        seen = cache.read(known["key"].to_list()) if known.height else vectors[:0]
    except (EncoderError, CacheError):
        return None  # what cannot be read is told by `flywheel embed`; labelling goes on without it
    student = current_student()
    margins = None if student is None else _margins(student, encoder, root, keys, vectors)
    return Sight(pool["row"].to_numpy().astype(np.int64), vectors, seen, margins)


def _cached(cache: EmbeddingCache, items: pl.DataFrame) -> pl.DataFrame:
    """Those of the items (a column `key`) that have a vector, in their order."""
    return items.join(cache.missing(items), on="key", how="anti", maintain_order="left")


def _margins(
    student: Judge,
    encoder: EncoderSettings,
    root: Path | str,
    keys: list[bytes],
    vectors: NDArray[np.float32],
) -> NDArray[np.float32] | None:
    if student.reads_images:
        return None
    try:
        if fingerprint(student.encoder) != fingerprint(encoder):
            vectors = cache_for(student.encoder, root).read(keys)
    except (EncoderError, CacheError, KeyError):
        return None
    return np.concatenate(
        [
            margins_of(student.probabilities(vectors[first : first + MARGINS_AT_ONCE]))
            for first in range(0, len(vectors), MARGINS_AT_ONCE)
        ]
    )
