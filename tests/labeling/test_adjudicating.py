"""The adjudicator over real HTTP: asked once, blind, within the budget; its word stands above the teacher's."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl
import pytest
from sqlalchemy import func, select

from tasks.errors import FatalTeacherError
from tasks.labeling.adjudicating import PASS, STAGE, ask_adjudicator, decided_labels
from tasks.labeling.once import ask_once
from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.answers import candidates, first_pass_labels
from tasks.store.items import read_contents
from tasks.store.labels import append_labels, effective_labels
from tests.labeling.scripted import (
    COST_USD,
    HOSES,
    KETTLES,
    KNIVES,
    NO_KEYS,
    Said,
    ScriptedTeacher,
    fails,
    how,
    item_in,
    put_texts,
    says,
    taxonomy,
)

TEXTS = ["kettle one", "kettle two", "kettle three", "kettle four"]


def keys_of(texts: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"key": [text_key(text) for text in texts]}, schema={"key": pl.Binary})


def paid(store: Store) -> int:
    return int(store.scalar(select(func.count()).where(schema.calls.c.stage == STAGE)))


def test_its_word_counts_and_is_paid_for_once(store: Store) -> None:
    """A consensus is outranked, a person is neither asked about nor overruled, and a rerun asks nobody."""
    keys = put_texts(store, TEXTS)
    append_labels(store, [(keys[0], KNIVES, "consensus"), (keys[1], HOSES, "human")], 1)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as stronger:
        asked = ask_adjudicator(store, how(stronger.base_url), keys_of(TEXTS), None, 2)
        assert (asked.answered, asked.calls, stronger.requests) == (3, 3, 3)
        assert asked.cost_usd == pytest.approx(3 * COST_USD)
        assert {item_in(body) for body in stronger.bodies} == {TEXTS[0], TEXTS[2], TEXTS[3]}
        again = ask_adjudicator(store, how(stronger.base_url), keys_of(TEXTS), None, 3)
        assert (again.calls, stronger.requests, paid(store)) == (0, 3, 3)
    counted = {
        row["key"]: (row["label"], row["source"]) for row in effective_labels(store).iter_rows(named=True)
    }
    assert counted == dict.fromkeys((keys[0], keys[2], keys[3]), (KETTLES, "adjudicated")) | {
        keys[1]: (HOSES, "human")
    }
    assert decided_labels(store, keys_of(TEXTS[:2]), taxonomy()).sort("label").rows() == [
        (keys[1], HOSES),
        (keys[0], KETTLES),
    ]
    labels = schema.labels.c
    assert store.scalar(select(func.count()).where(labels.source == "adjudicated")) == 3


def test_it_sees_what_the_teacher_sees_and_is_never_taken_for_it(sqlite_store: Store) -> None:
    """The prompt tells nothing of what was said before; its answers are no pass of the teacher."""
    put_texts(sqlite_store, TEXTS[:1])
    with ScriptedTeacher(lambda _, number, __: says(KETTLES if number == PASS else KNIVES)) as both:
        contents = read_contents(sqlite_store)
        ask_once(sqlite_store, how(both.base_url), contents, "route", 2, 1)
        ask_adjudicator(sqlite_store, how(both.base_url), keys_of(TEXTS[:1]), None, 1)
        first, second = both.bodies
    assert [body["seed"] for body in (first, second)] == [1, PASS]
    assert KNIVES not in json.dumps(second["messages"][1:])
    assert first["messages"][-1]["content"] == second["messages"][-1]["content"]
    assert first_pass_labels(sqlite_store, keys_of(TEXTS)).rows() == [(text_key(TEXTS[0]), KNIVES)]
    assert candidates(sqlite_store, effective_labels(sqlite_store)).height == 0


def test_an_answer_that_is_none_decides_nothing(sqlite_store: Store) -> None:
    """The item stays open for a person, and the dead letter is not paid for again."""
    put_texts(sqlite_store, TEXTS[:2])
    with ScriptedTeacher(lambda text, *_: Said("what?") if text == TEXTS[0] else says(KETTLES)) as stronger:
        terms = how(stronger.base_url, max_attempts=2)
        asked = ask_adjudicator(sqlite_store, terms, keys_of(TEXTS), None, 1)
        assert (asked.answered, asked.invalid) == (1, 1)
        before = stronger.requests
        ask_adjudicator(sqlite_store, terms, keys_of(TEXTS), None, 2)
        assert stronger.requests == before
    assert effective_labels(sqlite_store)["key"].to_list() == [text_key(TEXTS[1])]


def test_the_budget_is_a_hard_stop_and_the_next_run_goes_on(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: says(KETTLES)) as stronger:
        terms = how(stronger.base_url, concurrency=1)
        asked = ask_adjudicator(sqlite_store, terms, keys_of(TEXTS), 0.004, 1)
        assert asked.stopped == "budget"
        assert asked.cost_usd <= 0.004
        assert 0 < asked.answered < len(TEXTS)
        assert effective_labels(sqlite_store).height == asked.answered
        rest = ask_adjudicator(sqlite_store, terms, keys_of(TEXTS), None, 2)
        assert rest.answered == len(TEXTS) - asked.answered
        assert stronger.requests == len(TEXTS)
    assert effective_labels(sqlite_store).height == len(TEXTS)


def test_a_wrong_key_fails_loudly(sqlite_store: Store) -> None:
    put_texts(sqlite_store, TEXTS)
    with ScriptedTeacher(lambda *_: fails(401)) as stronger, pytest.raises(FatalTeacherError):
        ask_adjudicator(sqlite_store, how(stronger.base_url), keys_of(TEXTS), None, 1)


def test_nothing_wanted_connects_to_nobody(sqlite_store: Store) -> None:
    assert ask_adjudicator(sqlite_store, how("http://127.0.0.1:9/v1"), NO_KEYS, None, 1).calls == 0
