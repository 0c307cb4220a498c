"""Stored labels as the present taxonomy has them: moved where it says so, withdrawn where they are labels no longer.

On reading only: what was given stays in the database as it was given. Knows frames, not who asks or why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl
from sqlalchemy import select

from tasks.records import PARTIAL
from tasks.store import schema
from tasks.store.database import Store
from tasks.store.labels import RANK, raw_labels, resolve
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy


def today(labels: pl.Series, taxonomy: Taxonomy) -> pl.Series:
    """What each label is now; null where it is gone or split, and where it was."""
    known = {label: taxonomy.today(label) for label in labels.unique().drop_nulls().to_list()}
    return labels.replace_strict(known, default=None, return_dtype=pl.String)


def today_or_then(labels: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """What a student of an earlier taxonomy means by its labels; those that are gone or split as they were."""
    known = {label: taxonomy.today(label) or label for label in set(labels)}
    return [known[label] for label in labels]


def current_labels(store: Store, taxonomy: Taxonomy) -> pl.DataFrame:
    """The label that counts for each item today: key, label (a leaf of the taxonomy), source."""
    return resolve(as_of_today(raw_labels(store), taxonomy)).filter(pl.col("label").is_not_null())


def as_of_today(rows: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """Label rows (id, key, label, source), their labels as they are now.

    Where the label that counted of an item is none any more, all that it outranked is withdrawn with it: an earlier
    label that somebody had corrected must not come back. What was said after it, or by somebody better, stays.
    """
    leaves = {label: taxonomy.today(label) for label in rows["label"].unique().drop_nulls().to_list()}
    moved = {label: now for label, now in leaves.items() if now is not None and now != label}
    rows = rows.with_columns(pl.col("label").replace(moved))
    lost = [label for label, now in leaves.items() if now is None]
    while lost:
        gone = resolve(rows).filter(pl.col("label").is_in(lost)).select("key", counted="source")
        if not gone.height:
            break
        ranked = rows.with_columns(rank=_rank("source")).join(
            gone, on="key", how="left", maintain_order="left"
        )
        last = pl.col("id").filter(pl.col("rank") == _rank("counted")).max().over("key")
        withdrawn = (pl.col("rank") >= _rank("counted")) & (pl.col("id") <= last)
        rows = ranked.filter(~withdrawn.fill_null(value=False)).select(rows.columns)
    return rows


def _rank(source: str) -> pl.Expr:
    return pl.col(source).replace_strict(RANK, default=None, return_dtype=pl.Int8)


def lost_labels(store: Store, taxonomy: Taxonomy) -> dict[str, int]:
    """The labels that items had and are labels no longer, with how many items are without one since, the most first."""
    columns = schema.labels.c
    given = select(columns.label).where(columns.source.not_in([PARTIAL, SYNTHETIC])).distinct()
    if all(map(taxonomy.today, store.read(given)["label"].drop_nulls().to_list())):
        return {}
    rows = raw_labels(store).filter(pl.col("source") != SYNTHETIC)
    had = resolve(rows).drop_nulls("label")
    have = resolve(as_of_today(rows, taxonomy)).drop_nulls("label")
    return dict(Counter(had.join(have, on="key", how="anti")["label"].to_list()).most_common())
