"""What was paid for: calls and answers, written in group commits, and which answers are still missing.

Append-only. Whoever awaits `Ledger.write` keeps its slot until the reply is on disk, so a kill at any moment
loses no more replies than there are slots.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import polars as pl
from sqlalchemy import ColumnElement, Connection, Select, insert, select
from sqlalchemy.exc import SQLAlchemyError

from tasks.errors import StoreError
from tasks.labeling.replies import MAX_CHARACTERS, Answer, clean
from tasks.labeling.teacher import Reply
from tasks.store import Store, schema

WINDOW_SECONDS = 0.02
GROUP_ROWS = 64
RETRY_SECONDS = (0.5, 2.0, 5.0)  # a database that went away for a moment
FEW_KEYS = 500  # up to here a query names its keys; above, everything is read and filtered

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
    """What answers are kept under: another prompt, model or parameter is another key."""

    prompt_version: str
    model: str
    parameters: str


@dataclass(frozen=True)
class Entry:
    """One row for `calls` and the answers that it gave (none when it will be asked again)."""

    status: str  # ok | invalid | failed
    attempts: int
    error_class: str | None
    reply: Reply | None
    cost_usd: float
    answers: Sequence[tuple[bytes, int, Answer]] = ()


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
        self._now, self._sleep = now, sleep
        self._queue: asyncio.Queue[tuple[Entry, asyncio.Future[None]] | None] = asyncio.Queue()

    async def __aenter__(self) -> Ledger:
        self._writer = asyncio.create_task(self._write_groups())
        self._writer.add_done_callback(lambda _: self._abandon())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put_nowait(None)
        await self._writer

    async def write(self, entry: Entry) -> None:
        """Returns when the entry is committed.

        Raises:
            StoreError: the database refuses.
        """
        if self._writer.done():
            await self._writer  # raises what ended it
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((entry, done))
        await done

    async def _write_groups(self) -> None:
        closing = False
        while not closing:
            first = await self._queue.get()
            if first is not None and self._queue.qsize() < GROUP_ROWS:
                await asyncio.sleep(WINDOW_SECONDS)
            group, closing = [first] if first is not None else [], first is None
            while not self._queue.empty() and len(group) < GROUP_ROWS:
                waiting = self._queue.get_nowait()
                if waiting is None:
                    closing = True
                else:
                    group.append(waiting)
            if group:
                await self._settle(group)

    def _abandon(self) -> None:
        """Nobody may wait for a writer that is gone."""
        while not self._queue.empty():
            if (waiting := self._queue.get_nowait()) is not None:
                waiting[1].cancel()

    async def _settle(self, group: list[tuple[Entry, asyncio.Future[None]]]) -> None:
        error: StoreError | None = None
        try:
            await self._commit([entry for entry, _ in group])
        except StoreError as broken:
            error = broken
        except SQLAlchemyError as broken:
            reason = str(getattr(broken, "orig", broken)).strip().splitlines()[0]
            error = StoreError(self._store.shown_url, reason, "Is the server up, the disk not full?")
        else:
            for _, done in group:
                if not done.done():  # its request may have been cancelled
                    done.set_result(None)
        finally:
            for _, done in group:
                if not done.done() and error is not None:
                    done.set_exception(error)
                done.cancel()

    async def _commit(self, entries: list[Entry]) -> None:
        for pause in RETRY_SECONDS:
            try:
                await asyncio.to_thread(self._insert, entries)
            except StoreError:
                await self._sleep(pause)
            else:
                return
        await asyncio.to_thread(self._insert, entries)

    def _insert(self, entries: list[Entry]) -> None:
        at = self._now()
        answers = [
            (place, self._answer_row(key, number, answer, entry.attempts, at))
            for place, entry in enumerate(entries)
            for key, number, answer in entry.answers
        ]
        with self._store.begin() as connection:
            call_ids = _insert_all(connection, schema.calls, [self._call_row(entry, at) for entry in entries])
            if answers:
                answer_ids = _insert_all(connection, schema.answers, [row for _, row in answers])
                pairs = [
                    {"call_id": call_ids[place], "answer_id": answer_id}
                    for (place, _), answer_id in zip(answers, answer_ids, strict=True)
                ]
                connection.execute(insert(schema.call_answers), pairs)

    def _call_row(self, entry: Entry, at: float) -> dict[str, Any]:
        reply = entry.reply
        return {
            "run_id": self._run_id,
            "stage": self._stage,
            "model": self._version.model,
            "echoed_model": reply.model if reply else None,
            "status": entry.status,
            "attempts": entry.attempts,
            "error_class": entry.error_class,
            "reply": (clean(reply.text, MAX_CHARACTERS) or "") if reply else None,
            "prompt_tokens": reply.prompt_tokens if reply else 0,
            "cached_tokens": reply.cached_tokens if reply else 0,
            "completion_tokens": reply.completion_tokens if reply else 0,
            "cost_usd": entry.cost_usd,
            "latency_seconds": reply.latency_seconds if reply else 0.0,
            "at": at,
        }

    def _answer_row(
        self, key: bytes, number: int, answer: Answer, attempts: int, at: float
    ) -> dict[str, Any]:
        return {
            "key": key,
            "pass": number,
            "prompt_version": self._version.prompt_version,
            "model": self._version.model,
            "parameters": self._version.parameters,
            "label": answer.label,
            "confidence": answer.confidence,
            "reason": answer.reason,
            "error_class": answer.error_class,
            "attempts": attempts,
            "at": at,
        }


def _insert_all(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> list[int]:
    statement = insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return [int(found) for found in connection.execute(statement, rows).scalars()]


def current_answers(store: Store, version: Version, keys: pl.DataFrame | None = None) -> pl.DataFrame:
    """Answers of a version, one row a key and pass: key, pass, label, confidence, reason, error_class.

    Args:
        store: the open database.
        version: the prompt, model and parameters.
        keys: a column `key` to keep to; None for all.
    """
    columns = schema.answers.c
    query = select(columns.id, *(columns[name] for name in ANSWER_SCHEMA)).where(
        columns.prompt_version == version.prompt_version,
        columns.model == version.model,
        columns.parameters == version.parameters,
    )
    frame = read_of(store, query.order_by(columns.id), columns.key, keys)
    return frame.unique(["key", "pass"], keep="last", maintain_order=True).select(list(ANSWER_SCHEMA))


def read_of(
    store: Store, query: Select[Any], column: ColumnElement[Any], keys: pl.DataFrame | None
) -> pl.DataFrame:
    """The rows of a query that belong to `keys` (all rows when None); the query has a column `key`."""
    if keys is None:
        return store.read(query)
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
    return wanted.join(answers.select("key", "pass"), on=["key", "pass"], how="anti", maintain_order="left")


def unanswered(store: Store, keys: pl.DataFrame, passes: int, version: Version) -> pl.DataFrame:
    """The (key, pass) pairs of `keys` that have no answer of this version in the ledger."""
    return missing(keys, current_answers(store, version, keys), passes)
