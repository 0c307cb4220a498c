import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cleaning.disagreements import DISAGREED_WEIGHT, join_passes, settle


def test_passes_are_joined_by_majority_then_trust() -> None:
    answers = np.array([[1, 1], [1, 2], [-1, 2], [-1, -1], [1, -1]])
    joined = join_passes(answers)
    assert joined.labels.tolist() == [1, 1, 2, -1, 1]
    assert joined.weight.tolist() == [1, DISAGREED_WEIGHT, DISAGREED_WEIGHT, 0, DISAGREED_WEIGHT]
    assert join_passes(np.array([[1, 2, 2], [0, 1, 2]])).labels.tolist() == [2, 0]


@settings(deadline=None)
@given(st.integers(0, 500), st.floats(0.01, 1))
def test_only_disagreements_move_and_only_to_what_a_pass_said(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    answers = rng.integers(-1, 4, (40, rng.integers(1, 4)))
    P, V = rng.dirichlet(np.ones(4), 40), rng.dirichlet(np.ones(4), 40)
    joined, settled = join_passes(answers), settle(answers, P, V, margin)
    assert np.array_equal(settled[joined.agreed], joined.labels[joined.agreed])
    assert np.array_equal(settled < 0, (answers < 0).all(axis=1))
    assert np.all((answers == settled[:, None]).any(axis=1))


def test_a_sure_student_decides() -> None:
    answers, sure = np.array([[0, 1]]), np.array([[0.2, 0.8]])
    assert settle(answers, sure, sure).tolist() == [1]
    assert settle(answers, sure, sure, margin=0.7).tolist() == [0]
