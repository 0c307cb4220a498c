import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import TrainingError
from tasks.student.levels import Levels, decode, marginals


@st.composite
def trees(draw: st.DrawFn) -> Levels:
    """Three levels: leaves under middle nodes under upper nodes, numbered in shuffled order."""
    parents = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    drawn = draw(st.lists(st.integers(0, len(parents) - 1), min_size=1, max_size=12))
    middle = np.unique(np.asarray(drawn), return_inverse=True)[1]
    upper = np.unique(np.asarray(parents)[: middle.max() + 1], return_inverse=True)[1][middle]
    leaf = np.asarray(draw(st.permutations(range(len(middle)))))
    maps = tuple(nodes.astype(np.int32) for nodes in (upper, middle, leaf))
    return Levels(("l1", "l2", "l3"), maps, tuple(int(nodes.max()) + 1 for nodes in maps))


def distribution(levels: Levels, seed: int, n: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(levels.n_leaves, 0.3), n).astype(np.float32)


@given(trees(), st.integers(0, 99))
def test_levels_never_contradict_each_other(levels: Levels, seed: int) -> None:
    """The nodes of an answer lie on the path of its leaf, and no level is surer than the one above it."""
    answers = decode(distribution(levels, seed), levels)
    for depth, nodes in enumerate(levels.maps):
        assert np.array_equal(answers.nodes[:, depth], nodes[answers.leaf])
    assert np.all(np.diff(answers.confidences, axis=1) <= 0)
    assert answers.confidences.min() >= 0
    assert answers.confidences.max() <= 1


@given(trees(), st.integers(0, 99))
def test_marginals_sum_the_leaves_below(levels: Levels, seed: int) -> None:
    P = distribution(levels, seed)
    for nodes, size, marginal in zip(levels.maps, levels.sizes, marginals(P, levels), strict=True):
        assert marginal.shape == (len(P), size)
        for node in range(size):
            np.testing.assert_allclose(marginal[:, node], P[:, nodes == node].sum(axis=1), atol=1e-6)


def test_the_first_level_decides_before_the_leaves() -> None:
    """Two mediocre leaves under one parent beat the single best leaf under another."""
    maps = np.array([0, 1, 1], np.int32), np.array([0, 1, 2], np.int32)
    levels = Levels(("l1", "l2"), maps, (2, 3))
    answers = decode(np.array([[0.4, 0.35, 0.25]], np.float32), levels)
    assert answers.nodes.tolist() == [[1, 1]]
    np.testing.assert_allclose(answers.confidences, [[0.6, 0.35]], atol=1e-6)


def test_malformed_trees_are_refused() -> None:
    leaves = np.arange(3, dtype=np.int32)
    with pytest.raises(TrainingError, match="under two nodes"):
        Levels(
            ("a", "b", "c"), (np.array([0, 1, 1], np.int32), np.array([0, 0, 1], np.int32), leaves), (2, 2, 3)
        )
    with pytest.raises(TrainingError, match="every node"):
        Levels(("a",), (np.array([0, 2, 2], np.int32),), (3,))
    with pytest.raises(TrainingError, match="for 3 leaves"):
        Levels(("a",), (np.array([0, 1, 1], np.int32),), (2,))
    with pytest.raises(TrainingError, match="for 3 leaves"):
        decode(np.ones((1, 2), np.float32), Levels.flat(3))
