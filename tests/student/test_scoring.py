"""The fast way from vectors to answers says what the slow way says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.embedding.encoders import EncoderSettings
from tasks.student.ensemble import EnsembleHead
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead
from tasks.student.neighbours import GROUP, nearest
from tasks.student.package import Student, decode_answers
from tasks.student.scoring import BATCH_ROWS, NEAR, scorer_of
from tasks.taxonomy import Taxonomy

ENCODER = EncoderSettings("hash:8")
DIMENSION = 8


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    """One to three levels, up to twelve leaves in any order, branches that end early, siblings apart."""
    depth = draw(st.integers(1, 3))
    name = st.sampled_from("abcd")
    paths = draw(
        st.lists(st.lists(name, min_size=1, max_size=depth), min_size=1, max_size=12, unique_by=tuple)
    )
    inner = {tuple(path[:cut]) for path in paths for cut in range(1, len(path))}
    leaves = [path for path in paths if tuple(path) not in inner]
    levels = tuple(f"l{level}" for level in range(1, depth + 1))
    return Taxonomy(levels, tuple(" > ".join(path) for path in leaves), {})


@st.composite
def heads(draw: st.DrawFn, leaves: int, alike: bool = False) -> Any:
    """A linear or MLP head over some of the leaves; `alike` gives all of them the same few scores."""
    seen = np.array(sorted(draw(st.sets(st.integers(0, leaves - 1), min_size=1, max_size=leaves))))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    scale = draw(st.sampled_from((0.3, 3.0, 30.0)))
    columns = rng.integers(0, 2, len(seen)) if alike else np.arange(len(seen))

    def weights(rows: int) -> np.ndarray:
        return (scale * rng.normal(size=(rows, len(seen) + 1))[:, columns]).astype(np.float32)

    if draw(st.booleans()):
        head: Any = LinearHead(1.0)
        head.weights = weights(DIMENSION + 1)
    else:
        head = MlpHead(1)
        head.weights = {
            "hidden": rng.normal(size=(DIMENSION, 5)).astype(np.float32),
            "hidden_bias": rng.normal(size=5).astype(np.float32),
            "out": weights(5),
            "out_bias": weights(1)[0],
        }
    head.seen, head.n_leaves = seen, leaves
    head.temperature = draw(st.sampled_from((0.05, 0.6, 1.0, 1.7, 9.0)))
    if draw(st.booleans()):
        return head
    if isinstance(head, LinearHead):
        ensemble = EnsembleHead(share=0.0)
        ensemble.linear, ensemble.temperature = head, draw(st.sampled_from((0.8, 1.3)))
        return ensemble
    return head


def vectors(seed: int, rows: int) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(rows, DIMENSION))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@given(st.data(), taxonomies(), st.booleans())
def test_labels_are_the_same_and_confidences_to_a_millionth(
    data: st.DataObject, taxonomy: Taxonomy, alike: bool
) -> None:
    """Any head, tree, temperature and number of rows, equal scores and leaves that training never saw included."""
    head = data.draw(heads(len(taxonomy.leaves), alike))
    temperature = data.draw(st.sampled_from((0.2, 0.7, 1.0, 2.5, 12.0)))
    student = Student(taxonomy, head, "any", "text", ENCODER, temperature)
    X = vectors(data.draw(st.integers(0, 99)), data.draw(st.sampled_from((0, 1, 7, 40))))
    slow = decode_answers(student.probabilities(X), taxonomy, student.levels)
    fast = student.answers(X)
    assert fast.labels == slow.labels
    assert fast.leaf.tolist() == slow.leaf.tolist()
    assert fast.leaf.dtype == slow.leaf.dtype
    assert fast.confidences.dtype == slow.confidences.dtype == np.float32
    np.testing.assert_allclose(fast.confidences, slow.confidences, rtol=0, atol=1e-6)
    assert (np.diff(fast.confidences, axis=1) <= 0).all()
    assert ((fast.confidences >= 0) & (fast.confidences <= 1)).all()


TREE = Taxonomy(("l1", "l2"), tuple(f"{leaf // 4} > {leaf}" for leaf in range(20)), {})


def a_head(temperature: float = 1.0) -> LinearHead:
    head = LinearHead(1.0)
    head.weights = np.random.default_rng(3).normal(size=(DIMENSION + 1, 20)).astype(np.float32)
    head.seen, head.n_leaves, head.temperature = np.arange(20), 20, temperature
    return head


def test_many_rows_are_many_batches() -> None:
    """More rows than a batch holds, and a last batch that is not full, answer in their order."""
    student = Student(TREE, a_head(), "linear", "text", ENCODER)
    X = vectors(1, 2 * BATCH_ROWS + 5)
    slow = decode_answers(student.probabilities(X), TREE, student.levels)
    fast = student.answers(X)
    assert fast.labels == slow.labels
    np.testing.assert_allclose(fast.confidences, slow.confidences, rtol=0, atol=1e-6)


def test_the_slow_way_decides_where_rounding_could() -> None:
    """Two leaves closer than `NEAR`: the slow way is asked, and about such rows alone."""
    head = a_head()
    head.weights[:, 7] = head.weights[:, 2]  # leaves of two branches, always equal
    student = Student(TREE, head, "linear", "text", ENCODER)
    scorer = scorer_of(head, 1.0, student.levels)
    assert scorer is not None
    asked: list[int] = []

    def slowly(X: np.ndarray) -> np.ndarray:
        asked.append(len(X))
        return student.probabilities(X)

    scorer._slowly = slowly
    X = vectors(4, 500)
    leaf, _ = scorer.score(X)
    slow = decode_answers(student.probabilities(X), TREE, student.levels)
    assert leaf.tolist() == slow.leaf.tolist()
    top_two = np.sort(student.probabilities(X), axis=1)[:, -2:]
    tied = int((top_two[:, 1] - top_two[:, 0] < NEAR).sum())
    assert tied <= sum(asked) < 250


def test_what_cannot_be_folded_is_left_to_the_head() -> None:
    """Neighbours, and temperatures that single precision cannot take at once."""
    levels = Student(TREE, a_head(), "linear", "text", ENCODER).levels
    assert scorer_of(a_head(), 1.0, levels)
    for head, temperature in ((a_head(), 5.0), (a_head(0.1), 1.0), (a_head(0.1), 5.0), (a_head(5.0), 0.5)):
        folded = scorer_of(head, temperature, levels)
        assert (folded is not None) == (0.25 <= temperature * head.temperature <= 4 and temperature <= 4)
    ensemble = EnsembleHead(share=0.3)
    ensemble.linear = a_head()
    assert scorer_of(ensemble, 1.0, levels) is None


def test_another_temperature_is_another_answer() -> None:
    """A copy of a student with a new temperature does not score at the old one."""
    student = Student(TREE, a_head(), "linear", "text", ENCODER)
    X = vectors(2, 30)
    before = student.answers(X).confidence
    assert (replace(student, temperature=0.5).answers(X).confidence > before + 1e-3).any()


@pytest.mark.parametrize("rows", [3, 200, 64 * GROUP, 64 * GROUP + 17])
@pytest.mark.parametrize("k", [1, 5, 15])
def test_the_nearest_are_the_nearest(rows: int, k: int) -> None:
    """However many rows there are to search: as sorting all of them finds, the most similar first."""
    X, reference = vectors(5, 20), vectors(6, rows)
    similarity, index = nearest(X, reference, k)
    all_of_them = X @ reference.T
    order = np.argsort(-all_of_them, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(similarity, np.take_along_axis(all_of_them, order, axis=1), rtol=0, atol=1e-6)


def test_equal_neighbours_fill_their_places_once() -> None:
    """A reference of repeated rows: k different ones, none left out that is nearer than one that is in."""
    reference = np.repeat(vectors(7, 40), 3 * GROUP, axis=0)
    X = vectors(8, 10)
    similarity, index = nearest(X, reference, 9)
    assert all(len(set(row)) == 9 for row in index.tolist())
    best = np.sort(X @ reference.T, axis=1)[:, ::-1][:, :9]
    np.testing.assert_allclose(similarity, best, rtol=0, atol=1e-6)
