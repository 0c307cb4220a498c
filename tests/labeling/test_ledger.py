"""The group-commit writer: whoever was told that an entry is kept can rely on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import polars as pl
import pytest
from sqlalchemy import Connection, func, select

from tasks.errors import StoreError
from tasks.labeling.ledger import Entry, Ledger, Version, current_answers, missing
from tasks.labeling.replies import Answer
from tasks.labeling.teacher import Reply
from tasks.records import text_key
from tasks.store import Store, schema
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, FakeTime

VERSION = Version("prompt", "model", "parameters")


@dataclass(frozen=True)
class Shaky(Store):
    """A database that is gone for the first transactions."""

    failures: list[None] = field(default_factory=list)
    groups: list[None] = field(default_factory=list)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        if self.failures:
            self.failures.pop()
            raise StoreError(self.shown_url, "is gone", "Wait.")
        self.groups.append(None)
        with super().begin() as connection:
            yield connection


def _entry(number: int) -> Entry:
    reply = Reply("{}", "m", 1, 0, 1, 0.1)
    answer = Answer(KETTLES, 0.5, str(number))
    return Entry(
        "ok", 1, None, reply, 0.1, [(text_key(str(number)), 1, answer), (text_key(f"{number}b"), 1, answer)]
    )


def test_a_pass_with_settings_of_its_own_is_kept_and_found_under_them(store: Store) -> None:
    """Each pass under its own model and parameters, the first of two stages under its own prompt."""
    warm = Version("prompt", "other", "warm")
    version = Version("prompt", "model", "parameters", ((2, warm), (3, Version("strict", "strong", "cold"))))
    key, reply = text_key("item"), Reply("{}", "m", 1, 0, 1, 0.1)

    async def write() -> None:
        async with Ledger(store, version, "label", 1) as ledger:
            for number, label in ((1, KETTLES), (2, KNIVES), (3, HOSES)):
                said = [(key, number, Answer(label))]
                await ledger.write(Entry("ok", 1, None, reply, 0.1, said, number))
            begun = [(key, 1, Answer("Kitchen"))]
            await ledger.write(Entry("ok", 1, None, reply, 0.1, (), 1, begun, "first stage"))

    asyncio.run(write())

    def found(under: Version) -> list[tuple[int, str]]:
        kept = current_answers(store, under, columns=("key", "pass", "label"))
        return kept.select("pass", "label").sort("pass").rows()

    assert found(version) == [(1, KETTLES), (2, KNIVES), (3, HOSES)]
    assert found(VERSION) == [(1, KETTLES)]
    assert found(warm) == [(2, KNIVES)]
    assert found(version.under("first stage")) == [(1, "Kitchen")]
    assert found(Version("prompt", "model", "parameters", ((1, warm),))) == []
    models = store.read(select(schema.calls.c.model).order_by(schema.calls.c.id))["model"].to_list()
    assert models == ["model", "other", "strong", "model"]


def test_of_two_answers_the_later_one_counts(sqlite_store: Store) -> None:
    """Two of one item and pass are rare (a run that was killed between two databases' commits), and told apart."""

    async def write() -> None:
        async with Ledger(sqlite_store, VERSION, "label", 1) as ledger:
            for number, label in enumerate([KETTLES, KNIVES, HOSES, KNIVES]):
                said = [
                    (text_key(str(number % 2)), 1, Answer(label)),
                    (text_key(f"{number} alone"), 1, Answer(label)),
                ]
                await ledger.write(Entry("ok", 1, None, None, 0.1, said))

    asyncio.run(write())
    found = current_answers(sqlite_store, VERSION)
    assert found.height == 6
    labels = dict(found.select("key", "label").iter_rows())
    assert (labels[text_key("0")], labels[text_key("1")]) == (HOSES, KNIVES)


def test_what_is_missing_of_many_items_keeps_its_order() -> None:
    """All passes of an item together, however many items there are."""
    keys = pl.DataFrame({"item_id": range(60_000)}).with_columns(
        key=pl.Series([number.to_bytes(4, "big") for number in range(60_000)], dtype=pl.Binary)
    )
    answers = keys.filter(pl.col("item_id") % 3 == 0).select("key", pl.lit(2, pl.Int64).alias("pass"))
    left = missing(keys, answers, 2)
    assert left.select("item_id", "pass").rows() == [
        (number, one) for number in range(60_000) for one in (1, 2) if not (one == 2 and number % 3 == 0)
    ]
    assert left.columns == ["item_id", "key", "pass"]


async def _write(store: Store, count: int, time: FakeTime) -> None:
    async with Ledger(store, VERSION, "label", 1, sleep=time.sleep) as ledger:
        await asyncio.gather(*(ledger.write(_entry(number)) for number in range(count)))


def test_many_entries_share_a_transaction_and_a_call_may_carry_several_answers(sqlite_store: Store) -> None:
    store = Shaky(sqlite_store.engine, sqlite_store.shown_url)
    asyncio.run(_write(store, 200, FakeTime()))
    assert len(store.groups) <= 5
    assert current_answers(store, VERSION).height == 400
    assert store.scalar(select(func.count()).select_from(schema.call_answers)) == 400


def test_a_database_that_is_gone_for_a_moment_loses_nothing(sqlite_store: Store) -> None:
    time = FakeTime()
    store = Shaky(sqlite_store.engine, sqlite_store.shown_url, failures=[None] * 3)
    asyncio.run(_write(store, 5, time))
    assert time.slept == [0.5, 2.0, 5.0]
    assert current_answers(store, VERSION).height == 10


def test_a_database_that_stays_away_is_told_to_everybody_who_waits(sqlite_store: Store) -> None:
    store = Shaky(sqlite_store.engine, sqlite_store.shown_url, failures=[None] * 4)

    async def write() -> None:
        async with Ledger(store, VERSION, "label", 1, sleep=FakeTime().sleep) as ledger:
            said = await asyncio.gather(*(ledger.write(_entry(n)) for n in range(5)), return_exceptions=True)
            assert [type(one) for one in said] == [StoreError] * 5

    asyncio.run(write())


def test_a_writer_that_breaks_lets_nobody_wait_for_ever(sqlite_store: Store) -> None:
    """Also for a reason that nobody foresaw, such as a mistake in this program."""
    broken = Entry("ok", 1, None, None, 0.1, [(text_key("x"), 1, None)])  # type: ignore[list-item]

    async def write() -> None:
        async with Ledger(sqlite_store, VERSION, "label", 1) as ledger:
            waiting = [
                asyncio.ensure_future(ledger.write(entry)) for entry in [broken, *map(_entry, range(99))]
            ]
            await asyncio.wait(waiting)
            assert all(one.cancelled() for one in waiting)
            await ledger.write(_entry(1))

    with pytest.raises(AttributeError):
        asyncio.run(asyncio.wait_for(write(), 20))
