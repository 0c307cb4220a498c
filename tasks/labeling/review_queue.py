"""What a person should look at, the most valuable first, with what was said about each item.

First where a confident student contradicts a label, then where answers contradict each other or there is none,
then labels with few examples. Knows nothing of the files a queue is written to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
from sqlalchemy import select

from tasks.labeling.adjudication_queue import REVIEW_SCHEMA
from tasks.labeling.contradictions import CONTRADICTION_SCHEMA
from tasks.labeling.key_ranges import key_ranges
from tasks.labeling.review_reasons import AUDITED, CHECKED, RARE, REASONS, SAID, bearers, queue_part, said_of
from tasks.store import Store, schema
from tasks.store.traffic import audits
from tasks.taxonomy import Taxonomy

RARE_ITEMS = 5
EVER_DAYS = 1e6  # a look at an old audit is worth as much
TEXTS_AT_ONCE = 1000
IMAGES_AT_ONCE = 16

QUEUE_SCHEMA: dict[str, Any] = {
    "item_id": pl.Int64,
    "why": pl.Enum(REASONS),
    "student_label": pl.Categorical,
    "student_confidence": pl.Float64,
    "current_label": pl.Categorical,
    "answers": pl.List(pl.Int64),
    "imports": pl.List(pl.Int64),
}
SHOWN_SCHEMA: dict[str, Any] = {
    "item_id": pl.Int64,
    "key": pl.Binary,
    "why": pl.String,
    "student_label": pl.String,
    "student_confidence": pl.Float64,
    "current_label": pl.String,
    "said": pl.List(SAID),
    "source_id": pl.String,
    "text": pl.String,
}


def review_queue(
    store: Store,
    taxonomy: Taxonomy,
    passes: int,
    contradicted: pl.DataFrame | None = None,
    gold_keys: pl.DataFrame | None = None,
    limit: int | None = None,
    rare_items: int = RARE_ITEMS,
    wanted: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The queue (columns as `QUEUE_SCHEMA`), one row an item, under the first of REASONS that fits it.

    It holds the numbers of items and of what was said about them, not the words: see `with_contents`.

    Within a reason the surest contradiction comes first; among rare labels the rarest, and of one label the
    least sure. Items that a person or an adjudicator decided, gold and synthetic examples are not in it.

    Args:
        store: the open database.
        taxonomy: answers outside it are left out of what was said.
        passes: how many answers an item wants; before them, a missing valid answer is no finding.
        contradicted: labelled items that a student contradicts: key, student_label, student_confidence.
        gold_keys: a column `key`.
        limit: at most so many rows.
        rare_items: a label that fewer items bear is rare.
        wanted: audited items that have to be adjudicated before a model is certified, as `wanted_for_review` has them:
            they stand first, and those that were drawn by chance stand among the others, by how sure the student is.
    """
    wanted = pl.DataFrame(schema=REVIEW_SCHEMA) if wanted is None else wanted
    audited = pl.concat([wanted, _differing_audits(store)], how="diagonal").unique(
        "key", keep="first", maintain_order=True
    )
    contradicted = pl.DataFrame(schema=CONTRADICTION_SCHEMA) if contradicted is None else contradicted
    gold = pl.DataFrame(schema={"key": pl.Binary}) if gold_keys is None else gold_keys.select("key")
    borne = bearers(store, taxonomy)
    parts = [
        queue_part(store, part, taxonomy, passes, audited, contradicted, gold, borne, rare_items)
        for part in key_ranges(store, schema.labels, schema.answers)
    ]
    queue = pl.concat(parts).sort(
        "place",
        pl.col("differs").is_null(),  # what a certificate waits for before what none needs
        "worth",
        pl.col("label").cast(pl.String),
        pl.when(pl.col("place") == RARE).then(pl.col("sure")).otherwise(-pl.col("sure")),
        "item_id",
        nulls_last=True,
    )
    if limit is not None:
        queue = queue.head(limit)
    drawn = (pl.col("place") == AUDITED) & ~pl.col("differs").fill_null(True)
    place = pl.when(drawn).then(CHECKED).otherwise("place")
    why = place.replace_strict(dict(enumerate(REASONS)), return_dtype=pl.Enum(REASONS))
    return queue.with_columns(why=why).select(list(QUEUE_SCHEMA))


def with_contents(store: Store, queue: pl.DataFrame, images: bool = False) -> Iterator[pl.DataFrame]:
    """The queue a few rows at a time, in order, as `SHOWN_SCHEMA` with (if wanted) the image of each item."""
    columns = schema.items.c
    wanted = [
        columns.id.label("item_id"),
        columns.key,
        columns.source_id,
        columns.text,
        *([columns.image] if images else []),
    ]
    for chunk in queue.iter_slices(IMAGES_AT_ONCE if images else TEXTS_AT_ONCE):
        query = select(*wanted).where(columns.id.in_(chunk["item_id"].to_list()))
        said = said_of(store, chunk.select("item_id", "answers", "imports"))
        shown = chunk.with_columns(pl.col("why", "student_label", "current_label").cast(pl.String))
        yield (
            shown.join(said, on="item_id", how="left", maintain_order="left")
            .join(store.read(query), on="item_id", maintain_order="left")
            .select(*SHOWN_SCHEMA, *(["image"] if images else []))
        )


def _differing_audits(store: Store) -> pl.DataFrame:
    """The newest audit of each item where the student said one thing and the teacher another."""
    rows = audits(store, EVER_DAYS)
    differing = rows.filter(pl.col("student_label") != pl.col("teacher_label"))
    confidence = [_deepest(written) for written in differing["student_confidences"]]
    return differing.with_columns(pl.Series("student_confidence", confidence, pl.Float64)).select(
        list(CONTRADICTION_SCHEMA)
    )


def _deepest(written: str | None) -> float | None:
    numbers = json.loads(written) if written else None
    if isinstance(numbers, dict):
        numbers = list(numbers.values())
    return float(numbers[-1]) if numbers and numbers[-1] is not None else None
