"""Synthetic examples in the database, of either kind: marked, whole, and real from the day they are met."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import SQLAlchemyError

from tasks.records import text_key
from tasks.store import Store
from tasks.store.items import append_items, count_items, read_contents
from tasks.store.labels import append_labels, effective_labels
from tasks.store.synthetic import append_synthetic, remember_state, remembered_state, synthetic_keys
from tasks.synthetic import SYNTHETIC
from tests.monitoring.filled import items_of

EXAMPLES = [("a jug that boils", "Kettles"), ("a blade for bread", "Knives")]


def test_an_example_is_an_item_and_its_label(store: Store) -> None:
    append_synthetic(store, EXAMPLES, 7)
    append_synthetic(store, [], 7)
    rows = read_contents(store).join(effective_labels(store), on="key")
    assert rows.select("text", "origin", "label", "source").rows() == [
        (text, SYNTHETIC, label, SYNTHETIC) for text, label in EXAMPLES
    ]
    assert rows["key"].to_list() == [text_key(text) for text, _ in EXAMPLES]
    assert count_items(store) == 0
    assert synthetic_keys(store).height == 2


def test_an_example_that_is_met_for_real_is_a_new_item(store: Store) -> None:
    """It keeps its place and its synthetic label until somebody labels it; others stay what they are."""
    append_synthetic(store, EXAMPLES, 1)
    assert (
        append_items(store, items_of(["a jug that boils", "a jug that boils", "a hose"]), "traffic", 2) == 2
    )
    contents = read_contents(store)
    assert contents.select("text", "origin", "source_id").rows()[::2] == [
        ("a jug that boils", "traffic", "a jug that boils"),
        ("a hose", "traffic", "a hose"),
    ]
    assert synthetic_keys(store)["key"].to_list() == [text_key("a blade for bread")]
    assert count_items(store) == 2
    append_labels(store, [(text_key("a jug that boils"), "Knives", "single")], 3)
    labels = dict(effective_labels(store).select("key", "label").iter_rows())
    assert labels[text_key("a jug that boils")] == "Knives"


def test_the_remembered_state_is_the_last_one(store: Store) -> None:
    assert remembered_state(store) is None
    for state in ("first", "second", "second"):
        remember_state(store, state)
    assert remembered_state(store) == "second"


def test_an_item_without_its_label_is_never_kept(sqlite_store: Store) -> None:
    """The label cannot be written, so neither is the item."""
    with sqlite_store.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_labels BEFORE INSERT ON labels BEGIN SELECT RAISE(ABORT, 'no labels today'); END"
        )
    with pytest.raises(SQLAlchemyError, match="no labels today"):
        append_synthetic(sqlite_store, EXAMPLES, 1)
    assert read_contents(sqlite_store).height == 0
