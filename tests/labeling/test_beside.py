"""What stands beside an item is worked out for all that is due at once, out of the database and the cache."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl

from tasks.embedding.encoders import EncoderSettings
from tasks.labeling.beside import bringing
from tasks.labeling.requests import Item, Request
from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.labels import append_labels
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, put_texts, taxonomy

ENCODER = EncoderSettings("hash:64")
NO_GOLD = pl.DataFrame(schema={"key": pl.Binary, "text": pl.String})


def _due(*texts: str) -> pl.DataFrame:
    keys = [text_key(text) for text in texts]
    passes = [1] * len(keys) + [2] * len(keys)
    return pl.DataFrame({"key": keys * 2, "pass": passes}, schema={"key": pl.Binary, "pass": pl.Int64})


def _brought(
    store: Store,
    folder: Path,
    due: pl.DataFrame,
    text: str,
    shortlist: int | None = None,
    examples: int = 0,
    gold: pl.DataFrame = NO_GOLD,
) -> Item:
    bring = bringing(store, taxonomy(), ENCODER, folder, gold, shortlist, examples, 30.0)
    request = bring(due)(Request((Item(text_key(text), text), Item(b"?" * 16, "not due")), 2, "Kitchen"))
    assert (request.pass_number, request.branch) == (2, "Kitchen")
    assert request.items[1] == Item(b"?" * 16, "not due")
    assert (request.items[0].key, request.items[0].content) == (text_key(text), text)
    return request.items[0]


def test_an_item_brings_the_labels_that_are_nearest(store: Store, tmp_path: Path) -> None:
    put_texts(store, ["kitchen knives", "garden hoses"])
    due = _due("kitchen knives", "garden hoses")
    item = _brought(store, tmp_path, due, "kitchen knives", shortlist=2)
    assert item.candidates[0] == KNIVES
    assert len(item.candidates) == 2
    assert _brought(store, tmp_path, due, "garden hoses", shortlist=1).candidates == (HOSES,)
    assert item.examples == ()


def test_labelled_items_say_where_a_label_lies_and_gold_does_not(store: Store, tmp_path: Path) -> None:
    """The word in question stands in no label: only what was labelled before tells what it is."""
    keys = put_texts(store, ["samovar", "samovar one", "samovar two", "samovar three"])
    due = _due("samovar")
    before = _brought(store, tmp_path, due, "samovar", shortlist=1).candidates
    assert before != (KETTLES,)
    append_labels(store, [(key, KETTLES, "consensus") for key in keys[1:]], 1)
    assert _brought(store, tmp_path, due, "samovar", shortlist=1).candidates == (KETTLES,)
    gold = pl.DataFrame({"key": keys[1:], "text": ["samovar one", "samovar two", "samovar three"]})
    assert _brought(store, tmp_path, due, "samovar", shortlist=1, gold=gold).candidates == before


def test_a_shortlist_as_long_as_the_taxonomy_is_none(store: Store, tmp_path: Path) -> None:
    put_texts(store, ["kitchen knives"])
    assert _brought(store, tmp_path, _due("kitchen knives"), "kitchen knives", shortlist=5).candidates == ()
    assert (
        len(_brought(store, tmp_path, _due("kitchen knives"), "kitchen knives", shortlist=4).candidates) == 4
    )


def test_reviewed_items_and_escalations_are_examples_and_nothing_else_is(
    store: Store, tmp_path: Path
) -> None:
    texts = ["steel kettle", "iron kettle", "kettle of glass", "kettle of tin", "copper kettle for tea"]
    keys = put_texts(store, [*texts, "a kettle of enamel"])
    append_labels(
        store,
        [
            (keys[0], KETTLES, "human"),
            (keys[1], KETTLES, "consensus"),
            (keys[2], KETTLES, "consensus"),
            (keys[3], KETTLES, "single"),
            (keys[4], KETTLES, "adjudicated"),
        ],
        1,
    )
    _route(store, keys[2], "teacher")
    _route(store, keys[1], "student")
    due = _due("a kettle of enamel")
    shown = _brought(store, tmp_path, due, "a kettle of enamel", examples=2).examples
    assert {text for text, _ in shown} <= {texts[0], texts[2], texts[4]}
    assert len(shown) == 2
    gold = pl.DataFrame({"key": [keys[0], keys[4]], "text": [texts[0], texts[4]]})
    assert _brought(store, tmp_path, due, "a kettle of enamel", examples=3, gold=gold).examples == (
        (texts[2], KETTLES),
    )


def test_an_audited_item_is_no_example_while_it_judges_the_student(store: Store, tmp_path: Path) -> None:
    keys = put_texts(store, ["steel kettle", "a kettle of enamel"])
    append_labels(store, [(keys[0], KETTLES, "human")], 1)
    due = _due("a kettle of enamel")
    assert _brought(store, tmp_path, due, "a kettle of enamel", examples=1).examples
    _route(store, keys[0], "student", audited=True)
    assert _brought(store, tmp_path, due, "a kettle of enamel", examples=1).examples == ()


def test_items_that_are_not_stored_come_with_their_texts(store: Store, tmp_path: Path) -> None:
    """Gold, which the teacher is measured on."""
    due = pl.DataFrame({"key": [text_key("kitchen knives")], "text": ["kitchen knives"]})
    assert _brought(store, tmp_path, due, "kitchen knives", shortlist=1).candidates == (KNIVES,)


def test_nothing_due_is_nothing_to_work_out(store: Store, tmp_path: Path) -> None:
    item = _brought(store, tmp_path, _due(), "kitchen knives", shortlist=1, examples=1)
    assert (item.candidates, item.examples) == ((), ())


def _route(store: Store, key: bytes, tier: str, audited: bool = False) -> None:
    row = {
        "request_id": key[::-1] if audited else key,
        "row_id": key,
        "key": key,
        "source_id": "1",
        "tier": tier,
        "would_tier": tier,
        "audited": audited,
        "audit_probability": 0.1,
        "audit_owed": False,
        "latency_seconds": 0.0,
        "cost_usd": 0.0,
        "at": time.time(),
    }
    store.append(schema.traffic, [row])
