"""Label by label: what scikit-learn counts, and which labels are named weakest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.label_scores import LabelScore, label_scores, weakest


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_scores_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    """Precision, recall, F1 and support of every label that occurs; None where a share is of nothing."""
    from sklearn.metrics import precision_recall_fscore_support

    true, answered = np.array(pairs).T
    scores = label_scores(true, answered)
    nodes = [score.node for score in scores]
    assert nodes == sorted(set(true.tolist()) | set(answered.tolist()))
    columns = precision_recall_fscore_support(true, answered, labels=nodes, zero_division=0)
    for score, precision, recall, f1, items in zip(scores, *columns, strict=True):
        assert (score.precision or 0.0) == pytest.approx(precision)
        assert (score.recall or 0.0) == pytest.approx(recall)
        assert score.f1 == pytest.approx(f1)
        assert score.items == items
        assert (score.precision is None) == (score.node not in answered)
        assert (score.recall is None) == (score.node not in true)


def test_the_weakest_are_those_that_something_is_known_of() -> None:
    """A label with one item says little: it is named only where no other has more."""
    scores = [
        LabelScore(0, 1, 0, 0),
        LabelScore(1, 9, 9, 6),
        LabelScore(2, 30, 30, 20),
        LabelScore(3, 8, 8, 8),
    ]
    assert [score.node for score in weakest(scores, 2)] == [2, 1]
    assert [score.node for score in weakest(scores[:1], 2)] == [0]
    assert weakest([LabelScore(0, 0, 3, 0)], 2) == []
