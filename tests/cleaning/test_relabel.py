import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning.noise import LOWEST_MARGIN, QUIET
from tasks.cleaning.relabel import clean
from tasks.errors import TrainingError
from tasks.student.levels import Levels

TREE = Levels(("l1", "l2"), (np.array([0, 0, 1, 1], np.int32), np.arange(4, dtype=np.int32)), (2, 4))


def judged(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True labels, noisy ones, and the out-of-fold probabilities and votes of a good student."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    y = np.where(rng.random(n) < noise, (true + rng.integers(1, 4, n)) % 4, true)
    P = rng.dirichlet(np.full(4, 0.3), n) * 0.3 + 0.7 * np.eye(4)[true]
    hard = rng.random(n) < 0.04
    P[hard] = P[hard][:, ::-1]
    V = 0.8 * P + 0.05
    return true, y, P.astype(np.float32), (V / V.sum(axis=1, keepdims=True)).astype(np.float32)


def test_noisy_labels_get_better_and_quiet_ones_are_left_alone() -> None:
    true, y, P, V = judged(2000, 0.2)
    result = clean(y, P, V, TREE)
    assert result.margin == LOWEST_MARGIN
    assert (result.labels != true).mean() < 0.4 * (y != true).mean()
    assert 0.1 < result.noise_estimate < 0.35
    _, y, P, V = judged(2000, 0.0)
    quiet = clean(y, P * 0.5 + 0.5 * np.eye(4)[y], V, TREE)
    assert quiet.noise_estimate <= QUIET
    assert quiet.margin == np.inf
    assert not quiet.overwritten.any()


@settings(deadline=None)
@given(st.integers(0, 100), st.floats(0, 0.6), st.floats(0, 1), st.floats(0.05, 0.9))
def test_the_rules_hold_whatever_the_numbers(seed: int, noise: float, max_loss: float, margin: float) -> None:
    """Locked and unlabelled rows stay; no label loses more than its share; suspects and changes are disjoint."""
    _, y, P, V = judged(120, noise, seed)
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(120) < 0.1, -1, y)
    locked = rng.random(120) < 0.2
    given_labels = y.copy()
    result = clean(y, P, V, TREE, locked, max_loss=max_loss, margin=margin)
    assert np.array_equal(y, given_labels)
    assert np.array_equal(result.overwritten, result.labels != y)
    assert not np.any(result.overwritten & (locked | (y < 0)))
    for label in range(4):
        assert result.overwritten[y == label].sum() <= max_loss * (y == label).sum() + 1e-9
    assert not np.any(result.overwritten[result.suspects])
    assert not np.any(locked[result.suspects])
    assert np.all(np.diff(result.gain[result.suspects]) <= 0)
    evidence = 0.6 * P + 0.4 * V
    assert np.array_equal(result.favourite, np.where(y >= 0, evidence.argmax(axis=1), -1))
    assert np.allclose(result.confidence, evidence.max(axis=1))
    assert set(np.flatnonzero(result.held_back)) <= set(result.suspects.tolist())
    assert np.all(result.gain[result.held_back] >= margin)
    upper, leaf = result.by_level["l1"], result.by_level["l2"]
    assert leaf.overwritten == result.overwritten.sum() >= upper.overwritten
    assert leaf.labels == (y >= 0).sum()
    assert sum(count for *_, count in result.confused_pairs) == result.overwritten.sum()


def test_what_the_cap_holds_back_leads_the_suspects() -> None:
    _, y, P, V = judged(400, 0.3)
    free = clean(y, P, V, TREE, max_loss=1.0, margin=0.3)
    capped = clean(y, P, V, TREE, max_loss=0.1, margin=0.3)
    held_back = free.overwritten & ~capped.overwritten
    assert held_back.any()
    assert set(np.flatnonzero(held_back)) == set(capped.suspects[: held_back.sum()].tolist())
    assert np.array_equal(held_back, capped.held_back)
    assert not free.held_back.any()
    assert np.array_equal(capped.favourite[held_back], free.labels[held_back])
    assert np.all(free.overwritten >= capped.overwritten)


def test_shapes_and_empty_input() -> None:
    _, y, P, V = judged(10, 0.1)
    with pytest.raises(TrainingError, match="shapes"):
        clean(y, P[:, :3], V, TREE)
    with pytest.raises(TrainingError):
        clean(np.full(10, 7), P, V, TREE)
    empty = clean(y[:0], P[:0], V[:0], TREE)
    assert len(empty.labels) == 0
    assert empty.by_level["l1"].share == 0
    nobody = clean(np.full(10, -1), P, V, TREE)
    assert not nobody.overwritten.any()
