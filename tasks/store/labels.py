"""The labels table: append-only, and which label of an item counts.

`human` outranks `adjudicated` outranks what the LLM said last (`consensus`, `single`, or `partial` and `disagreed`,
which withdraw) outranks `imported`. A raw label is never overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import polars as pl
from sqlalchemy import func, select

from tasks.records import LLM_SOURCES, PARTIAL, SOURCES
from tasks.store import schema
from tasks.store.database import Store

RANK = {"human": 0, "adjudicated": 1} | dict.fromkeys(LLM_SOURCES, 2) | {"imported": 3, "synthetic": 4}


def append_labels(store: Store, rows: Iterable[tuple[bytes, str | None, str]], run_id: int) -> int:
    """Append (key, label, source) rows; None is for source `disagreed` only, a path that is no leaf for `partial`."""
    now = time.time()

    def checked() -> Iterable[dict[str, object]]:
        for key, label, source in rows:
            assert source in SOURCES, source
            assert (label is None) == (source == "disagreed"), (label, source)
            yield {"key": key, "label": label, "source": source, "run_id": run_id, "at": now}

    return store.append(schema.labels, checked())


def raw_labels(store: Store) -> pl.DataFrame:
    """Every label row: id, key, label, source."""
    columns = schema.labels.c
    return store.read(select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id))


def effective_labels(store: Store) -> pl.DataFrame:
    """The label that counts for each item: key, label, source; one row a key, none where it was withdrawn.

    Conflicting imports of one item take the majority; a tie counts as withdrawn (it goes to review).
    """
    return resolve(raw_labels(store)).filter(pl.col("label").is_not_null())


def disputed_keys(store: Store) -> pl.DataFrame:
    """Keys whose passes (or imports) contradict each other and nobody decided yet."""
    return resolve(raw_labels(store)).filter(pl.col("label").is_null()).select("key")


def upper_labels(rows: pl.DataFrame) -> pl.DataFrame:
    """key, label of the disputed items whose passes agree on upper levels: the path they share, never a leaf.

    Args:
        rows: every label row: id, key, label, source.
    """
    partial = resolve(rows).filter(pl.col("source") == PARTIAL).select("key")
    newest = (
        rows.filter(pl.col("source") == PARTIAL).sort("id").unique("key", keep="last", maintain_order=True)
    )
    return newest.join(partial, on="key", how="semi", maintain_order="left").select("key", "label")


def resolve(rows: pl.DataFrame) -> pl.DataFrame:
    """Reduce raw label rows (id, key, label, source) to one row a key; label null where it is disputed.

    Of source `partial` the label is null too: whoever wants a label wants a leaf; see `upper_labels`.
    """
    if not rows.height:
        return pl.DataFrame(schema={"key": pl.Binary, "label": pl.String, "source": pl.String})
    ranked = rows.with_columns(pl.col("source").replace_strict(RANK, return_dtype=pl.Int8).alias("rank"))
    best = ranked.filter(pl.col("rank") == pl.col("rank").min().over("key"))
    newest = (
        best.filter(pl.col("source") != "imported").sort("id").group_by("key", maintain_order=True).last()
    )
    leaf = pl.when(pl.col("source") != PARTIAL).then(pl.col("label")).alias("label")
    return pl.concat(
        [newest.select("key", leaf, "source"), _majority(best.filter(pl.col("source") == "imported"))]
    )


def _majority(imported: pl.DataFrame) -> pl.DataFrame:
    votes = imported.group_by("key", "label", maintain_order=True).agg(pl.len().alias("votes"))
    most = votes.filter(pl.col("votes") == pl.col("votes").max().over("key"))
    return (
        most.group_by("key", maintain_order=True)
        .agg(pl.when(pl.len() == 1).then(pl.col("label").first()).alias("label"))
        .with_columns(pl.lit("imported").alias("source"))
    )


def labels_since(store: Store, at: float) -> int:
    """How many labels came later than that (seconds since 1970): no written examples, nothing that withdraws."""
    columns = schema.labels.c
    given = columns.source.not_in((PARTIAL, "disagreed", "synthetic"))
    return int(store.scalar(select(func.count()).where(columns.at > at).where(given)) or 0)


def newest_label_id(store: Store) -> int:
    """Id of the newest label row, 0 when there is none; grows with every change."""
    return int(store.scalar(select(func.max(schema.labels.c.id))) or 0)
