"""Answers that were paid for when a run was killed, before they became labels: the next question makes them labels."""

from __future__ import annotations

import polars as pl

from tasks.labeling.once import ask_once
from tasks.records import text_key
from tasks.store import Store
from tasks.store.labels import append_labels, effective_labels
from tests.labeling.scripted import KETTLES, KNIVES, ScriptedTeacher, how, put_texts, says

TEXTS = [f"product {number}" for number in range(4)]


def test_what_a_killed_run_paid_for_becomes_a_label(sqlite_store: Store) -> None:
    """Nothing is asked again; an item that a person labelled meanwhile, or that has its label, gets no other row."""
    keys = put_texts(sqlite_store, TEXTS)
    contents = pl.DataFrame(
        {"key": keys, "text": TEXTS, "image": None},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with ScriptedTeacher(lambda *_: says(KETTLES)) as teacher:
        asked = how(teacher.base_url)
        # As a kill between the last answer and the labels leaves it.
        ask_once(sqlite_store, asked, contents, "route", 2, 1, write_labels=False)
        assert effective_labels(sqlite_store).height == 0
        append_labels(sqlite_store, [(text_key(TEXTS[0]), KNIVES, "human")], run_id=2)
        for _ in range(2):
            ask_once(sqlite_store, asked, contents, "route", 2, 3)
        assert teacher.requests == len(TEXTS)
    said = effective_labels(sqlite_store).select("key", "label", "source")
    assert sorted(said.rows()) == sorted(
        [(keys[0], KNIVES, "human"), *((key, KETTLES, "single") for key in keys[1:])]
    )
