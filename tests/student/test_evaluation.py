import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import TrainingError
from tasks.student.comparison import labels_that_fell, paired_difference
from tasks.student.evaluation import (
    confused_pairs,
    confusion_matrix,
    evaluate,
    macro_f1,
)
from tasks.student.levels import Levels, decode

TREE = Levels(("l1", "l2"), (np.array([0, 0, 1, 1, 1, 2], np.int32), np.arange(6, dtype=np.int32)), (3, 6))


@given(st.integers(0, 100), st.integers(1, 60))
def test_scores_agree_with_plain_counting(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    P, y = rng.dirichlet(np.full(6, 0.4), n).astype(np.float32), rng.integers(0, 6, n)
    served = decode(P, TREE)
    for depth, scores in enumerate(evaluate(P, y, TREE)):
        assert scores.top1 == pytest.approx((served.nodes[:, depth] == TREE.maps[depth][y]).mean())
        assert scores.top1 <= scores.top3 <= scores.top5 <= 1
        assert 0 <= scores.ece <= 1
        assert scores.items == n
    assert evaluate(P, y, TREE)[0].top3 == 1, "three nodes, three guesses"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import f1_score

    true, answered = np.array(pairs).T
    theirs = f1_score(true, answered, average="macro", zero_division=0)
    assert macro_f1(true, answered) == pytest.approx(theirs)


def test_confusions_are_counted() -> None:
    true, answered = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 2, 2, 0, 2])
    assert confusion_matrix(true, answered, 3).tolist() == [[1, 1, 0], [1, 0, 2], [0, 0, 1]]
    assert confused_pairs(true, answered) == [(1, 2, 2), (0, 1, 1), (1, 0, 1)]
    assert confused_pairs(true, true) == []
    with pytest.raises(TrainingError):
        evaluate(np.zeros((0, 6), np.float32), np.zeros(0, int), TREE)


def test_a_paired_difference_covers_the_truth_and_has_width() -> None:
    """95 % intervals hold the true difference in about 95 % of draws; agreement everywhere is not certainty."""
    rng, held = np.random.default_rng(0), 0
    for draw in range(200):
        u = rng.random(300)
        a, b = u < 0.85, (u < 0.78) | (u > 0.97)
        held += (
            paired_difference(a, b, 0.95, seed=draw)[1] <= 0.04 <= paired_difference(a, b, 0.95, seed=draw)[2]
        )
    assert 0.90 <= held / 200 <= 0.995
    same = np.ones(50, bool)
    difference, low, high = paired_difference(same, same)
    assert difference == 0
    assert low < 0 < high


def test_only_a_real_fall_is_called_one() -> None:
    y = np.repeat([0, 1, 2], [60, 60, 10])
    champion = np.ones(130, bool)
    challenger = champion.copy()
    challenger[:12] = False
    challenger[60:62] = False
    challenger[120:] = False
    changes = labels_that_fell(y, champion, challenger)
    assert [(c.label, c.fell) for c in changes] == [(0, True), (1, False)], "label 2 has too few items"
    assert changes[0].p_value == pytest.approx(0.5**12)
    assert changes[0].adjusted == pytest.approx(2 * 0.5**12)
    assert changes[1].adjusted == pytest.approx(0.25)
    assert changes[0].after == pytest.approx(0.8)


def test_false_alarms_over_many_labels_stay_rare() -> None:
    """Two equally good students over 40 labels: some label is accused in at most 5 % of 200 draws."""
    rng, y = np.random.default_rng(1), np.repeat(np.arange(40), 50)
    alarms = 0
    for _ in range(200):
        changes = labels_that_fell(y, rng.random(2000) < 0.8, rng.random(2000) < 0.8)
        alarms += any(change.fell for change in changes)
    assert alarms <= 20
