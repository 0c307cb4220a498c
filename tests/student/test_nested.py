"""Each part is judged by what had its lesson, with the settings that were chosen and nothing else that was learned."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.student.heads import make_head
from tasks.student.nested import Apart, Lesson, judged_apart
from tasks.student.retrain import Trained, retrain
from tasks.student.shared_rows import Instead, apart
from tasks.student.training import Rows, train_candidates
from tests.student.test_retrain import ENCODER, TAXONOMY, gold_of

Clusters = tuple[np.ndarray, np.ndarray]
PARTS = np.arange(300) % 3


def rows_of(clusters: Clusters, folds: np.ndarray = PARTS) -> Rows:
    X, y = clusters[0][:300], clusters[1][:300].astype(np.int64)
    return Rows(X, y, y.copy(), folds.astype(np.int16), np.ones(300, np.float32))


@pytest.mark.parametrize("name", ["linear", "mlp", "ensemble", "lda"])
def test_a_part_is_judged_by_its_lesson_and_the_head_stays_as_it_was(clusters: Clusters, name: str) -> None:
    """The lesson of part p teaches that every label is p further on; the head itself was taught the truth."""
    rows = rows_of(clusters)
    X, y = rows.vectors, rows.labels
    head = make_head(name)
    head.tune(X, y, rows.folds, n_leaves=6, seed=0)
    head.fit(X, y, n_leaves=6, seed=0)
    settings, before = head.settings(), head.predict_proba(X)

    def lesson(part: int) -> Lesson:
        outside = np.flatnonzero(part != PARTS)
        return X[outside], (y[outside] + part) % 6, np.ones(len(outside), np.float32)

    P = judged_apart(head, X, Apart(PARTS.astype(np.int64), lesson), n_leaves=6, seed=0)
    for part in range(3):
        ours = part == PARTS
        taught = (P[ours].argmax(axis=1) == (y[ours] + part) % 6).mean()
        assert taught == pytest.approx((before[ours].argmax(axis=1) == y[ours]).mean(), abs=0.15)
    assert head.settings() == settings
    np.testing.assert_array_equal(head.predict_proba(X), before)


def test_what_goes_with_a_part_is_not_in_its_lesson(clusters: Clusters) -> None:
    """Neither its rows, nor the second halves of those that two labels share, nor examples written beside them."""
    folds = PARTS.copy()
    folds[270:] = -1 - PARTS[270:]  # written ones
    rows = rows_of(clusters, folds)
    share, rest = np.ones(300, np.float32), np.full(300, -1)
    share[:30], rest[:30] = 0.25, (rows.labels[:30] + 1) % 6
    part_of = np.where(folds < 0, -1, folds)
    other = Instead(np.array([1, 4]), np.array([5, 5]), np.array([1.0, 0.0], np.float32), np.array([-1, -1]))
    found = apart(rows, share, rest, part_of, {0: other})
    assert found.apart is not None
    assert (found.repeated, len(found.labels), len(found.apart.part_of)) == (30, 330, 330)
    assert np.array_equal(found.labels[:300], rows.labels)
    for part in range(3):
        X, y, weight = found.apart.lesson(part)
        outside, halves = np.flatnonzero(part != PARTS), np.flatnonzero(part != PARTS[:30])
        expected = {row: rows.labels[row] for row in outside.tolist()}
        if part == 0:
            expected[1] = 5
            del expected[4]
            halves = halves[~np.isin(halves, [1, 4])]
        assert y.tolist() == [*expected.values(), *rest[halves].tolist()]
        np.testing.assert_array_equal(X[: len(expected)], rows.vectors[list(expected)])
        assert weight.sum() == pytest.approx(len(expected) - 0.75 * len(halves) + 0.75 * len(halves))


def trained(rows: Rows) -> Trained:
    none = np.zeros(0, np.int64)
    return retrain(rows, ["linear"], TAXONOMY, ENCODER, "text", gold_of(none), (rows.vectors[:0], None))


def test_agreement_that_cleaning_itself_has_made_is_not_counted(clusters: Clusters) -> None:
    """One row in six bears a wrong label, and the row most like it, in another fold, was cleaned to bear it too.

    Judged by what learned such labels, half of the wrong ones look right; without what they said, none does.
    """
    X, y = np.repeat(clusters[0][:150], 2, axis=0), np.repeat(clusters[1][:150], 2).astype(np.int64)
    folds = (np.arange(300) % 2).astype(np.int16)
    wrong = np.flatnonzero(np.arange(300) % 12 < 2)  # a row and its twin: one said it, one was made to
    said, taught = y.copy(), y.copy()
    liars = wrong[::2]
    said[liars] = (y[liars] + 3) % 6
    taught[wrong] = (y[wrong] + 3) % 6
    rows = Rows(X, taught, said, folds, np.ones(300, np.float32))
    victims = wrong[1::2]
    instead = Instead(victims, y[victims], np.ones(len(victims), np.float32), np.full(len(victims), -1))
    honest = apart(rows, np.ones(300, np.float32), np.full(300, -1), folds, {0: instead})
    believed, known = trained(rows), trained(honest)
    right = [~one.held_out.wrong[liars] for one in (believed, known)]
    assert right[0].mean() > 0.5 > 0.1 > right[1].mean()
    assert known.student.temperature > 1.0
    [candidate], _ = train_candidates(["linear"], honest, 6, 0)
    assert candidate.loss > train_candidates(["linear"], rows, 6, 0)[0][0].loss
