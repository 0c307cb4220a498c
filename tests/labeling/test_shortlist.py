"""The nearest labels are the nearest, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling import shortlist
from tasks.labeling.shortlist import label_texts, label_vectors, listed_labels, nearest, unit
from tests.labeling.scripted import taxonomy


def _random(rows: int, seed: int, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 25), st.integers(0, 99))
def test_they_are_those_with_the_largest_cosine_the_nearest_first(
    n: int, m: int, count: int, seed: int
) -> None:
    X, L = _random(n, seed), _random(m, seed + 1)
    found = nearest(X, L, count)
    assert found.shape == (n, min(count, m))
    scores = unit(X) @ unit(L).T
    expected = -np.sort(-scores, axis=1)[:, :count]
    assert np.allclose(np.take_along_axis(scores, found.astype(np.int64), axis=1), expected, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in found.tolist())


def test_blocks_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    X, L = _random(1000, 0), _random(50, 1)
    whole = nearest(X, L, 7)
    monkeypatch.setattr(shortlist, "SCORES_AT_ONCE", 333)
    assert np.array_equal(nearest(X, L, 7), whole)


def test_the_length_of_a_vector_does_not_count_and_of_equals_the_first_is_taken() -> None:
    X = np.array([[1, 0]], np.float32)
    L = np.array([[0, 9], [0.1, 0], [5, 0], [1, 1]], np.float32)
    assert nearest(X, L, 3).tolist() == [[1, 2, 3]]
    assert nearest(X, L[:0], 3).shape == (1, 0)
    assert nearest(np.zeros((1, 2), np.float32), L, 4).tolist() == [[0, 1, 2, 3]]


def test_a_label_moves_from_its_text_to_its_items_as_they_grow_in_number() -> None:
    text, item = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    towards_items = [
        float(label_vectors(text, np.repeat(item, n, axis=0), [0] * n)[0, 1]) for n in (0, 1, 3, 10, 1000)
    ]
    assert towards_items[0] == 0.0
    assert towards_items == sorted(towards_items)
    assert towards_items[2] == pytest.approx(0.5**0.5)
    assert towards_items[4] > 0.999


def test_labels_without_items_lie_where_their_texts_lie() -> None:
    L = _random(3, 0)
    moved = label_vectors(L, _random(2, 1), [1, 1])
    assert np.allclose(moved[[0, 2]], unit(L)[[0, 2]])
    assert not np.allclose(moved[1], unit(L)[1])
    assert np.allclose(np.linalg.norm(moved, axis=1), 1.0, atol=1e-6)


def test_what_fits_nothing_is_no_candidate_and_instructions_are_part_of_a_labels_text() -> None:
    assert "none of these" not in listed_labels(taxonomy())
    assert label_texts(taxonomy())[:2] == ["Kitchen > Kettles: to boil water in", "Kitchen > Knives"]
