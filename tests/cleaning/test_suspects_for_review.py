"""What cleaning keeps back is for a person: the label the held-out student prefers stands in the review queue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.cleaning.steps import clean_snapshot
from tasks.labeling.contradictions import confident_contradictions
from tasks.labeling.steps import export_for_review
from tasks.project import load_project
from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.synthetic import append_synthetic
from tasks.student.steps import take_snapshot
from tests.conftest import TINY_LEAVES
from tests.monitoring.filled import items_of

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]
TEXTS = {
    f"{noun} {word} {size}": " > ".join(leaf)
    for leaf, nouns in TINY_LEAVES.items()
    for noun in nouns
    for word in ("classic", "compact", "deluxe")
    for size in ("small", "large")
}
WRONG = {text: LEAVES[(LEAVES.index(label) + 1) % 6] for text, label in list(TEXTS.items())[::5]}


@pytest.mark.parametrize("cap", [0.0, 1.0])
def test_what_the_cap_holds_back_reaches_the_review_queue(
    tiny_project: Callable[..., Path], tmp_path: Path, cap: float
) -> None:
    """No label may lose anything: every confident contradiction awaits a person, with the label preferred instead.

    With room for all of them they are overwritten, and stand in the queue as such.
    """
    project = load_project(tiny_project(gold=None, cleaning={"cap": cap}, encoder={"model": "hash:256"}))
    store = open_store(project.database_url, project.project)
    append_items(store, items_of(list(TEXTS)), "source", 1)
    append_labels(store, [(text_key(text), WRONG.get(text, TEXTS[text]), "single") for text in TEXTS], 1)
    append_synthetic(store, [("a written kettle", LEAVES[0])], 1)

    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    assert cleaned.margin < 1.0
    frame = pl.read_parquet(cleaned.path)
    held_back, written = frame.filter("suspect"), frame.filter(pl.col("key") == text_key("a written kettle"))
    assert written.select("overwritten", "suspect", "favourite").rows() == [(False, False, None)]
    assert not held_back["overwritten"].any()
    assert (held_back["favourite"] != held_back["label"]).all()
    assert frame["confidence"].drop_nulls().is_between(0.0, 1.0).all()
    found = frame.filter("overwritten") if cap else held_back
    assert (held_back.height > 0) is (cap == 0.0)
    right = dict(zip(map(text_key, TEXTS), TEXTS.values(), strict=True))
    assert sum(right[key] == label for key, label in found.select("key", "favourite").iter_rows()) >= 20

    doubts = confident_contradictions(project.root)
    assert doubts["student_confidence"].null_count() == 0
    assert doubts["student_confidence"].is_sorted(descending=True)
    preferred = dict(doubts.select("key", "student_label").iter_rows())
    assert preferred == dict(found.select("key", "favourite").iter_rows())
    export_for_review(project, tmp_path / "review.csv")
    rows = pl.read_csv(tmp_path / "review.csv")
    assert set(rows["why"]) == {"student contradicts the label"}
    assert {text_key(text) for text in rows["text"]} == set(preferred)
    store.close()
