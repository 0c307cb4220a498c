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

from tasks.records import LLM_SOURCES
from tasks.store import Store, schema
from tasks.store.labels import raw_labels, resolve, upper_labels
from tasks.store.traffic import audits
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy

REASONS = (
    "student and teacher differ",
    "student contradicts the label",
    "passes differ",
    "imported labels differ",
    "no valid answer",
    "rare label",
)
AUDITED, CONTRADICTED, PASSES, IMPORTS, INVALID, RARE = range(len(REASONS))
RARE_ITEMS = 5
EVER_DAYS = 1e6  # a look at an old audit is worth as much
TEXTS_AT_ONCE = 2000
IMAGES_AT_ONCE = 16

STUDENT_SCHEMA = {"key": pl.Binary, "student_label": pl.String, "student_confidence": pl.Float64}
SAID = pl.Struct(
    {
        "model": pl.String,
        "pass": pl.Int64,
        "label": pl.String,
        "confidence": pl.Float64,
        "reason": pl.String,
        "error_class": pl.String,
    }
)
QUEUE_SCHEMA: dict[str, Any] = {
    "item_id": pl.Int64,
    "key": pl.Binary,
    "why": pl.String,
    "student_label": pl.String,
    "student_confidence": pl.Float64,
    "current_label": pl.String,
    "said": pl.List(SAID),
}


def review_queue(
    store: Store,
    taxonomy: Taxonomy,
    passes: int,
    contradicted: pl.DataFrame | None = None,
    gold_keys: pl.DataFrame | None = None,
    limit: int | None = None,
    rare_items: int = RARE_ITEMS,
) -> pl.DataFrame:
    """The queue (columns as `QUEUE_SCHEMA`), one row an item, under the first of REASONS that fits it.

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
    """
    leaves = pl.Series(taxonomy.leaves)
    labels = raw_labels(store)
    effective = resolve(labels)
    decided = [effective.filter(pl.col("source").is_in(["human", "adjudicated"])).select("key")]
    if gold_keys is not None:
        decided.append(gold_keys.select("key"))
    never = pl.concat(decided)
    settled = effective.filter(pl.col("label").is_not_null() & (pl.col("source") != SYNTHETIC))

    audited = _differing_audits(store)
    doubted = pl.DataFrame(schema=STUDENT_SCHEMA) if contradicted is None else contradicted
    doubted = (
        doubted.filter(pl.col("student_label").is_in(leaves.implode()))
        .join(settled.select("key", "label"), on="key", maintain_order="left")
        .filter(pl.col("label") != pl.col("student_label"))
        .select(list(STUDENT_SCHEMA))
    )
    student = pl.concat([audited, doubted]).unique("key", keep="first", maintain_order=True)
    open_llm = effective.filter(pl.col("label").is_null() & pl.col("source").is_in(LLM_SOURCES))
    dead = _dead(store).join(effective, on="key", how="anti")
    rare = _rare(settled, rare_items)

    looked_at = pl.concat([f.select("key") for f in (audited, doubted, open_llm, dead, rare)]).unique()
    answers = _answers(store, looked_at.join(never, on="key", how="anti"), leaves)
    doubtful = _doubtful(pl.concat([open_llm.select("key"), dead]), open_llm, answers, passes)
    found = pl.concat(
        [
            _placed(AUDITED, audited, -pl.col("student_confidence")),
            _placed(CONTRADICTED, doubted, -pl.col("student_confidence")),
            doubtful,
            _tied_imports(effective, labels),
            _placed(RARE, rare, pl.col("items"), pl.col("label")),
        ]
    )
    queue = found.join(never, on="key", how="anti", maintain_order="left").join(
        _item_ids(store), on="key", maintain_order="left"
    )
    sure = answers.group_by("key").agg(sure=pl.col("confidence").mean())
    queue = (
        queue.sort("place", "item_id", maintain_order=True)
        .unique("key", keep="first", maintain_order=True)
        .join(sure, on="key", how="left", maintain_order="left")
        .sort(
            "place",
            "worth",
            "label",
            pl.when(pl.col("place") == RARE).then(pl.col("sure")).otherwise(-pl.col("sure")),
            "item_id",
            nulls_last=True,
        )
    )
    if limit is not None:
        queue = queue.head(limit)
    said = _said(answers, labels, queue)
    return (
        queue.join(student, on="key", how="left", maintain_order="left")
        .join(_current(effective, labels), on="key", how="left", maintain_order="left")
        .join(said, on="key", how="left", maintain_order="left")
        .with_columns(why=pl.col("place").replace_strict(dict(enumerate(REASONS)), return_dtype=pl.String))
        .select(list(QUEUE_SCHEMA))
        .cast(QUEUE_SCHEMA)  # type: ignore[arg-type]
    )


def _current(effective: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """key, current_label: the label that counts, or the upper levels on which differing passes agree."""
    upper = upper_labels(labels).rename({"label": "upper"})
    both = effective.join(upper, on="key", how="left", maintain_order="left")
    return both.select("key", current_label=pl.coalesce("label", "upper"))


def with_contents(store: Store, queue: pl.DataFrame, images: bool = False) -> Iterator[pl.DataFrame]:
    """The queue a few rows at a time, in order, with source_id, text and (if wanted) image of each item."""
    columns = schema.items.c
    wanted = [
        columns.id.label("item_id"),
        columns.source_id,
        columns.text,
        *([columns.image] if images else []),
    ]
    for chunk in queue.iter_slices(IMAGES_AT_ONCE if images else TEXTS_AT_ONCE):
        query = select(*wanted).where(columns.id.in_(chunk["item_id"].to_list()))
        yield chunk.join(store.read(query), on="item_id", maintain_order="left")


def _placed(place: int, keys: pl.DataFrame, worth: pl.Expr, label: pl.Expr | None = None) -> pl.DataFrame:
    return keys.select(
        "key",
        place=pl.lit(place, pl.Int64),
        worth=worth.cast(pl.Float64),
        label=pl.lit(None, pl.String) if label is None else label,
    )


def _differing_audits(store: Store) -> pl.DataFrame:
    """The newest audit of each item where the student said one thing and the teacher another."""
    rows = audits(store, EVER_DAYS)
    differing = rows.filter(pl.col("student_label") != pl.col("teacher_label"))
    confidence = [_deepest(written) for written in differing["student_confidences"]]
    return differing.with_columns(pl.Series("student_confidence", confidence, pl.Float64)).select(
        list(STUDENT_SCHEMA)
    )


def _deepest(written: str | None) -> float | None:
    numbers = json.loads(written) if written else None
    if isinstance(numbers, dict):
        numbers = list(numbers.values())
    return float(numbers[-1]) if numbers and numbers[-1] is not None else None


def _dead(store: Store) -> pl.DataFrame:
    columns = schema.answers.c
    return store.read(select(columns.key).where(columns.label.is_(None)).distinct())


def _rare(settled: pl.DataFrame, rare_items: int) -> pl.DataFrame:
    counted = settled.with_columns(items=pl.len().over("label"))
    return counted.filter(pl.col("items") < rare_items).select("key", "items", "label")


def _answers(store: Store, keys: pl.DataFrame, leaves: pl.Series) -> pl.DataFrame:
    """The newest answer of each pass about `keys`, whatever prompt it was given to; by key and pass.

    An answer that is no leaf (a first stage, a label of another taxonomy) is not one about the item.
    """
    columns = schema.answers.c
    wanted = [columns.id, columns.key, *(columns[name] for name in SAID.to_schema())]
    usable = pl.col("label").is_null() | pl.col("label").is_in(leaves.implode())
    frames = [
        chunk.filter(usable).join(keys, on="key", how="semi")
        for chunk in store.stream(select(*wanted).order_by(columns.id))
    ]
    if not frames:
        return pl.DataFrame(schema={"id": pl.Int64, "key": pl.Binary, **SAID.to_schema()})
    rows = pl.concat(frames).sort("id")
    return rows.unique(["key", "pass"], keep="last", maintain_order=True).sort("pass", maintain_order=True)


def _doubtful(keys: pl.DataFrame, open_llm: pl.DataFrame, answers: pl.DataFrame, passes: int) -> pl.DataFrame:
    """Undecided items as passes that differ, or as items that no valid answer was had about."""
    counted = answers.group_by("key").agg(
        answered=pl.len(),
        dead=pl.col("label").null_count(),
        valid=pl.col("label").drop_nulls().n_unique(),
    )
    known = keys.unique(maintain_order=True).join(counted, on="key", how="left", maintain_order="left")
    withdrawn = pl.col("key").is_in(open_llm["key"].implode())
    found = known.filter(withdrawn | (pl.col("answered") >= passes))
    invalid = ((pl.col("dead") > 0) & (pl.col("valid") < 2)).fill_null(False)
    place = pl.when(invalid).then(INVALID).otherwise(PASSES).cast(pl.Int64)
    return found.select("key", place=place, worth=pl.lit(0.0), label=pl.lit(None, pl.String))


def _tied_imports(effective: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Those with the most votes first: more was paid for them."""
    tied = effective.filter(pl.col("label").is_null() & (pl.col("source") == "imported"))
    votes = labels.filter(pl.col("source") == "imported").group_by("key").agg(votes=pl.len())
    return _placed(
        IMPORTS,
        tied.join(votes, on="key", how="left", maintain_order="left"),
        -pl.col("votes").cast(pl.Int64),
    )


def _item_ids(store: Store) -> pl.DataFrame:
    columns = schema.items.c
    return store.read(select(columns.id.label("item_id"), columns.key))


def _said(answers: pl.DataFrame, labels: pl.DataFrame, queue: pl.DataFrame) -> pl.DataFrame:
    """key, said: what each pass said, or each different import where no pass did."""
    by_pass = answers.join(queue, on="key", how="semi", maintain_order="left")
    imported = (
        labels.filter(pl.col("source") == "imported")
        .join(queue, on="key", how="semi", maintain_order="left")
        .join(by_pass, on="key", how="anti", maintain_order="left")
        .unique(["key", "label"], keep="first", maintain_order=True)
        .select("key", "label", model=pl.lit("imported"))
    )
    rows = pl.concat([by_pass.drop("id"), imported], how="diagonal")
    return rows.group_by("key", maintain_order=True).agg(pl.struct(list(SAID.to_schema())).alias("said"))
