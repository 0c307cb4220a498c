"""What was paid for: calls and answers, written in group commits, and which answers are still missing.

Append-only. Whoever awaits `Ledger.write` keeps its slot until the reply is on disk, so a kill at any moment
loses no more replies than there are slots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from tasks.errors import StoreError
from tasks.labeling.group_commits import GroupCommits
from tasks.labeling.key_ranges import Range, of_part
from tasks.labeling.replies import Answer, clean, most_characters
from tasks.labeling.shards import in_shards
from tasks.labeling.teacher import Reply
from tasks.store import Store, schema

FEW_KEYS = 5_000  # up to here a query names its keys; above, everything is read and filtered

ROWS_AT_ONCE = 4096
ROWS_A_STATEMENT = 1000  # SQLite takes 32,766 values in one

ANSWER_SCHEMA = {
    "key": pl.Binary,
    "pass": pl.Int64,
    "label": pl.String,
    "confidence": pl.Float64,
    "reason": pl.String,
    "error_class": pl.String,
}


@dataclass(frozen=True)
class Version:
    """What answers are kept under: another prompt, model or parameter is another key.

    `by_pass` are the passes (number, version) that are asked in another way: another model, another temperature.
    """

    prompt_version: str
    model: str
    parameters: str
    by_pass: tuple[tuple[int, Version], ...] = ()

    def of_pass(self, number: int) -> Version:
        """What the answers of one pass are kept under."""
        return dict(self.by_pass).get(number, self)

    def under(self, prompt_version: str) -> Version:
        """The same models and parameters with another prompt, as the first of two stages has."""
        passes = tuple(
            (number, replace(version, prompt_version=prompt_version)) for number, version in self.by_pass
        )
        return replace(self, prompt_version=prompt_version, by_pass=passes)


@dataclass(frozen=True)
class Entry:
    """One row for `calls` and the answers that it gave (none when it will be asked again).

    `batch_line` names the batch and the line in it that the reply came through. `pass_number` tells the model that
    was asked. `first_stage` are answers that are not final, kept under `first_stage_version`. `items` is how many the
    request was about.
    """

    status: str  # ok | invalid | failed
    attempts: int
    error_class: str | None
    reply: Reply | None
    cost_usd: float
    answers: Sequence[tuple[bytes, int, Answer]] = ()
    pass_number: int = 1
    first_stage: Sequence[tuple[bytes, int, Answer]] = ()
    first_stage_version: str = ""
    batch_line: tuple[int, int] | None = None
    items: int = 1


class Ledger:
    """The writer of one run, used as an async context manager; leaving it commits what is waiting."""

    def __init__(
        self,
        store: Store,
        version: Version,
        stage: str,
        run_id: int,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._version, self._stage, self._run_id = store, version, stage, run_id
        self._now = now
        self._commits = GroupCommits(self._commit, sleep)

    async def __aenter__(self) -> Ledger:
        await self._commits.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._commits.__aexit__(kind, error, trace)

    async def write(self, entry: Entry) -> None:
        """Returns when the entry is committed.

        Raises:
            StoreError: the database refuses.
        """
        await self._commits.write(entry)

    def _commit(self, entries: list[Entry]) -> None:
        try:
            self._insert(entries)
        except SQLAlchemyError as broken:
            reason = str(getattr(broken, "orig", broken)).strip().splitlines()[0]
            remedy = "Is the server up, the disk not full?"
            raise StoreError(self._store.shown_url, reason, remedy, transient=True) from broken

    def _insert(self, entries: list[Entry]) -> None:
        at = self._now()
        answers = [
            (place, self._answer_row(key, number, answer, entry.attempts, at, prompt_version))
            for place, entry in enumerate(entries)
            for said, prompt_version in (
                (entry.answers, None),
                (entry.first_stage, entry.first_stage_version),
            )
            for key, number, answer in said
        ]
        with self._store.begin() as connection:
            call_ids = _insert_all(connection, schema.calls, [self._call_row(entry, at) for entry in entries])
            if answers:
                answer_ids = _insert_all(connection, schema.answers, [row for _, row in answers])
                pairs = [
                    {"call_id": call_ids[place], "answer_id": answer_id}
                    for (place, _), answer_id in zip(answers, answer_ids, strict=True)
                ]
                _insert_all(connection, schema.call_answers, pairs)

    def _call_row(self, entry: Entry, at: float) -> dict[str, Any]:
        reply = entry.reply
        return {
            "run_id": self._run_id,
            "stage": self._stage,
            "model": self._version.of_pass(entry.pass_number).model,
            "echoed_model": reply.model if reply else None,
            "status": entry.status,
            "attempts": entry.attempts,
            "error_class": entry.error_class,
            "reply": kept_text(reply.text, entry.items) if reply else None,
            "prompt_tokens": reply.prompt_tokens if reply else 0,
            "cached_tokens": reply.cached_tokens if reply else 0,
            "completion_tokens": reply.completion_tokens if reply else 0,
            "cost_usd": entry.cost_usd,
            "latency_seconds": reply.latency_seconds if reply else 0.0,
            "at": at,
            "batch_id": entry.batch_line[0] if entry.batch_line else None,
            "batch_line": entry.batch_line[1] if entry.batch_line else None,
        }

    def _answer_row(
        self,
        key: bytes,
        number: int,
        answer: Answer,
        attempts: int,
        at: float,
        prompt_version: str | None,
    ) -> dict[str, Any]:
        version = self._version.of_pass(number)
        return {
            "key": key,
            "pass": number,
            "prompt_version": prompt_version or version.prompt_version,
            "model": version.model,
            "parameters": version.parameters,
            "label": answer.label,
            "confidence": answer.confidence,
            "reason": answer.reason,
            "error_class": answer.error_class,
            "attempts": attempts,
            "at": at,
        }


def kept_text(text: str, items: int) -> str:
    """What is kept of a reply: all of one that can be read; a longer one ends with how long it was."""
    most = most_characters(items)
    said = text if len(text) <= most else text.strip()
    kept = clean(said, most) or ""
    return kept if len(said) <= most else f"{kept}\n[cut: {len(said):,} characters came]"


def _insert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> list[int]:
    """Append rows; returns their ids in order, where the table has ids.

    To SQLite they go as one statement: SQLAlchemy's way to their ids is one statement a row, and after each of them
    the commit's thread would wait for a busy event loop. Its transactions hold the only right to write from their
    first statement on, so the next ids are known.
    """
    if connection.dialect.name != "sqlite":
        if "id" not in table.c:
            connection.execute(insert(table), rows)
            return []
        statement = insert(table).returning(table.c.id, sort_by_parameter_order=True)
        return [int(found) for found in connection.execute(statement, rows).scalars()]
    ids: list[int] = []
    if "id" in table.c:
        newest = connection.exec_driver_sql(f"SELECT max(id) FROM {table.name}").scalar() or 0
        ids = list(range(newest + 1, newest + 1 + len(rows)))
        rows = [{"id": number, **row} for number, row in zip(ids, rows, strict=True)]
    columns = tuple(rows[0])
    for first in range(0, len(rows), ROWS_A_STATEMENT):
        chunk = rows[first : first + ROWS_A_STATEMENT]
        values = tuple(row[name] for row in chunk for name in columns)
        connection.exec_driver_sql(_statement(table.name, columns, len(chunk)), values)
    return ids


@lru_cache(maxsize=512)
def _statement(table: str, columns: tuple[str, ...], rows: int) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    places = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({names}) VALUES {', '.join([places] * rows)}"


def current_answers(
    store: Store,
    version: Version,
    keys: pl.DataFrame | None = None,
    columns: Sequence[str] = tuple(ANSWER_SCHEMA),
    part: Range | None = None,
) -> pl.DataFrame:
    """Answers of a version, one row a key and pass: key, pass, label, confidence, reason, error_class.

    Args:
        store: the open database.
        version: the prompt, model and parameters, of each pass.
        keys: a column `key` to keep to; None for all.
        columns: which of the columns to read, `key` and `pass` among them; reasons are long.
        part: a range of keys to keep to; None for all.
    """
    table = schema.answers.c
    query = select(*(table[name] for name in columns)).where(_kept_under(version))
    if part is not None:
        query = of_part(query, table.key, part)
    return _newest(read_of(store, query.order_by(table.id), table.key, keys))


def _newest(answers: pl.DataFrame) -> pl.DataFrame:
    """The last row of each key and pass; there are hardly ever two, and looking for them all takes much memory."""
    names = answers.select(pl.col("key").hash(1) ^ pl.col("pass").hash(2)).to_series()
    in_order = names.sort()
    twice = in_order.filter(in_order == in_order.shift())
    if twice.is_empty():
        return answers
    doubtful = names.is_in(twice.unique().implode())
    kept = answers.with_row_index("place").filter(doubtful).unique(["key", "pass"], keep="last")
    return answers.filter(~doubtful | pl.int_range(pl.len()).is_in(kept["place"].implode()))


def _kept_under(version: Version) -> ColumnElement[bool]:
    columns = schema.answers.c

    def same(one: Version) -> ColumnElement[bool]:
        return and_(
            columns.prompt_version == one.prompt_version,
            columns.model == one.model,
            columns.parameters == one.parameters,
        )

    if not version.by_pass:
        return same(version)
    others = [number for number, _ in version.by_pass]
    return or_(
        and_(same(version), columns["pass"].not_in(others)),
        *(and_(same(one), columns["pass"] == number) for number, one in version.by_pass),
    )


def read_of(
    store: Store, query: Select[Any], column: ColumnElement[Any], keys: pl.DataFrame | None
) -> pl.DataFrame:
    """The rows of a query that belong to `keys` (all rows when None); the query has a column `key`."""
    if keys is None:
        # In small batches: what the driver hands out takes ten times the memory of the frame it becomes.
        return pl.concat(list(store.stream(query, ROWS_AT_ONCE)) or [store.read(query)])
    wanted = keys.select("key").unique()
    if wanted.height <= FEW_KEYS:
        return store.read(query.where(column.in_(wanted["key"].to_list())))
    return store.read(query).join(wanted, on="key", how="semi", maintain_order="left")


def missing(keys: pl.DataFrame, answers: pl.DataFrame, passes: int) -> pl.DataFrame:
    """The (key, pass) pairs of `keys` that have no answer; all passes of an item together, order kept.

    Args:
        keys: one row an item, a column `key` and whatever else is to be kept.
        answers: columns key, pass.
        passes: how many are wanted, numbered from 1.
    """
    numbers = pl.DataFrame({"pass": range(1, passes + 1)}, schema={"pass": pl.Int64})
    wanted = keys.join(numbers, how="cross", maintain_order="left_right")
    if not answers.height:
        return wanted
    left = [
        part.join(have, on=["key", "pass"], how="anti")
        for part, have in in_shards(wanted.with_row_index("place"), answers.select("key", "pass"))
    ]
    return pl.concat(left).sort("place").drop("place")


def unanswered(store: Store, keys: pl.DataFrame, passes: int, version: Version) -> pl.DataFrame:
    """The (key, pass) pairs of `keys` that have no answer of this version in the ledger."""
    return missing(keys, current_answers(store, version, keys), passes)
