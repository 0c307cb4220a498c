"""What the traffic log says about the rows in hand: looked up for them, never read whole into memory.

Knows request and row ids; why they are asked about is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from sqlalchemy import select

from tasks.store import Store, schema

IDS_AT_ONCE = 4096
"""SQLite takes 32,766 values in a query, PostgreSQL 65,535; a longer list costs more to compile than it saves."""


def logged_answers(
    store: Store, requests: Sequence[bytes]
) -> dict[bytes, tuple[str, str | None, float | None]]:
    """(tier, label, confidence) by request id, of those requests that were logged; found by their index."""
    columns = schema.traffic.c
    query = select(columns.request_id, columns.tier, columns.label, columns.confidence)
    found: dict[bytes, tuple[str, str | None, float | None]] = {}
    for first in range(0, len(requests), IDS_AT_ONCE):
        some = requests[first : first + IDS_AT_ONCE]
        rows = store.read(query.where(columns.request_id.in_(some)))
        found.update((request, (tier, label, sure)) for request, tier, label, sure in rows.iter_rows())
    return found


def routed_before(store: Store, rows: pl.Series, newest_id: int) -> pl.Series:
    """Which of some row ids were routed by the time that the log ended with `newest_id`: a mask.

    The log streams past (row ids have no index: it would halve the speed of logging), so ask about many at once.
    """
    asked = pl.DataFrame({"row_id": rows.cast(pl.Binary)})
    columns = schema.traffic.c
    query = select(columns.row_id).where(columns.id <= newest_id)
    met = [chunk.join(asked, on="row_id", how="semi").unique() for chunk in store.stream(query) if newest_id]
    known = pl.concat(met)["row_id"] if met else pl.Series("row_id", [], pl.Binary)
    return rows.is_in(known.implode())
