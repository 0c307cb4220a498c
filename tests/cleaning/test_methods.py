"""The other ways to find wrong labels: the first recipe, and cleanlab itself."""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning.confident_learning import label_issues, relabel_issues
from tasks.cleaning.crossfitted import Method, clean_rows
from tasks.cleaning.resubstitution import overwrite_above
from tasks.errors import TrainingError
from tasks.student.levels import Levels
from tests.cleaning.test_relabel import TREE, judged

NOBODY = np.zeros(1500, bool)
METHODS: tuple[Method, ...] = get_args(Method)


def blobs(n: int = 240, wrong: float = 0.15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around four centres, true labels, and labels of which some are wrong."""
    rng = np.random.default_rng(0)
    true = np.arange(n) % 4
    X = np.eye(8)[true] + 0.25 * rng.normal(size=(n, 8))
    y = np.where(rng.random(n) < wrong, (true + 1) % 4, true)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), true, y


def test_cleanlab_finds_wrong_labels_and_the_likeliest_other_one_replaces_them() -> None:
    true, y, P, _ = judged(1500, 0.2)
    issues = label_issues(y, P)
    assert (y != true)[issues].mean() > 0.7
    result = relabel_issues(y, P, TREE, NOBODY, max_loss=1.0)
    assert np.array_equal(result.overwritten, issues)
    assert (result.labels != true).mean() < 0.5 * (y != true).mean()
    locked = issues & (np.arange(1500) % 2 == 0)
    spared = relabel_issues(y, P, TREE, locked, max_loss=0.1)
    assert not spared.overwritten[locked].any()
    assert all(spared.overwritten[y == leaf].sum() <= 0.1 * (y == leaf).sum() for leaf in range(4))
    assert spared.held_back.any()


def test_labels_that_nobody_bears_and_a_single_label_do_not_stop_cleanlab() -> None:
    _, y, P, _ = judged(300, 0.2)
    y, wide = np.minimum(y, 2), np.pad(P, ((0, 0), (0, 3)))
    assert label_issues(y, wide).shape == (300,)
    assert not label_issues(np.zeros(300, int), wide).any()


def test_without_cleanlab_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(TrainingError, match=r"pip install llm-flywheel\[cleanlab\]"):
        label_issues(np.array([0, 1]), np.eye(2))


@settings(deadline=None)
@given(st.integers(0, 50), st.floats(0.3, 0.95), st.floats(0, 1))
def test_the_first_recipe_overwrites_exactly_what_is_above_its_confidence(
    seed: int, confidence: float, cap: float
) -> None:
    """People's labels stay, no label loses more than its share, and with a cap of 1 nothing else holds it back."""
    _, y, P, _ = judged(200, 0.3, seed)
    people = np.arange(200) % 5 == 0
    free = overwrite_above(y, P, P, TREE, people, confidence, 1.0)
    above = ~people & (P.argmax(axis=1) != y) & (P.max(axis=1) >= confidence)
    assert np.array_equal(free.overwritten, above)
    assert np.array_equal(free.labels, np.where(above, P.argmax(axis=1), y))
    capped = overwrite_above(y, P, P, TREE, people, confidence, cap)
    assert np.array_equal(capped.overwritten | capped.held_back, above)
    for leaf in range(4):
        assert capped.overwritten[y == leaf].sum() <= cap * (y == leaf).sum() + 1e-9


def test_judging_rows_by_a_model_that_saw_them_finds_fewer_wrong_labels() -> None:
    """All methods on the same rows: what never saw the label contradicts more of the wrong ones."""
    X, true, y = blobs()
    none, levels = np.zeros(len(y), bool), Levels.flat(4)
    folds, nobody = (np.arange(len(y)) % 5).astype(np.int16), np.full((len(y), 1), -1)
    found = {}
    for method in METHODS:
        result, strength = clean_rows(
            X, y, np.ones(len(y), np.float32), nobody, folds, none, none, levels, 1.0, method=method
        )
        assert strength > 0
        found[method] = int(((y != true) & (result.labels == true)).sum())
    assert found["cross_fitted"] > found["resubstitution"]
    assert found["cleanlab"] > found["resubstitution"]


def test_the_first_recipe_overwrites_what_passes_agreed_on_but_not_people() -> None:
    """Only it does: where passes agree, cross-fitted evidence is not asked."""
    X, _, y = blobs()
    everybody, nobody = np.ones(len(y), bool), np.zeros(len(y), bool)
    rest = (np.ones(len(y), np.float32), np.full((len(y), 1), -1), (np.arange(len(y)) % 5).astype(np.int16))
    cases: tuple[tuple[Method, np.ndarray, np.ndarray, bool], ...] = (
        ("resubstitution", nobody, everybody, True),
        ("resubstitution", everybody, nobody, False),
        ("cross_fitted", nobody, everybody, False),
        ("cleanlab", nobody, everybody, False),
    )
    for method, people, agreed, changes in cases:
        result, _ = clean_rows(
            X, y, *rest, people, agreed, Levels.flat(4), 1.0, method=method, confidence=0.5
        )
        assert result.overwritten.any() == changes, method
