"""Gold that came after a version: what the version learned from may not judge it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.store import Store, open_store
from tasks.store.items import append_items
from tasks.student.seen_rows import name_of, not_learned

TEXTS = [f"wooden spoon number {place} for soup and stew, {word}" for place, word in enumerate("abcdefgh")]
TEXTS += ["a bicycle with two red wheels and a small brass bell on its bar"]


def _gold(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"key": [text_key(text) for text in texts], "text": texts}).with_columns(
        pl.lit("x").alias("label")
    )


@pytest.fixture
def trained(tiny_project: Callable[..., Path]) -> tuple[Project, Store]:
    """A project whose version 1 was trained on some texts, while two others were gold."""
    project = load_project(tiny_project())
    store = open_store(project.database_url, project.project)
    frame = _gold(TEXTS)
    items = frame.select(
        "key", pl.col("text").alias("source_id"), "text", pl.lit(None, pl.Binary).alias("image")
    )
    append_items(store, items, "source", 1)
    snapshot = project.root / "rows.parquet"
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    frame.select("key").write_parquet(snapshot)
    facts = {
        "trained_with": "{}" + name_of(_gold(["a cup", "a plate"])),
        "record": {"snapshot": {"path": str(snapshot)}},
    }
    (project.root / "retrains").mkdir()
    (project.root / "retrains" / "1.json").write_text(json.dumps(facts))
    return project, store


def test_items_it_was_trained_on_and_what_is_much_like_them_are_no_gold(
    trained: tuple[Project, Store],
) -> None:
    like = TEXTS[-1].replace("small brass bell", "small brass bells")
    gold = _gold(["a cup", TEXTS[0], like, "something else that nobody has ever seen here"])
    left = not_learned(*trained, "1", gold)
    assert left["text"].to_list() == ["a cup", "something else that nobody has ever seen here"]


def test_gold_as_it_was_in_training_is_not_looked_at_again(trained: tuple[Project, Store]) -> None:
    """Training itself left out what is like it; a version whose facts are gone keeps all, too."""
    gold = _gold(["a plate", "a cup"])
    assert not_learned(*trained, "1", gold).equals(gold)
    more = _gold([TEXTS[0]])
    assert not_learned(*trained, "7", more).equals(more)
