"""The learning curve: nested shares of the rows, judged by the same held-out rows, at a bounded cost."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tasks.student.crossfit import fold_of, never_judged
from tasks.student.learning_curve import Curve, CurvePoint, learning_curve

Clusters = tuple[np.ndarray, np.ndarray]


def curve_of(X: np.ndarray, y: np.ndarray, **other: object) -> Curve | None:
    folds = other.pop("folds", None)
    folds = fold_of(list(range(len(y))), 5, 0) if folds is None else folds
    judged_by = other.pop("judged_by", y)
    return learning_curve(X, y, judged_by, folds, n_leaves=int(y.max()) + 1, **other)  # type: ignore[arg-type]


def test_rows_double_and_held_out_rows_stay_the_same(clusters: Clusters) -> None:
    X, y = clusters
    curve = curve_of(X, y)
    assert curve is not None
    quarter, half, whole = (point.rows for point in curve.points)
    assert half == pytest.approx(2 * quarter, abs=2)
    assert whole == pytest.approx(2 * half, abs=2)
    assert curve.rows == len(y)
    assert curve.judged == len(y), "of few rows every fold judges"
    assert all(0 <= share <= 1 for point in curve.points for share in (point.taught, point.held_out))
    assert 0.5 < curve.neighbours <= 1
    assert 0 <= curve.endless <= curve.gap
    assert curve == curve_of(X, y), "the same rows, the same curve"


def test_many_rows_are_drawn_from_and_the_rest_is_counted_as_there() -> None:
    """A bound on the work bounds the rows, and what is promised of twice the rows is slowed by those left out."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 24))
    y = rng.integers(0, 20, 6000)
    X = (centres[y] + rng.normal(scale=1.6, size=(6000, 24))).astype(np.float32)
    started = time.process_time()
    curve = curve_of(X, y, most_work=600 * 24 * 20)
    assert time.process_time() - started < 20
    assert curve is not None
    assert curve.points[-1].rows <= 600
    assert curve.rows == 6000
    alone = Curve(curve.points, curve.neighbours, curve.judged, curve.points[-1].rows)
    assert curve.doubling < alone.doubling


def test_what_rows_promise_follows_from_the_points() -> None:
    """A fifth of the gain at each doubling: twice the rows bring that, rows without end a little more."""
    points = (CurvePoint(100, 0.99, 0.60), CurvePoint(200, 0.99, 0.70), CurvePoint(400, 0.99, 0.72))
    curve = Curve(points, 0.7, 100, 400)
    assert curve.slowing == pytest.approx(0.2)
    assert curve.doubling == pytest.approx(0.004)
    assert curve.endless == pytest.approx(0.005)
    falling = Curve((*points[:2], CurvePoint(400, 0.99, 0.75)), 0.7, 100, 400)
    assert falling.doubling == pytest.approx(0.025)
    assert falling.endless == pytest.approx(0.24), "a tenth of the error a doubling: no end is in sight"
    flat = Curve((*points[:2], CurvePoint(400, 0.99, 0.69)), 0.7, 100, 400)
    assert (flat.doubling, flat.endless) == (0.0, 0.0)
    met = Curve((*points[:2], CurvePoint(400, 0.723, 0.72)), 0.7, 100, 400)
    assert met.endless == pytest.approx(0.003), "no further than to where the rows that taught are"


def test_rows_without_a_label_neither_teach_nor_judge(clusters: Clusters) -> None:
    """Nor do synthetic ones judge: with wrong labels on them the curve is the same."""
    X, y = clusters
    folds = fold_of(list(range(len(y))), 5, 0)
    odd = np.arange(len(y)) % 3 == 0
    judged_by = np.where(odd, -1, y)
    silent = curve_of(X, np.where(odd, -1, y), folds=folds, judged_by=judged_by)
    assert silent is not None
    assert silent.rows == (~odd).sum()
    assert silent.judged <= (~odd).sum()
    written = curve_of(X, y, folds=np.where(odd, never_judged(folds), folds), judged_by=judged_by)
    assert written is not None
    assert written.judged == silent.judged


def test_too_few_rows_give_no_curve(clusters: Clusters) -> None:
    X, y = clusters
    assert curve_of(X[:30], y[:30]) is None
    assert curve_of(X, y, folds=np.zeros(len(y), np.int16)) is None
    assert curve_of(X, y, judged_by=np.full(len(y), -1)) is None
