"""Reading the answers table across prompt versions: what the teacher last said about an item."""

from __future__ import annotations

import polars as pl
from sqlalchemy import select

from tasks.store import schema
from tasks.store.database import Store


def first_pass_labels(store: Store, keys: pl.DataFrame) -> pl.DataFrame:
    """key, label of the newest valid first-pass answer about each of `keys` that has one."""
    columns = schema.answers.c
    rows = store.read(
        select(columns.key, columns.label)
        .where(columns["pass"] == 1)
        .where(columns.label.is_not(None))
        .order_by(columns.id)
    )
    return rows.join(keys.select("key").unique(), on="key", how="semi").unique(
        "key", keep="last", maintain_order=True
    )
