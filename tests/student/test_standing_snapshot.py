"""The newest snapshot is handed out again while nothing that it depends on has changed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tasks.project import load_project
from tasks.records import text_key
from tasks.sources import read_gold
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.student.standing_snapshot import standing_snapshot, state_of
from tasks.student.steps import take_snapshot
from tests.conftest import write_tiny_project
from tests.student.test_retrain import LEAVES, _audited, _labelled, items_of


@pytest.mark.parametrize("change", ["label", "item and label", "audit", "share"])
def test_any_change_freezes_anew_and_no_change_does_not(tmp_path: Path, change: str) -> None:
    """The second snapshot is the first one, without a row being read; after a change it is another or made anew."""
    project = load_project(write_tiny_project(tmp_path / "conf", gold=None))
    store = open_store(project.database_url, project.project)
    _labelled(project, store)
    first, gold = take_snapshot.fn(project), read_gold(project)
    state = state_of(project, store, gold)
    assert standing_snapshot(project.root, state) == first
    assert take_snapshot.fn(project) == first
    if change == "label":
        append_labels(store, [(pl.read_parquet(first.path)["key"][0], LEAVES[5], "human")], 2)
    elif change == "item and label":
        append_items(store, items_of(["one more kettle"]), "source", 2)
        append_labels(store, [(text_key("one more kettle"), LEAVES[0], "human")], 2)
    elif change == "audit":
        _audited(store, 0, 5)
    else:
        share = {"synthesis": {"most_share": 0.25}}
        project = load_project(write_tiny_project(tmp_path / "conf", gold=None, labeling=share))
    now = state_of(project, store, gold)
    assert now != state
    assert standing_snapshot(project.root, now) is None
    second = take_snapshot.fn(project)
    assert (second.fingerprint == first.fingerprint) is (change in ("audit", "share"))
    Path(second.path).unlink()
    assert standing_snapshot(project.root, now) is None, "the rows themselves are gone"
    assert take_snapshot.fn(project) == second
    store.close()
