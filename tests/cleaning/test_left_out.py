"""What is learned while a part is judged owes nothing to what that part's rows were labelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.cleaning.left_out import lessons_by_part
from tasks.cleaning.proposal import propose_labels
from tasks.cleaning.treatment import Treated
from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.student.steps import take_snapshot
from tasks.student.training_inputs import training_inputs
from tests.cleaning.test_suspects_for_review import LEAVES, TEXTS, WRONG
from tests.monitoring.filled import items_of


def treated(labels: np.ndarray) -> Treated:
    n = len(labels)
    return Treated(labels, np.zeros(n, bool), np.ones(n, np.float32), np.full(n, -1), np.zeros(n, bool))


def test_rows_that_nobody_is_left_to_judge_are_learned_as_they_were_given() -> None:
    """The others are treated without the part, and only what differs is kept."""
    given, cleaned = np.zeros(6, np.int64), np.array([0, 1, 0, 0, 0, 1])
    parts, halves = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 0, 0])
    asked: list[list[int]] = []

    def again(kept: np.ndarray) -> Treated:
        asked.append(np.flatnonzero(kept).tolist())
        return treated(np.where(np.arange(6) == 2, 1, cleaned)[kept])

    found = lessons_by_part(treated(cleaned), given, parts, halves, again)
    assert asked == [[2, 3, 4, 5], [0, 1, 2, 3]]
    rows = zip(found.parts.tolist(), found.rows.tolist(), found.labels.tolist(), strict=True)
    assert sorted(rows) == [(0, 2, 1), (1, 1, 0), (1, 5, 0), (2, 2, 1)]
    assert np.array_equal(found.part_of, parts)


def project_of(
    tiny_project: Callable[..., Path], place: Path, mode: str, said: dict[str, str], gold: str | None = None
) -> Project:
    file = tiny_project(place, gold=gold, cleaning={"cap": 1.0, "mode": mode}, encoder={"model": "hash:256"})
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    append_items(store, items_of(list(said)), "source", 1)
    append_labels(store, [(text_key(text), label, "single") for text, label in said.items()], 1)
    store.close()
    return project


@pytest.mark.parametrize("mode", ["relabel", "drop", "reweight"])
def test_what_judges_a_part_learns_the_same_whatever_that_part_was_labelled(
    tiny_project: Callable[..., Path], tmp_path: Path, mode: str
) -> None:
    """With labels of one part changed, its lesson stays to the last row; what others learn does not."""
    lessons, labels = [], []
    said = {text: WRONG.get(text, label) for text, label in TEXTS.items()}
    changed: set[str] = set()
    for turn in ("before", "after"):
        if changed:
            said = {text: LEAVES[0] if text in changed else label for text, label in said.items()}
        project = project_of(tiny_project, tmp_path / turn, mode, said)
        store = open_store(project.database_url, project.project)
        cleaned = propose_labels(project, take_snapshot.fn(project))
        rows = training_inputs(project, store, cleaned, pl.DataFrame({"key": [], "text": []})).training
        store.close()
        assert rows.apart is not None
        part = int(rows.apart.part_of[0])
        keys = pl.read_parquet(cleaned.snapshot.path)["key"].to_list()
        inside = {key for key, of in zip(keys, rows.apart.part_of.tolist(), strict=False) if of == part}
        changed = {text for text in list(said)[::3] if text_key(text) in inside}
        outside = rows.apart.part_of != part
        assert 0 < outside.sum() < len(outside)
        lessons.append(rows.apart.lesson(part))
        labels.append(replace(rows, apart=None).labels[outside])
    for before, after in zip(*lessons, strict=True):
        np.testing.assert_array_equal(before, after)
    if mode == "relabel":
        assert not np.array_equal(*labels)


@pytest.mark.parametrize(("copies", "certifies"), [(1, False), (3, True)])
def test_where_gold_certifies_rows_are_cleaned_once(
    tiny_project: Callable[..., Path], tmp_path: Path, copies: int, certifies: bool
) -> None:
    """No certificate rests on training rows then: nothing is said of parts."""
    golden = [
        (f"{text} number {n}", label.split(" > ")) for text, label in TEXTS.items() for n in range(copies)
    ]
    rows = [{"id": text, "name": text, "department": a, "category": b} for text, (a, b) in golden]
    pl.DataFrame(rows).write_parquet(tmp_path / "gold.parquet")
    project = project_of(tiny_project, tmp_path / "p", "relabel", TEXTS, str(tmp_path / "gold.parquet"))
    cleaned = propose_labels(project, take_snapshot.fn(project))
    assert (pl.read_parquet(cleaned.path)["part"].null_count() > 0) is certifies
