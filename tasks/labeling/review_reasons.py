"""Why items of one range of keys belong into the review queue, and what was said about them; pure of order and files.

A queue is made of such parts, so that no more of the database is held than what a person is to look at.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from sqlalchemy import select

from tasks.labeling.contradictions import still_contradicted
from tasks.labeling.key_ranges import Range, items_of, key_ranges, labels_of, of_part, within
from tasks.records import LLM_SOURCES
from tasks.store import Store, schema
from tasks.store.labels import resolve, upper_labels
from tasks.store.moved import as_of_today
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy

REASONS = (
    "student and teacher differ",
    "student contradicts the label",
    "passes differ",
    "imported labels differ",
    "no valid answer",
    "rare label",
    "drawn for a check",
)
AUDITED, CONTRADICTED, PASSES, IMPORTS, INVALID, RARE, CHECKED = range(len(REASONS))

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

ANSWERED: dict[str, Any] = {
    "id": pl.Int64,
    "key": pl.Binary,
    "pass": pl.Int64,
    "label": pl.String,
    "confidence": pl.Float64,
}
PART_SCHEMA: dict[str, Any] = {
    "item_id": pl.Int64,
    "place": pl.UInt8,
    "worth": pl.Float64,
    "label": pl.Categorical,
    "sure": pl.Float64,
    "student_label": pl.Categorical,
    "student_confidence": pl.Float64,
    "differs": pl.Boolean,  # of what is wanted for a certificate only
    "current_label": pl.Categorical,
    "answers": pl.List(pl.Int64),
    "imports": pl.List(pl.Int64),
}
SPOKE: dict[str, Any] = {"key": pl.Binary, "answers": pl.List(pl.Int64), "imports": pl.List(pl.Int64)}
IDS_AT_ONCE = 20_000  # SQLite takes 32,766 values in one query


def queue_part(
    store: Store,
    part: Range,
    taxonomy: Taxonomy,
    passes: int,
    every_audited: pl.DataFrame,
    contradicted: pl.DataFrame,
    gold: pl.DataFrame,
    borne: pl.DataFrame,
    rare_items: int,
) -> pl.DataFrame:
    """What one range of keys adds to the queue (columns as `PART_SCHEMA`), an item under the first reason that fits.

    Of all that is long there are only numbers: of the item, of what was said about it, and of the labels.
    """
    labels = as_of_today(labels_of(store, part), taxonomy)
    effective = resolve(labels)
    decided = effective.filter(pl.col("source").is_in(["human", "adjudicated"])).select("key")
    never = pl.concat([decided, within(gold, part)])
    settled = effective.filter(pl.col("label").is_not_null() & (pl.col("source") != SYNTHETIC))

    audited = within(every_audited, part)
    doubted = still_contradicted(within(contradicted, part), settled, taxonomy.leaves)
    student = pl.concat([audited, doubted], how="diagonal").unique("key", keep="first", maintain_order=True)
    open_llm = effective.filter(pl.col("label").is_null() & pl.col("source").is_in(LLM_SOURCES))
    dead = _dead(store, part).join(effective, on="key", how="anti")
    rare = settled.join(borne.filter(pl.col("items") < rare_items), on="label", maintain_order="left")

    looked_at = pl.concat([f.select("key") for f in (audited, doubted, open_llm, dead, rare)]).unique()
    answers = _answers(store, looked_at.join(never, on="key", how="anti"), pl.Series(taxonomy.leaves), part)
    found = pl.concat(
        [
            _placed(AUDITED, audited, -pl.col("student_confidence")),
            _placed(CONTRADICTED, doubted, -pl.col("student_confidence")),
            _doubtful(pl.concat([open_llm.select("key"), dead]), open_llm, answers, passes),
            _tied_imports(effective, labels),
            _placed(RARE, rare, pl.col("items"), pl.col("label")),
        ]
    ).join(never, on="key", how="anti", maintain_order="left")
    sure = answers.group_by("key").agg(sure=pl.col("confidence").mean())
    found = found.join(sure, on="key", how="left", maintain_order="left")
    first = found.sort("place", maintain_order=True).unique("key", keep="first", maintain_order=True)
    queue = items_of(store, part).join(first, on="key")
    for more in (student, _current(effective, labels), _spoke(answers, labels, first)):
        queue = queue.join(more, on="key", how="left")
    return queue.select(pl.col(name).cast(dtype) for name, dtype in PART_SCHEMA.items())


def bearers(store: Store, taxonomy: Taxonomy) -> pl.DataFrame:
    """How many items bear which label: label, items."""
    counted = [pl.DataFrame(schema={"label": pl.String, "items": pl.UInt32})]
    for part in key_ranges(store, schema.labels):
        labels = resolve(as_of_today(labels_of(store, part), taxonomy)).filter(pl.col("source") != SYNTHETIC)
        counted.append(labels.drop_nulls("label").group_by("label").agg(items=pl.len()))
    return pl.concat(counted).group_by("label").agg(pl.col("items").sum())


def _current(effective: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """key, current_label: the label that counts, or the upper levels on which differing passes agree."""
    upper = upper_labels(labels).rename({"label": "upper"})
    both = effective.join(upper, on="key", how="left", maintain_order="left")
    return both.select("key", current_label=pl.coalesce("label", "upper"))


def _placed(place: int, keys: pl.DataFrame, worth: pl.Expr, label: pl.Expr | None = None) -> pl.DataFrame:
    return keys.select(
        "key",
        place=pl.lit(place, pl.Int64),
        worth=worth.cast(pl.Float64),
        label=pl.lit(None, pl.String) if label is None else label,
    )


def _dead(store: Store, part: Range) -> pl.DataFrame:
    columns = schema.answers.c
    query = select(columns.key).where(columns.label.is_(None)).distinct()
    return store.read(of_part(query, columns.key, part))


def _answers(store: Store, keys: pl.DataFrame, leaves: pl.Series, part: Range) -> pl.DataFrame:
    """The newest answer of each pass about `keys`, whatever prompt it was given to; by key and pass.

    An answer that is no leaf (a first stage, a label of another taxonomy) is not one about the item.
    """
    columns = schema.answers.c
    wanted = [columns[name] for name in ANSWERED]
    usable = pl.col("label").is_null() | pl.col("label").is_in(leaves.implode())
    frames = [
        chunk.filter(usable).join(keys, on="key", how="semi")
        for chunk in store.stream(of_part(select(*wanted), columns.key, part).order_by(columns.id))
    ]
    if not frames:
        return pl.DataFrame(schema=ANSWERED)
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


def _spoke(answers: pl.DataFrame, labels: pl.DataFrame, queue: pl.DataFrame) -> pl.DataFrame:
    """key, answers, imports: the ids of what each pass said, or of each different import where no pass did.

    Their words are read when they are written.
    """
    by_pass = answers.join(queue, on="key", how="semi", maintain_order="left")
    imported = (
        labels.filter(pl.col("source") == "imported")
        .join(queue, on="key", how="semi", maintain_order="left")
        .join(by_pass, on="key", how="anti", maintain_order="left")
        .unique(["key", "label"], keep="first", maintain_order=True)
    )
    rows = [
        by_pass.group_by("key", maintain_order=True).agg(answers=pl.col("id")),
        imported.group_by("key", maintain_order=True).agg(imports=pl.col("id")),
    ]
    return pl.concat([pl.DataFrame(schema=SPOKE), *rows], how="diagonal")


def said_of(store: Store, spoke: pl.DataFrame) -> pl.DataFrame:
    """item_id, said (list of `SAID`): what stands in the answers and imports (item_id, answers, imports)."""
    answers, labels = schema.answers.c, schema.labels.c
    rows = [pl.DataFrame(schema={"item_id": pl.Int64, **SAID.to_schema()})]
    for name, wanted, words in (
        ("answers", answers.id, [answers.id, *(answers[name] for name in SAID.to_schema())]),
        ("imports", labels.id, [labels.id, labels.label]),
    ):
        places = spoke.select("item_id", id=name).explode("id").drop_nulls()
        for some in places.iter_slices(IDS_AT_ONCE):
            told = store.read(select(*words).where(wanted.in_(some["id"].to_list())))
            told = told if name == "answers" else told.with_columns(model=pl.lit("imported"))
            rows.append(some.join(told, on="id", maintain_order="left").drop("id"))
    said = pl.concat(rows, how="diagonal")
    return said.group_by("item_id", maintain_order=True).agg(pl.struct(list(SAID.to_schema())).alias("said"))
