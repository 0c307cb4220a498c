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
from tasks.labeling.acquisition import RANDOM, WHY, Sight, mixed_order
from tasks.labeling.key_ranges import items_of, key_ranges, within
from tasks.labeling.ledger import Version, current_answers, missing
from tasks.labeling.requests import Item, Request
from tasks.store import Store, schema
from tasks.store.items import content_of

TEXTS_AT_ONCE = 500
IMAGES_AT_ONCE = 32
OWED, ALL = "owed", "all"
PASS = pl.UInt8  # of what is held for every item: a project has nine passes at most, and a tie-break
REASON = pl.Enum([OWED, *WHY, ALL])


@dataclass(frozen=True)
class Acquisition:
    """What decides the order where not everything may be reached.

    Attributes:
        mix: shares of uncertain, diverse and random, adding up to 1.
        owed: a column `key`, the items the traffic owes an answer.
        look: gives what is known about items (a column `item_id`, in random order); called only when it matters.
    """

    mix: Mapping[str, float]
    owed: pl.DataFrame
    look: Callable[[pl.DataFrame], Sight | None]


@dataclass(frozen=True)
class Chosen:
    """`due` are the requests to send (item_id, pass); `wanted` the item_id that this run is about.

    `why` tells of each item due (item_id, why) what it is asked for: `owed`, `uncertain`, `diverse` or `random`; `all`
    where everything is asked. All of them are held while the run asks, so items stand in them by their numbers: keys
    take four times as much.
    """

    due: pl.DataFrame
    wanted: pl.DataFrame
    why: pl.DataFrame

    @property
    def items(self) -> int:
        """How many items there are requests for."""
        return self.why.height


def item_keys(store: Store) -> pl.DataFrame:
    """Every item but synthetic examples, which nobody is asked about: item_id, key."""
    return items_of(store)


def with_keys(store: Store, due: pl.DataFrame) -> pl.DataFrame:
    """Requests (item_id, pass) with the key of their item; those that have it stay as they are."""
    if "key" in due.columns:
        return due
    wanted = due.with_columns(pl.col("pass").cast(pl.Int64))
    return wanted.join(item_keys(store), on="item_id", how="left", maintain_order="left")


def what_is_due(
    store: Store,
    version: Version,
    passes: int,
    excluded: pl.DataFrame,
    waiting: pl.DataFrame,
    owed: pl.DataFrame | None = None,
    only: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """What every item of the database still lacks, as `lacking` says it, some ten thousand items at a time.

    Args:
        store: the open database.
        version: of the answers that count.
        passes: how many answers an item wants.
        excluded: a column `key`, never to be asked about.
        waiting: key, pass of the answers that are on their way.
        owed: a column `key`, items that go first; None is none.
        only: a column `key` to keep to; None is all.
    """
    found = []
    for part in key_ranges(store, schema.items, schema.answers):
        items = items_of(store, part)
        if only is not None:
            items = items.join(within(only, part), on="key", how="semi")
        answers = current_answers(store, version, columns=("key", "pass"), part=part)
        answers = pl.concat([answers, within(waiting, part)])
        first = None if owed is None else within(owed, part)
        found.append(lacking(items, answers, within(excluded, part), passes, first))
    return pl.concat(found, rechunk=True)


def lacking(
    items: pl.DataFrame,
    answers: pl.DataFrame,
    excluded: pl.DataFrame,
    passes: int,
    owed: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """One row an item that is not excluded: item_id, head (64 bits of its key), lacks, owed.

    `lacks` has a bit for each pass that has no answer, the lowest for the first; `owed` goes first: items begun
    before, and those that are said to be owed.

    Args:
        items: item_id, key.
        answers: key, pass of the answers there are under the current version; dead letters count.
        excluded: keys never to be asked about (gold, and those that a person or history labelled).
        passes: how many answers an item wants.
        owed: a column `key`.
    """
    eligible = items.join(excluded.select("key"), on="key", how="anti")
    due = missing(eligible, answers, passes)
    bits = due.group_by("item_id").agg(lacks=(2 ** (pl.col("pass") - 1)).sum().cast(pl.UInt16))
    first = pl.col("lacks").ne_missing(2**passes - 1) & (pl.col("lacks") > 0)
    if owed is not None:
        first |= pl.col("key").is_in(owed["key"].implode())
    head = pl.col("key").bin.head(8).bin.reinterpret(dtype=pl.UInt64, endianness="little")
    return (
        eligible.join(bits, on="item_id", how="left")
        .with_columns(pl.col("lacks").fill_null(0))
        .select("item_id", "lacks", head=head, owed=first)
    )


def choose(
    items: pl.DataFrame,
    passes: int,
    limit: int | None = None,
    seed: int = 0,
    acquisition: Acquisition | None = None,
    may_stop: Callable[[pl.DataFrame], bool] | None = None,
) -> Chosen:
    """The (item, pass) pairs to ask about, what matters most first.

    Args:
        items: what they lack, as `lacking` gives it.
        passes: how many answers an item wants.
        limit: at most so many items; None is all.
        seed: of the order.
        acquisition: what decides the order where not everything is asked; None leaves it to the seed.
        may_stop: whether a run over these requests (item_id, pass) may end before all are asked.

    Returns:
        Without a limit `wanted` are all items, else those chosen.
    """
    order = _order(items, seed)
    some = limit is not None and limit < order.height
    if acquisition and (some or (may_stop is not None and may_stop(_requests(order, passes)))):
        order = _mixed_in(order, order.height if limit is None else limit, acquisition, seed)
    elif not some:
        order = order.with_columns(why=pl.when("owed").then(pl.lit(OWED)).otherwise(pl.lit(ALL)).cast(REASON))
    kept = order if limit is None else order.head(limit)
    wanted = items if limit is None else kept
    return Chosen(_requests(kept, passes), wanted.select("item_id"), kept.select("item_id", "why"))


def _order(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each item that lacks something (item_id, lacks, owed, why): those owed first, then by a seeded hash."""
    due = items.filter(pl.col("lacks") > 0)
    ranked = due.with_columns(pl.Series("rank", _mixed(due["head"].to_numpy(), seed), pl.UInt64))
    why = pl.when("owed").then(pl.lit(OWED)).otherwise(pl.lit(RANDOM)).cast(REASON).alias("why")
    return ranked.sort("owed", "rank", descending=[True, False]).select("item_id", "lacks", "owed", why)


def _requests(order: pl.DataFrame, passes: int) -> pl.DataFrame:
    """item_id, pass of all that the items lack, in their order, all passes of an item together."""
    lacks = order["lacks"].to_numpy()[:, None] >> np.arange(passes, dtype=np.uint16) & 1
    places, numbers = np.nonzero(lacks)
    passed = pl.Series("pass", numbers + 1, PASS)
    return order.select(pl.col("item_id").gather(places)).with_columns(passed)


def _mixed_in(order: pl.DataFrame, wanted: int, acquisition: Acquisition, seed: int) -> pl.DataFrame:
    """The same items, what is not owed in the order of the mix."""
    owed, rest = order.filter("owed"), order.filter(~pl.col("owed"))
    wanted = min(wanted - owed.height, rest.height)
    if wanted <= 0:
        return order
    sight = acquisition.look(rest.select("item_id"))
    places, why = mixed_order(rest.height, wanted, acquisition.mix, sight, seed)
    return pl.concat([owed, rest[places].with_columns(pl.Series("why", why, REASON))])


def _mixed(heads: np.ndarray, seed: int) -> np.ndarray:
    """Keys are hashes already; the finaliser of splitmix64 (Steele et al. 2014) makes the order the seed's."""
    with np.errstate(over="ignore"):
        heads = heads ^ (np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15))
        heads = (heads ^ (heads >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        heads = (heads ^ (heads >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return heads ^ (heads >> np.uint64(31))


def stored_requests(store: Store, due: pl.DataFrame, modality: str) -> Iterator[Request]:
    """Requests in the order of `due` (item_id, pass), keys and contents read a few hundred at a time."""
    columns = schema.items.c
    size = TEXTS_AT_ONCE if modality == "text" else IMAGES_AT_ONCE
    for chunk in due.iter_slices(size):
        ids = chunk["item_id"].unique().to_list()
        query = select(columns.id.label("item_id"), columns.key, columns.text, columns.image)
        stored = store.read(query.where(columns.id.in_(ids)))
        wanted = chunk.select("item_id", "pass")
        yield from requests_of(wanted.join(stored, on="item_id", maintain_order="left"), modality)


def requests_of(frame: pl.DataFrame, modality: str) -> Iterator[Request]:
    """Requests of a frame key, pass, text, image; an image that is gone is empty, and refused as unreadable."""
    for row in frame.select("key", "pass", "text", "image").iter_slices(1):
        try:
            content: str | bytes = content_of(row, modality)[0]
        except (InputError, TypeError):
            content = b""
        yield Request((Item(row["key"][0], content),), row["pass"][0])
