"""What is kept about batches: which are open, which requests wait in them, which of their lines are paid for.

A batch is written down before its file leaves, and every step of it before the next, so that a killed run can be
taken up at any point. Knows nothing of the provider or of what the answers mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import polars as pl
from sqlalchemy import delete, exists, func, insert, select, update

from tasks.labeling.asking import Asking
from tasks.labeling.batch_files import InputFile, Line
from tasks.labeling.ledger import Version
from tasks.labeling.requests import Item, Request
from tasks.store import Store, schema
from tasks.store.database import CHUNK_ROWS


@dataclass(frozen=True)
class Batch:
    """One row of `batches`; `status` is planned, uploaded, or what the provider said last."""

    id: int
    token: str
    remote_id: str | None
    status: str
    base_url: str
    model: str
    stage: str
    run_id: int
    input_file_id: str | None
    requests: int
    created_at: float


def plan(store: Store, file: InputFile, base_url: str, stage: str, run_id: int, now: float) -> int:
    """Write down a batch with its lines, all or nothing; returns its id."""
    row = {
        "token": file.token,
        "status": "planned",
        "base_url": base_url,
        "model": file.lines[0].version.model,
        "stage": stage,
        "run_id": run_id,
        "requests": len(file.lines),
        "reserved_usd": file.most_usd,
        "created_at": now,
        "updated_at": now,
    }
    with store.begin() as connection:
        key = connection.execute(insert(schema.batches), row).inserted_primary_key
        assert key is not None
        rows = [item for line in file.lines for item in _item_rows(int(key[0]), line)]
        for start in range(0, len(rows), CHUNK_ROWS):
            connection.execute(insert(schema.batch_items), rows[start : start + CHUNK_ROWS])
    return int(key[0])


def _item_rows(batch_id: int, line: Line) -> Iterator[dict[str, Any]]:
    for place, item in enumerate(line.request.items):
        yield {
            "batch_id": batch_id,
            "line": line.number,
            "place": place,
            "key": item.key,
            "pass": line.request.pass_number,
            "prompt_version": line.version.prompt_version,
            "parameters": line.version.parameters,
            "branch": line.request.branch,
            "candidates": json.dumps(item.candidates, ensure_ascii=False) if item.candidates else None,
        }


def note(store: Store, batch_id: int, now: float, **values: Any) -> None:
    """Write down what is new about a batch: columns of `batches`."""
    batches = schema.batches
    with store.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(updated_at=now, **values))


def drop(store: Store, batch_id: int) -> None:
    """Forget a batch that never came to be: its requests are due again."""
    with store.begin() as connection:
        connection.execute(delete(schema.batch_items).where(schema.batch_items.c.batch_id == batch_id))
        connection.execute(delete(schema.batches).where(schema.batches.c.id == batch_id))


def open_batches(store: Store) -> list[Batch]:
    """Every batch that is not closed, the oldest first."""
    columns = schema.batches.c
    names = [field.name for field in fields(Batch)]
    rows = store.read(
        select(*(columns[name] for name in names)).where(columns.closed_at.is_(None)).order_by(columns.id)
    )
    return [Batch(**row) for row in rows.iter_rows(named=True)]


@dataclass(frozen=True)
class Waiting:
    """What open batches hold: how many there are, of how many items, and since when the oldest waits (None: none).

    An item that waits in several passes counts once; one whose answer has been fetched already does not count.
    """

    batches: int = 0
    requests: int = 0
    items: int = 0
    oldest_at: float | None = None  # seconds since 1970


def what_waits(store: Store) -> Waiting:
    """What waits at providers, or for its results to be fetched."""
    waiting = open_batches(store)
    if not waiting:
        return Waiting()
    items, calls = schema.batch_items.c, schema.calls.c
    fetched = exists().where(calls.batch_id == items.batch_id, calls.batch_line == items.line)
    of_open = items.batch_id.in_([batch.id for batch in waiting])
    count = store.scalar(select(func.count(items.key.distinct())).where(of_open, ~fetched))
    oldest = min(batch.created_at for batch in waiting)
    return Waiting(len(waiting), sum(batch.requests for batch in waiting), int(count or 0), oldest)


def in_batches(store: Store, how: Asking) -> pl.DataFrame:
    """The items and passes that wait in open batches for answers of this prompt and model: key, pass."""
    single = Request((Item(b"", ""),), 1)
    prompts = [how.prompt, *([how.tie_breaker.prompt] if how.tie_breaker is not None else [])]
    versions = {version for prompt in prompts for version in (prompt.version, prompt.version_of(single))}
    items, batches = schema.batch_items.c, schema.batches.c
    rows = store.read(
        select(items.key, items["pass"], batches.model, items.parameters)
        .where(items.batch_id == batches.id, batches.closed_at.is_(None))
        .where(items.prompt_version.in_(versions))
        .distinct()
    )
    passes = rows["pass"].unique().to_list()
    asked = pl.DataFrame(
        [(number, one.model, one.parameters) for number in passes for one in [how.version.of_pass(number)]],
        schema={"pass": pl.Int64, "model": pl.String, "parameters": pl.String},
        orient="row",
    )
    return rows.join(asked, on=["pass", "model", "parameters"], how="semi").select("key", "pass")


def reserved_usd(store: Store, run_id: int) -> float:
    """The most that the open batches of a run can still cost, beyond what is in the ledger already."""
    columns, calls = schema.batches.c, schema.calls.c
    open_ones = select(columns.id).where(columns.closed_at.is_(None), columns.run_id == run_id)
    reserved = store.scalar(select(func.sum(columns.reserved_usd)).where(columns.id.in_(open_ones)))
    settled = store.scalar(select(func.sum(calls.cost_usd)).where(calls.batch_id.in_(open_ones)))
    return max(0.0, float(reserved or 0.0) - float(settled or 0.0))


def left_of_run(store: Store, run_id: int, budget_usd: float | None) -> float | None:
    """What is left of the budget of a run, which may route in shards, label and ask about gold; None is no limit.

    What its open batches may still cost is set aside.
    """
    if budget_usd is None:
        return None
    calls = schema.calls.c
    spent = store.scalar(select(func.sum(calls.cost_usd)).where(calls.run_id == run_id)) or 0.0
    return max(0.0, budget_usd - float(spent) - reserved_usd(store, run_id))


def lines_of(store: Store, batch: Batch) -> dict[int, Line]:
    """The lines of a batch that are not in the ledger yet, by number."""
    items, calls = schema.batch_items.c, schema.calls.c
    rows = store.read(
        select(*(column for column in items if column.name != "batch_id"))
        .where(items.batch_id == batch.id)
        .order_by(items.line, items.place)
    )
    written = store.read(select(calls.batch_line.label("line")).where(calls.batch_id == batch.id))
    lines: dict[int, Line] = {}
    for row in rows.join(written, on="line", how="anti", maintain_order="left").iter_rows(named=True):
        number = row["line"]
        candidates = tuple(json.loads(row["candidates"])) if row["candidates"] else ()
        before = lines[number].request.items if number in lines else ()
        request = Request((*before, Item(row["key"], "", candidates)), row["pass"], row["branch"])
        lines[number] = Line(number, request, Version(row["prompt_version"], batch.model, row["parameters"]))
    return lines


def unreadable_before(store: Store) -> dict[tuple[bytes, int, str], int]:
    """How often replies that came through batches could not be read: by key, pass and prompt version."""
    items, calls = schema.batch_items.c, schema.calls.c
    rows = store.read(
        select(items.key, items["pass"], items.prompt_version, func.count().label("times"))
        .where(calls.batch_id == items.batch_id, calls.batch_line == items.line, calls.status == "invalid")
        .group_by(items.key, items["pass"], items.prompt_version)
    )
    return {(key, number, version): times for key, number, version, times in rows.iter_rows()}


def better_alone(store: Store) -> set[tuple[bytes, int]]:
    """The items and passes that got no answer in the company of others: each is asked about alone next time."""
    items, calls = schema.batch_items.c, schema.calls.c
    company = (
        select(items.batch_id, items.line)
        .where(items.place > 0)
        .where(calls.batch_id == items.batch_id, calls.batch_line == items.line, calls.status == "invalid")
        .distinct()
        .subquery()
    )
    rows = store.read(
        select(items.key, items["pass"])
        .where(items.batch_id == company.c.batch_id, items.line == company.c.line)
        .distinct()
    )
    return set(rows.iter_rows())
