"""Tables a range of keys at a time: keys are hashes, so that ranges of equal width hold about equally many rows.

Whoever works so never holds a whole table, for the price of reading it once a range. Knows nothing of what rows mean.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, Select, Table, func, select

from tasks.store import Store, schema
from tasks.synthetic import SYNTHETIC

Range = tuple[bytes, bytes | None]  # from the first key on, below the second if there is one

ROWS_AT_ONCE = 4_000
MOST_RANGES, LEAST_RANGES = 128, 4
READ_ROWS = 16_000_000  # in all: keys have no index, so that each range reads the whole table
ROWS_OF_THE_DRIVER = 4096  # what the driver hands out takes ten times the memory of the frame it becomes


def key_ranges(store: Store, *tables: Table) -> list[Range]:
    """Ranges that together hold all keys, each with some thousands of rows of the largest of the tables.

    Of tables beyond `READ_ROWS / MOST_RANGES` rows there are fewer and larger ones: time counts there, too.
    """
    rows = max(int(store.scalar(select(func.count()).select_from(table)) or 0) for table in tables)
    affordable = max(LEAST_RANGES, READ_ROWS // max(rows, 1))
    count = min(MOST_RANGES, affordable, max(1, -(-rows // ROWS_AT_ONCE)))
    ends = [bytes([place * 256 // count]) for place in range(1, count)]
    return list(zip([b"", *ends], [*ends, None], strict=True))


def of_part(query: Select[Any], column: ColumnElement[Any], part: Range) -> Select[Any]:
    """The rows of a query whose key is in a range."""
    query = query.where(column >= part[0])
    return query if part[1] is None else query.where(column < part[1])


def within(rows: pl.DataFrame, part: Range) -> pl.DataFrame:
    """The rows of a frame whose `key` is in a range."""
    rows = rows.filter(pl.col("key") >= pl.lit(part[0]))
    return rows if part[1] is None else rows.filter(pl.col("key") < pl.lit(part[1]))


def items_of(store: Store, part: Range | None = None) -> pl.DataFrame:
    """Every item of a range (of all, where none is given) but synthetic examples: item_id, key."""
    columns = schema.items.c
    query = select(columns.id.label("item_id"), columns.key).where(columns.origin != SYNTHETIC)
    query = (query if part is None else of_part(query, columns.key, part)).order_by(columns.id)
    return pl.concat(list(store.stream(query, ROWS_OF_THE_DRIVER)) or [store.read(query)])


def labels_of(store: Store, part: Range) -> pl.DataFrame:
    """Every label row of a range: id, key, label, source."""
    columns = schema.labels.c
    query = select(columns.id, columns.key, columns.label, columns.source).order_by(columns.id)
    query = of_part(query, columns.key, part)
    return pl.concat(list(store.stream(query, ROWS_OF_THE_DRIVER)) or [store.read(query)])
