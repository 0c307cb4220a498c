"""Synthetic examples in the database: an item and its label, which are written together or not at all.

Knows nothing of who wrote them or of whether they are any good.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import polars as pl
from sqlalchemy import delete, insert, select

from tasks.records import text_key
from tasks.store import schema
from tasks.store.database import Store
from tasks.synthetic import SYNTHETIC

STATE = "synthesis_state"


def append_synthetic(store: Store, examples: Sequence[tuple[str, str]], run_id: int) -> None:
    """Append (normalised text, label) examples, no text of which may be an item already.

    Args:
        store: the open database.
        examples: distinct texts with the leaf each was written for.
        run_id: the job that brings them.

    Raises:
        StoreError: the database refuses; nothing is kept.
    """
    if not examples:
        return
    now, common = time.time(), {"run_id": run_id}
    rows = [(text_key(text), text, label) for text, label in examples]
    items = [
        {
            "key": key, "source_id": f"synthetic-{key.hex()}", "text": text, "image": None,
            "origin": SYNTHETIC, "added_at": now,
        }
        | common
        for key, text, _ in rows
    ]  # fmt: skip
    labels = [{"key": key, "label": label, "source": SYNTHETIC, "at": now} | common for key, _, label in rows]
    with store.begin() as connection:
        connection.execute(insert(schema.items), items)
        connection.execute(insert(schema.labels), labels)


def synthetic_keys(store: Store) -> pl.DataFrame:
    """Keys of the items that a teacher wrote and that were not met for real, one column `key`."""
    columns = schema.items.c
    return store.read(select(columns.key).where(columns.origin == SYNTHETIC))


def remembered_state(store: Store) -> str | None:
    """What was there when the last run had asked for all it could; None before the first."""
    found = store.scalar(select(schema.meta.c.value).where(schema.meta.c.name == STATE))
    return None if found is None else str(found)


def remember_state(store: Store, state: str) -> None:
    """Keep that with this state there is nothing to ask for."""
    with store.begin() as connection:
        connection.execute(delete(schema.meta).where(schema.meta.c.name == STATE))
        connection.execute(insert(schema.meta), {"name": STATE, "value": state})
