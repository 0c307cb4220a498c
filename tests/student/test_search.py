"""The full search for a student: kept, good for some nights of many rows, and what those nights do instead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.cleaning import proposal
from tasks.cleaning.steps import clean_snapshot
from tasks.project import load_project
from tasks.store import open_store
from tasks.student import challenger, search
from tasks.student.linear import LinearHead
from tasks.student.many_rows import ALL_ROWS, MANY_ROWS
from tasks.student.mlp import MlpHead
from tasks.student.search import (
    DAY_SECONDS,
    JUDGE,
    JUDGE_FILE,
    SEARCH_FILE,
    Search,
    read_search,
    write_search,
)
from tasks.student.steps import take_snapshot
from tests.conftest import write_tiny_project
from tests.student.test_many_rows import many_clusters
from tests.student.test_retrain import _labelled, _names


def _rows(count: int, relabelled: int = 0) -> pl.DataFrame:
    """key, label, group: every item its own group, so many labels other than they were."""
    label = pl.when(pl.col("place") < relabelled).then(pl.lit("other")).otherwise(pl.lit("usual"))
    key = pl.col("place").cast(pl.String).cast(pl.Binary)
    frame = pl.DataFrame({"place": np.arange(count)})
    return frame.select(key.alias("key"), label.alias("label"), key.alias("group"))


FOUND = Search(
    1e9,
    "these settings",
    "mlp",
    {"linear": {"strength": 3.0}, "mlp": {"epochs": 4, "dropout": 0.5}},
    _rows(100_000).with_columns(pl.lit(1, pl.Int16).alias("fold")),
    {"linear": {0: {"weights": np.ones((3, 2), np.float32), "seen": np.array([0, 4])}}},
    {"judged": 5},
)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "search" / "student.safetensors"
    assert read_search(file) is None
    write_search(file, FOUND)
    found = read_search(file)
    assert found is not None
    plain = ("at", "made_with", "winner", "settings", "curve")
    assert all(getattr(found, name) == getattr(FOUND, name) for name in plain)
    assert found.learned.equals(FOUND.learned.select("key", "label", "fold"))
    assert np.array_equal(found.starts["linear"][0]["weights"], FOUND.starts["linear"][0]["weights"])
    file.write_bytes(file.read_bytes()[:40])
    assert read_search(file) is None, "a damaged file costs a search"


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True),
        ({"rows": _rows(119_000)}, True),
        ({"rows": _rows(121_000)}, False),
        ({"rows": _rows(79_000)}, False),
        ({"rows": _rows(100_000, relabelled=5_000)}, True),
        ({"rows": _rows(100_000, relabelled=5_001)}, False),
        ({"made_with": "another encoder"}, False),
        ({"now": 1e9 + 8 * DAY_SECONDS}, False),
        ({"now": 1e9 - 1}, False),
        ({"days": 0.0}, False),
    ],
)
def test_a_search_holds_for_like_rows_and_some_days(changed: dict[str, Any], holds: bool) -> None:
    asked: dict[str, Any] = {
        "rows": _rows(100_000),
        "made_with": "these settings",
        "days": 7.0,
        "now": 1e9 + DAY_SECONDS,
    }
    assert FOUND.holds(**asked | changed) is holds


def test_of_few_rows_every_night_searches() -> None:
    few = replace(FOUND, learned=FOUND.learned.head(search.SEARCH_EVERY_NIGHT_BELOW - 1))
    assert not few.holds(few.learned, few.made_with, 7.0, few.at)


def test_a_row_stays_in_its_fold_and_new_ones_go_with_their_group() -> None:
    """Even where an earlier item, labelled only now, names the group: nobody is judged by weights that learned it."""
    learned = pl.DataFrame({"key": [b"b", b"c"], "label": ["x", "x"], "fold": [3, 4]})
    found = replace(FOUND, learned=learned.with_columns(pl.col("fold").cast(pl.Int16)))
    rows = pl.DataFrame({"key": [b"a", b"b", b"c", b"d"], "group": [b"a", b"a", b"c", b"d"]})
    folds = found.folds(rows, np.array([0, 0, 1, 2], np.int16))
    assert folds.tolist() == [3, 3, 4, 2]
    assert found.in_folds(rows, folds)
    assert not found.in_folds(rows, np.array([0, 0, 4, 2], np.int16))
    assert found.gone(rows.head(2))["key"].to_list() == [b"c"]


def test_between_searches_the_winner_alone_is_trained_as_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first retrain compares all candidates; the next trains one of them with the same settings, judged anew."""
    for module in (search, challenger, proposal):
        monkeypatch.setattr(module, "SEARCH_EVERY_NIGHT_BELOW", 100)
    file = write_tiny_project(tmp_path / "conf", gold=None, student={"candidates": ["linear", "mlp"]})
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    _labelled(project, store)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    judge = read_search(project.root / JUDGE_FILE)
    assert judge is not None
    assert judge.settings[JUDGE]["strength"] == cleaned.strength
    made = challenger.make_challenger(project, store, cleaned, tmp_path / "encoders")
    first, kept = made.trained, made.search
    assert kept is not None
    write_search(project.root / SEARCH_FILE, kept)
    assert {candidate.name for candidate in first.candidates} >= {"linear", "mlp"}
    assert kept.winner == first.student.kind
    then = challenger.make_challenger(project, store, cleaned, tmp_path / "encoders")
    second = then.trained
    assert [candidate.name for candidate in second.candidates] == [kept.winner]
    assert then.search is None, "only a full search leaves weights for other nights"
    assert (then.before_cleaning, made.before_cleaning != {}) == ({}, True)
    assert "at the last full search" in then.report.limit.why["data"]
    asked = challenger.make_challenger(project, store, cleaned, tmp_path / "encoders", full=True).trained
    assert {candidate.name for candidate in asked.candidates} >= {"linear", "mlp"}
    before, after = (
        next(one for one in trained.candidates if one.name == kept.winner) for trained in (first, second)
    )
    assert after.loss < before.loss + 0.1
    other = load_project(
        write_tiny_project(
            tmp_path / "conf", gold=None, student={"candidates": ["linear", "mlp"], "folds": 4}
        )
    )
    third = challenger.make_challenger(other, store, cleaned, tmp_path / "encoders").trained
    assert len({candidate.name for candidate in third.candidates} - {"raw labels"}) == 2
    store.close()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_training_that_goes_on_needs_less_and_ends_where_it_would(kind: str) -> None:
    """From the weights of the night before, over a few more rows: the same accuracy out of fold."""
    X, y = many_clusters(MANY_ROWS + 2_000, 8)
    folds = (np.arange(len(y)) % 5).astype(np.int16)
    old = slice(0, MANY_ROWS)

    def head(starts: Any = None) -> Any:
        if kind == "linear":
            return LinearHead(3.0, starts=starts)
        return MlpHead(3, starts=starts)

    before = head()
    before.tune(X[old], y[old], folds[old], None, n_leaves=3, seed=0)
    before.fit(X[old], y[old], None, n_leaves=3, seed=0)
    cold, warm = head(), head(before.ends)
    P, Q = (one.tune(X, y, folds, None, n_leaves=3, seed=0) for one in (cold, warm))
    accuracy, further = ((found.argmax(axis=1) == y).mean() for found in (P, Q))
    assert further == pytest.approx(accuracy, abs=0.005)
    warm.fit(X, y, None, n_leaves=3, seed=0)
    assert (warm.predict_proba(X).argmax(axis=1) == y).mean() == pytest.approx(accuracy, abs=0.01)
    assert set(before.ends) == ({0, 1} if kind == "linear" else {0, 1, ALL_ROWS})
    json.dumps(warm.settings())


def test_other_folds_or_leaves_start_from_nothing() -> None:
    """Weights that were fitted outside other folds have seen the rows that are judged now."""
    X, y = many_clusters(600, 6)
    before = MlpHead(2)
    before.tune(X, y, (np.arange(600) % 2).astype(np.int16), None, n_leaves=3, seed=0)
    other = (np.arange(600) % 3).astype(np.int16)
    cold, warm = MlpHead(2), MlpHead(2, starts=before.ends)
    P, Q = (head.tune(X, y, other, None, n_leaves=3, seed=0) for head in (cold, warm))
    assert np.array_equal(P, Q)


def test_a_label_that_is_new_is_learned_as_without_old_weights() -> None:
    """Weights for other leaves are no start, and then all epochs are due, not the one that leads on from weights."""
    X, y = many_clusters(6_000, 8)
    folds = (np.arange(len(y)) % 5).astype(np.int16)
    old = y < 2
    before = MlpHead(4)
    before.tune(X[old], y[old], folds[old], None, n_leaves=3, seed=0)
    before.fit(X[old], y[old], None, n_leaves=3, seed=0)
    cold, warm = MlpHead(4), MlpHead(4, starts=before.ends)
    P, Q = (head.tune(X, y, folds, None, n_leaves=3, seed=0) for head in (cold, warm))
    assert np.array_equal(P, Q)
    cold, warm = (head.fit(X, y, None, n_leaves=3, seed=0) for head in (cold, warm))
    assert np.array_equal(cold.predict_proba(X), warm.predict_proba(X))
    assert warm.settings()["epochs"] == 4


def test_a_search_whose_rows_became_gold_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that learned an item may not judge it: the night on which it is gold compares all candidates."""
    for module in (search, challenger, proposal):
        monkeypatch.setattr(module, "SEARCH_EVERY_NIGHT_BELOW", 100)
    settings: dict[str, Any] = {"student": {"candidates": ["linear", "mlp"]}}
    file = write_tiny_project(tmp_path / "conf", gold=None, **settings)
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    _labelled(project, store)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    made = challenger.make_challenger(project, store, cleaned, tmp_path / "encoders")
    assert made.search is not None
    write_search(project.root / SEARCH_FILE, made.search)
    department, category = project.taxonomy.leaves[0].split(" > ")
    known = pl.DataFrame({"id": ["1", "2"], "name": _names(360, "item")[:2]})
    with_gold = load_project(write_tiny_project(tmp_path / "conf", **settings))
    known.with_columns(department=pl.lit(department), category=pl.lit(category)).write_parquet(
        file.parent / "gold.parquet"
    )
    cleaned = clean_snapshot.fn(with_gold, take_snapshot.fn(with_gold))
    again = challenger.make_challenger(with_gold, store, cleaned, tmp_path / "encoders")
    assert again.search is not None
    store.close()
