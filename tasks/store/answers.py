"""Reading the answers table across prompt versions: what the teacher last said about an item."""

from __future__ import annotations

import polars as pl
from sqlalchemy import select

from tasks.store import schema
from tasks.store.database import Store


def first_pass_labels(store: Store, keys: pl.DataFrame) -> pl.DataFrame:
    """key, label of the newest valid first-pass answer about each of `keys` that has one."""
    columns, wanted = schema.answers.c, keys.select("key").unique()
    valid = select(columns.key, columns.label).where(columns["pass"] == 1).where(columns.label.is_not(None))
    chunks = store.stream(valid.order_by(columns.id)) if wanted.height else ()
    found = [chunk.join(wanted, on="key", how="semi", maintain_order="left") for chunk in chunks]
    empty = pl.DataFrame(schema={"key": pl.Binary, "label": pl.String})
    return pl.concat([empty, *found]).unique("key", keep="last", maintain_order=True)


def candidates(store: Store, decided: pl.DataFrame) -> pl.DataFrame:
    """What passes said about items without a settled label: key, candidates (list of labels, by pass).

    The newest answer of each pass counts, whatever prompt it was given to; invalid ones are left out.

    Args:
        store: the open database.
        decided: keys that have a label, one column `key`.
    """
    columns = schema.answers.c
    rows = store.read(
        select(columns.key, columns["pass"], columns.label)
        .where(columns.label.is_not(None))
        .order_by(columns.id)
    )
    open_rows = rows.join(decided.select("key"), on="key", how="anti", maintain_order="left")
    newest = open_rows.unique(["key", "pass"], keep="last", maintain_order=True).sort(
        "pass", maintain_order=True
    )
    return newest.group_by("key", maintain_order=True).agg(pl.col("label").alias("candidates"))
