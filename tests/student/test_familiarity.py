"""Familiarity: an item unlike what its label was learned from scores less, and no row vouches for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.student import familiarity
from tasks.student.familiarity import MOST, SHARPNESS, Prototypes, fit_prototypes
from tasks.student.heads import make_head
from tasks.student.package import Answers, Student, load_student
from tasks.student.retrain import judge_with, retrain
from tasks.student.thresholds import fix_path
from tests.student.test_package import ENCODER, TAXONOMY
from tests.student.test_retrain import TAXONOMY as RETRAINED
from tests.student.test_retrain import gold_of, rows_of

Clusters = tuple[np.ndarray, np.ndarray]
FOLDS = np.arange(600) % 5


def fitted(clusters: Clusters, per_label: int = 4) -> tuple[Prototypes, np.ndarray]:
    X, y = clusters
    return fit_prototypes(X, y, FOLDS, y, n_leaves=6, per_label=per_label, seed=0)


def test_there_are_few_prototypes_of_each_label(clusters: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many a label at most, all of length 1; where labels are many, each has fewer, but one."""
    found, _ = fitted(clusters)
    assert np.diff(found.first).tolist() == [4] * 6
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    monkeypatch.setattr(familiarity, "MOST", 13)
    assert np.diff(fitted(clusters)[0].first).tolist() == [2] * 6
    monkeypatch.setattr(familiarity, "MOST", 1)
    assert np.diff(fitted(clusters)[0].first).tolist() == [1] * 6
    assert MOST >= 1000


def test_familiarity_falls_with_the_distance_from_the_answered_label(clusters: Clusters) -> None:
    """Most on a prototype, 1 at the typical distance, the least where its label has none; lengths do not count."""
    X, y = clusters
    found, _ = fitted(clusters)
    on_it = found.familiarity(found.vectors, np.repeat(np.arange(6), 4))
    np.testing.assert_allclose(on_it, np.exp(SHARPNESS), rtol=1e-3)
    distance = found.distances(X, y)
    assert distance.mean() < found.distances(X, (y + 1) % 6).mean()
    order = np.argsort(distance)
    assert (np.diff(found.familiarity(X, y)[order]) <= 0).all()
    np.testing.assert_allclose(found.distances(7 * X, y), distance, atol=1e-5)
    nobody = Prototypes(found.vectors[:0], np.zeros(7, np.int64), found.typical)
    assert (nobody.familiarity(X, y) < found.familiarity(-X, y) + 1e-6).all()


def test_rows_beyond_a_block_are_answered_in_their_order(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = fitted(clusters)
    whole = found.distances(*clusters)
    monkeypatch.setattr(familiarity, "BLOCK_ROWS", 37)
    np.testing.assert_allclose(found.distances(*clusters), whole, atol=1e-6)
    exact = [
        1 - (x @ found.vectors[found.first[leaf] : found.first[leaf + 1]].T).max()
        for x, leaf in zip(*clusters, strict=True)
    ]
    np.testing.assert_allclose(whole, exact, atol=1e-5)


def test_no_row_is_among_the_prototypes_that_judge_it() -> None:
    """Rows of a direction that only their own fold has are strange out of fold, and familiar once all are known."""
    rng = np.random.default_rng(0)
    X = np.zeros((100, 8), np.float32)
    X[:80, 0], X[80:, 1] = 1, 1
    X += 0.01 * rng.normal(size=X.shape).astype(np.float32)
    folds = np.r_[np.arange(80) % 4, np.full(20, 4)]
    y = np.zeros(100, np.int64)
    found, out_of_fold = fit_prototypes(X, y, folds, y, n_leaves=1, per_label=8, seed=0)
    assert out_of_fold[80:].max() < 0.01 * out_of_fold[:80].min()
    assert found.familiarity(X, y)[80:].min() > 1


def test_rows_that_are_never_judged_teach_all_the_same(clusters: Clusters) -> None:
    """A synthetic row gives prototypes and has no familiarity; an unlabelled one is judged and gives none."""
    X, y = clusters[0][:60], np.zeros(60, np.int64)
    y[40:] = 1
    folds = np.r_[np.arange(40) % 5, -1 - np.arange(20) % 5]
    labels = np.where(np.arange(60) < 5, -1, y)
    found, out_of_fold = fit_prototypes(X, labels, folds, y, n_leaves=3, per_label=50, seed=0)
    assert np.diff(found.first).tolist() == [35, 20, 0]
    assert (out_of_fold[40:] == 1).all()
    assert (out_of_fold[:40] != 1).all()


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=20),
    st.floats(0, 8, width=32),
)
def test_scores_are_confidences_seen_through_familiarity(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    """In [0, 1], never rising with depth, never above the confidence of an item less familiar than usual."""
    confidences = np.sort(np.array(pairs, np.float32), axis=1)[:, ::-1]
    n = len(confidences)
    plain = Answers(["x"] * n, np.zeros(n, np.int32), confidences)
    assert plain.scores is plain.confidences
    scores = replace(plain, familiarity=np.full(n, factor, np.float32)).scores
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((scores <= confidences + 1e-6) if factor <= 1 else (scores >= confidences - 1e-6)).all()
    order = np.argsort(confidences[:, -1], kind="stable")
    assert (np.diff(scores[order, -1]) >= 0).all()


def test_a_student_of_before_still_serves(clusters: Clusters, tmp_path: Path) -> None:
    """Prototypes survive the folder; a package without them scores what it is confident of; a damaged file says so."""
    X, y = clusters
    head = make_head("linear").fit(X, y, n_leaves=6, seed=0)
    student = Student(TAXONOMY, head, "linear", "text", ENCODER, prototypes=fitted(clusters)[0])
    student.save(tmp_path / "new")
    replace(student, prototypes=None).save(tmp_path / "plain")
    again, plain = load_student(tmp_path / "new"), load_student(tmp_path / "plain")
    assert np.array_equal(again.answers(X).scores, student.answers(X).scores)
    assert plain.answers(X).familiarity is None
    body = (tmp_path / "plain" / "student.json").read_text(encoding="utf-8")
    old = body.replace('"format": 2', '"format": 1').replace(',\n "prototypes": false', "")
    assert old.count("prototypes") == 0
    (tmp_path / "plain" / "student.json").write_text(old, encoding="utf-8")
    assert np.array_equal(load_student(tmp_path / "plain").answers(X).scores, student.answers(X).confidences)
    (tmp_path / "new" / familiarity.FILE).write_bytes(b"\x00")
    with pytest.raises(InputError, match=r"prototypes\.safetensors.*train the student again"):
        load_student(tmp_path / "new")


def test_a_retrain_lays_its_path_on_the_scores_that_will_be_served(clusters: Clusters) -> None:
    """The path on familiarity out of fold, gold and later judgements with the student's own; 0 prototypes keep none."""
    X, y = clusters
    rows, gold = rows_of(X[:400], y[:400]), gold_of(y[400:])

    def trained(prototypes: int) -> tuple[Student, Answers, Answers, np.ndarray]:
        told = retrain(
            rows, ["linear"], RETRAINED, ENCODER, "text", gold, (X[400:], None), prototypes=prototypes
        )
        assert told.gold is not None
        return told.student, told.gold.answers, told.held_out.answers, told.path.thresholds

    student, on_gold, out_of_fold, path = trained(5)
    assert student.prototypes is not None
    assert on_gold.familiarity is not None
    served = student.answers(X[400:])
    np.testing.assert_allclose(on_gold.scores, served.scores, atol=1e-5)
    assert np.array_equal(judge_with(student, gold, X[400:]).answers.scores, on_gold.scores)
    never = np.array([label == "other" for label in out_of_fold.labels])
    assert np.array_equal(path, fix_path(out_of_fold.scores, never).thresholds)
    trusted = student.prototypes.familiarity(X[:400], out_of_fold.leaf)
    assert out_of_fold.familiarity is not None
    assert np.median(trusted) > np.median(out_of_fold.familiarity), "its own fold does not vouch for a row"

    bare, on_gold, _, _ = trained(0)
    assert bare.prototypes is None
    assert on_gold.familiarity is None
    np.testing.assert_allclose(on_gold.confidences, served.confidences, atol=1e-6)


def test_items_of_a_label_never_seen_are_let_through_less(clusters: Clusters) -> None:
    """At the threshold that as many known items reach, fewer of the unknown ones do than by confidence alone."""
    X, y = clusters
    known = y < 4
    head = make_head("linear").fit(X[known], y[known], n_leaves=6, seed=0)
    found, _ = fit_prototypes(X[known], y[known], FOLDS[known], y[known], n_leaves=6, per_label=16, seed=0)
    student = Student(TAXONOMY, head, "linear", "text", ENCODER, prototypes=found)
    rng = np.random.default_rng(1)
    strange = rng.normal(size=(500, 16)).astype(np.float32)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    own, new = student.answers(X[known]), student.answers(strange)
    let_through = [
        (b[:, -1] >= np.quantile(a[:, -1], 0.2)).mean()
        for a, b in ((own.confidences, new.confidences), (own.scores, new.scores))
    ]
    assert let_through[1] < 0.7 * let_through[0]
