"""Tables a range of keys at a time."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.labeling import key_ranges as module
from tasks.labeling.key_ranges import items_of, key_ranges
from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.items import append_items, read_contents


def _fill(store: Store, count: int) -> None:
    texts = [f"item {number}" for number in range(count)]
    frame = pl.DataFrame(
        {
            "key": [text_key(text) for text in texts],
            "source_id": texts,
            "text": texts,
            "image": pl.Series([None] * count, dtype=pl.Binary),
        }
    )
    append_items(store, frame, "source", 1)


def test_ranges_hold_every_key_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their number, no item is left out and none is in two of them."""
    _fill(store, 300)
    everything = sorted(read_contents(store)["key"].to_list())
    for rows_at_once in (1000, 100, 7):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
        parts = key_ranges(store, schema.items)
        assert len(parts) == -(-300 // rows_at_once)
        keys = [key for part in parts for key in items_of(store, part)["key"].to_list()]
        assert sorted(keys) == everything


def test_large_tables_are_read_in_fewer_ranges(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range reads the whole table, so their number falls as it grows, down to a floor."""
    _fill(store, 300)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    assert len(key_ranges(store, schema.items)) == 100
    monkeypatch.setattr(module, "READ_ROWS", 300 * 40)
    assert len(key_ranges(store, schema.items)) == 40
    monkeypatch.setattr(module, "READ_ROWS", 300)
    assert len(key_ranges(store, schema.items)) == module.LEAST_RANGES
