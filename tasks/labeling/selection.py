"""Chooses which items to ask about, and hands out their requests without holding all contents at once.

Escalations that are owed come first. What follows is random; the mix of uncertain, diverse and random items
(`labeling.mix`) takes its place in `_order`, where a student and embeddings will be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from sqlalchemy import select

from tasks.errors import InputError
from tasks.labeling.ledger import missing
from tasks.labeling.requests import Item, Request
from tasks.store import Store, schema
from tasks.store.items import content_of

TEXTS_AT_ONCE = 500
IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Chosen:
    """`due` are the requests to send (item_id, key, pass); `wanted` the keys that this run is about."""

    due: pl.DataFrame
    wanted: pl.DataFrame

    @property
    def items(self) -> int:
        """How many items there are requests for."""
        return self.due["key"].n_unique()


def item_keys(store: Store) -> pl.DataFrame:
    """Every item: item_id, key."""
    columns = schema.items.c
    return store.read(select(columns.id.label("item_id"), columns.key).order_by(columns.id))


def choose(
    items: pl.DataFrame,
    answers: pl.DataFrame,
    excluded: pl.DataFrame,
    passes: int,
    limit: int | None = None,
    seed: int = 0,
) -> Chosen:
    """The (item, pass) pairs to ask about.

    Args:
        items: item_id, key.
        answers: key, pass of the answers there are under the current version; dead letters count.
        excluded: keys never to be asked about (gold, and those that a person or history labelled).
        passes: how many answers an item wants.
        limit: at most so many items; None is all.
        seed: of the random order.

    Returns:
        Without a limit `wanted` are all items that are not excluded, else those chosen.
    """
    eligible = items.join(excluded.select("key"), on="key", how="anti", maintain_order="left")
    due = missing(eligible, answers, passes)
    order = _order(due, passes, seed)
    if limit is None:
        return Chosen(due.join(order, on=["item_id", "key"], maintain_order="right"), eligible.select("key"))
    kept = order.head(limit)
    return Chosen(due.join(kept, on=["item_id", "key"], maintain_order="right"), kept.select("key"))


def _order(due: pl.DataFrame, passes: int, seed: int) -> pl.DataFrame:
    """Each due item once (item_id, key): those begun before first, then by a seeded hash of the key."""
    items = due.group_by("item_id", "key", maintain_order=True).agg(owed=pl.len() < passes)
    ranked = items.with_columns(pl.Series("rank", _mixed(items["key"], seed), pl.UInt64))
    return ranked.sort("owed", "rank", descending=[True, False]).select("item_id", "key")


def _mixed(keys: pl.Series, seed: int) -> np.ndarray:
    """Keys are hashes already; the finaliser of splitmix64 (Steele et al. 2014) makes the order the seed's."""
    heads = np.frombuffer(b"".join(key[:8] for key in keys), dtype="<u8").copy()
    with np.errstate(over="ignore"):
        heads ^= np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        heads = (heads ^ (heads >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        heads = (heads ^ (heads >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return heads ^ (heads >> np.uint64(31))


def stored_requests(store: Store, due: pl.DataFrame, modality: str) -> Iterator[Request]:
    """Requests in the order of `due` (item_id, key, pass), their contents read a few hundred at a time."""
    columns = schema.items.c
    size = TEXTS_AT_ONCE if modality == "text" else IMAGES_AT_ONCE
    for chunk in due.iter_slices(size):
        ids = chunk["item_id"].unique().to_list()
        query = select(columns.id.label("item_id"), columns.text, columns.image).where(columns.id.in_(ids))
        yield from requests_of(chunk.join(store.read(query), on="item_id", maintain_order="left"), modality)


def requests_of(frame: pl.DataFrame, modality: str) -> Iterator[Request]:
    """Requests of a frame key, pass, text, image; an image that is gone is empty, and refused as unreadable."""
    for row in frame.select("key", "pass", "text", "image").iter_slices(1):
        try:
            content: str | bytes = content_of(row, modality)[0]
        except (InputError, TypeError):
            content = b""
        yield Request((Item(row["key"][0], content),), row["pass"][0])
