"""Chooses which items to ask about, and hands out their requests without holding all contents at once.

Escalations that are owed come first. What follows is random, or the mix of `acquisition.py` where not everything
may be reached. Knows neither embeddings nor students.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from sqlalchemy import select

from tasks.errors import InputError
from tasks.labeling.acquisition import RANDOM, Sight, mixed_order
from tasks.labeling.ledger import missing, read_of
from tasks.labeling.requests import Item, Request
from tasks.store import Store, schema
from tasks.store.items import content_of
from tasks.synthetic import SYNTHETIC

TEXTS_AT_ONCE = 500
IMAGES_AT_ONCE = 32
OWED, ALL = "owed", "all"


@dataclass(frozen=True)
class Acquisition:
    """What decides the order where not everything may be reached.

    Attributes:
        mix: shares of uncertain, diverse and random, adding up to 1.
        owed: a column `key`, the items the traffic owes an answer.
        look: gives what is known about items (a column `key`, in random order); called only when it matters.
    """

    mix: Mapping[str, float]
    owed: pl.DataFrame
    look: Callable[[pl.DataFrame], Sight | None]


@dataclass(frozen=True)
class Chosen:
    """`due` are the requests to send (item_id, key, pass); `wanted` the keys that this run is about.

    `why` tells of each item due (key, why) what it is asked for: `owed`, `uncertain`, `diverse` or `random`; `all`
    where everything is asked.
    """

    due: pl.DataFrame
    wanted: pl.DataFrame
    why: pl.DataFrame

    @property
    def items(self) -> int:
        """How many items there are requests for."""
        return self.due["key"].n_unique()


def item_keys(store: Store) -> pl.DataFrame:
    """Every item but synthetic examples, which nobody is asked about: item_id, key."""
    columns = schema.items.c
    real = select(columns.id.label("item_id"), columns.key).where(columns.origin != SYNTHETIC)
    return read_of(store, real.order_by(columns.id), columns.key, None)


def choose(
    items: pl.DataFrame,
    answers: pl.DataFrame,
    excluded: pl.DataFrame,
    passes: int,
    limit: int | None = None,
    seed: int = 0,
    acquisition: Acquisition | None = None,
    may_stop: Callable[[pl.DataFrame], bool] | None = None,
) -> Chosen:
    """The (item, pass) pairs to ask about, what matters most first.

    Args:
        items: item_id, key.
        answers: key, pass of the answers there are under the current version; dead letters count.
        excluded: keys never to be asked about (gold, and those that a person or history labelled).
        passes: how many answers an item wants.
        limit: at most so many items; None is all.
        seed: of the order.
        acquisition: what decides the order where not everything is asked; None leaves it to the seed.
        may_stop: whether a run over these requests (item_id, key, pass) may end before all are asked.

    Returns:
        Without a limit `wanted` are all items that are not excluded, else those chosen.
    """
    eligible = items.join(excluded.select("key"), on="key", how="anti", maintain_order="left")
    due = missing(eligible, answers, passes)
    order = _order(due, passes, seed, acquisition.owed if acquisition else None)
    some = limit is not None and limit < order.height
    if acquisition and (some or (may_stop is not None and may_stop(due))):
        order = _mixed_in(order, order.height if limit is None else limit, acquisition, seed)
    elif not some:
        order = order.with_columns(why=pl.when("owed").then(pl.lit(OWED)).otherwise(pl.lit(ALL)))
    kept = order if limit is None else order.head(limit)
    requests = due.join(kept.select("item_id"), on="item_id", maintain_order="right")
    wanted = eligible if limit is None else kept
    return Chosen(requests, wanted.select("key"), kept.select("key", "why"))


def _order(due: pl.DataFrame, passes: int, seed: int, owed: pl.DataFrame | None) -> pl.DataFrame:
    """Each due item once (item_id, key, owed, why): those begun before or owed first, then by a seeded hash."""
    first = (pl.col("item_id") != pl.col("item_id").shift()).fill_null(value=True)
    runs = due.select(
        pl.col("item_id").rle().struct.field("len")
    ).to_series()  # all passes of an item together
    items = due.filter(first).select("item_id", "key", (runs < passes).alias("owed"))
    if owed is not None:
        items = items.with_columns(pl.col("owed") | pl.col("key").is_in(owed["key"].implode()))
    ranked = items.with_columns(pl.Series("rank", _mixed(items["key"], seed), pl.UInt64))
    why = pl.when("owed").then(pl.lit(OWED)).otherwise(pl.lit(RANDOM)).alias("why")
    return ranked.sort("owed", "rank", descending=[True, False]).select("item_id", "key", "owed", why)


def _mixed_in(order: pl.DataFrame, wanted: int, acquisition: Acquisition, seed: int) -> pl.DataFrame:
    """The same items, what is not owed in the order of the mix."""
    owed, rest = order.filter("owed"), order.filter(~pl.col("owed"))
    wanted = min(wanted - owed.height, rest.height)
    if wanted <= 0:
        return order
    sight = acquisition.look(rest.select("key"))
    places, why = mixed_order(rest.height, wanted, acquisition.mix, sight, seed)
    return pl.concat([owed, rest[places].with_columns(pl.Series("why", why, pl.String))])


def _mixed(keys: pl.Series, seed: int) -> np.ndarray:
    """Keys are hashes already; the finaliser of splitmix64 (Steele et al. 2014) makes the order the seed's."""
    heads = keys.bin.head(8).bin.reinterpret(dtype=pl.UInt64, endianness="little").to_numpy().copy()
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
