"""Answers that stop at a sure level: nested, never contradicting the full one, and under the same promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.student.certifying import CalibrationSample, issue_policy, path_as_dict, path_from_dict
from tasks.student.package import Answers
from tasks.student.partial import NEVER, PartialAnswers, stated_depths, upper_thresholds
from tasks.student.thresholds import ThresholdPath, accepts, certify, fix_path

LEVELS = ("area", "kind", "sort")
DRAWS = 40  # the benchmark of unfamiliar items draws 200


def traffic(n: int, seed: int, levels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences [n, levels] of an honest student, its depths and whether it is wrong at each level or above.

    A path that ends early says at its last levels what it said before.
    """
    rng = np.random.default_rng(seed)
    steps = np.concatenate([rng.beta(20, 0.3, (n, levels - 1)), rng.beta(3, 0.5, (n, 1))], axis=1)
    depths = np.where(rng.random(n) < 0.1, max(1, levels - 1), levels)
    steps[np.arange(levels) >= depths[:, None]] = 1
    wrong = np.logical_or.accumulate(rng.random((n, levels)) > steps, axis=1)
    return np.cumprod(steps, axis=1).astype(np.float32), depths, wrong


def laid(seed: int = 99, levels: int = 3, rows: int = 3000) -> ThresholdPath:
    confidences, depths, _ = traffic(rows, seed, levels)
    never = np.zeros(rows, bool)
    path = fix_path(confidences, never)
    return replace(path, upper=upper_thresholds(path, confidences, confidences, depths, never))


PATH = laid()


@given(st.integers(0, 300), st.integers(1, 4), st.integers(20, 300))
def test_every_later_point_answers_at_least_as_deep(seed: int, levels: int, rows: int) -> None:
    """Whole where every level clears, else fewer levels than the path has; other is never answered, nor in part."""
    path = laid(seed, levels, rows)
    assert path.upper is not None
    scores, depths, _ = traffic(100, seed + 1, levels)
    never = np.random.default_rng(seed).random(100) < 0.1
    before = np.zeros(100, np.int64)
    for thresholds, upper in zip(path.thresholds, path.upper, strict=True):
        stated = stated_depths(scores, depths, thresholds, upper, never)
        full = accepts(scores, thresholds, never)
        assert np.array_equal(stated == depths, full)
        assert np.array_equal(stated_depths(scores, depths, thresholds, None, never) > 0, full)
        assert ((stated >= 0) & (stated <= depths)).all()
        assert (stated[never] == 0).all()
        assert (stated >= before).all()
        assert (stated > 0).sum() >= full.sum(), "an answer in part never costs one in full"
        before = stated
    assert (stated_depths(scores, depths, None, path.upper[-1], never) == 0).all(), (
        "no certificate, no answer"
    )


def test_those_that_stop_are_expected_to_be_wrong_no_more_often() -> None:
    """At every point, by the confidences the path was laid on; and where thresholds allow any, many do stop."""
    confidences, depths, _ = traffic(3000, 99)
    assert PATH.upper is not None
    stopped = 0
    for point, (thresholds, upper) in enumerate(zip(PATH.thresholds, PATH.upper, strict=True)):
        stated = stated_depths(confidences, depths, thresholds, upper)
        full, partial = stated == depths, (stated > 0) & (stated < depths)
        stopped = max(stopped, int(partial.sum()))
        if full.mean() < 0.9 and partial.any():
            mistaken = 1 - confidences[np.arange(3000), np.maximum(stated, 1) - 1]
            assert mistaken[partial].mean() <= mistaken[full].mean() * 1.1 + 1e-3, point
    assert stopped > 300


def test_nobody_stops_where_nobody_would_be_right_often_enough() -> None:
    """An upper level as unsure as the leaf lets nothing through: its threshold is beyond every score."""
    leaf = np.linspace(0.3, 1, 500, dtype=np.float32)
    confidences = np.stack([leaf, leaf], axis=1)
    path, never = fix_path(confidences), np.zeros(500, bool)
    upper = upper_thresholds(path, confidences, confidences, np.full(500, 2), never)
    assert (upper == NEVER).all()


def test_an_answer_is_wrong_where_a_level_it_states_is() -> None:
    """The leaf's mistake does not count against an answer that stops above it; the upper level's does."""
    path = ThresholdPath(np.array([0.5]), np.array([[0.5, 0.9]]), np.array([0]), np.array([[0.8]]))
    scores = np.array([[0.99, 0.95], [0.99, 0.95], [0.85, 0.3], [0.85, 0.3], [0.6, 0.3]], np.float32)
    wrong = np.array([[False, False], [False, True], [False, True], [True, True], [True, True]])
    answered, mistaken = PartialAnswers(path, scores, np.full(5, 2), wrong, np.zeros(5, bool))(0)
    assert answered.tolist() == [True, True, True, True, False]
    assert mistaken.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(("target", "confidence"), [(0.05, 0.9), (0.1, 0.95)])
def test_the_promise_holds_with_answers_that_stop_early(target: float, confidence: float) -> None:
    """Over many draws the true error is above the target no more often than allowed, and more items are answered."""
    scores, depths, wrong = traffic(5000, 7)
    rng, missed, alone, both = np.random.default_rng(0), 0, [], []
    for _ in range(DRAWS):
        rows = rng.integers(0, len(scores), 800)
        drawn = (scores[rows], wrong[rows, -1], target, confidence)
        stopping = PartialAnswers(PATH, scores[rows], depths[rows], wrong[rows], np.zeros(800, bool))
        told = certify(PATH, *drawn, stopping=stopping)
        alone.append(certify(PATH, *drawn).certified_coverage)
        both.append(told.certified_coverage + told.partial_coverage)
        stated = stated_depths(scores, depths, told.thresholds, told.partial_thresholds)
        mistaken = wrong[np.arange(len(stated)), np.maximum(stated, 1) - 1] & (stated > 0)
        missed += mistaken.sum() > target * (stated > 0).sum()
    assert missed <= DRAWS * (1 - confidence) + 2 * np.sqrt(DRAWS * (1 - confidence) * confidence)
    assert np.mean(both) > np.mean(alone) + 0.05


def test_a_policy_says_both_coverages_and_an_old_path_allows_none() -> None:
    """Off, or laid before such thresholds were: in full only; on: thresholds for the upper levels and both shares."""
    confidences, depths, wrong = traffic(2000, 3)
    names = [f"a > b{i} > c" if depth == 3 else f"a > d{i}" for i, depth in enumerate(depths.tolist())]
    truth = [
        name if not row[-1] else "x" if row[0] else " > ".join([*name.split(" > ")[: int(2 - row[1])], "y"])
        for name, row in zip(names, wrong, strict=True)
    ]
    sample = CalibrationSample("gold", Answers(names, np.zeros(2000, np.int32), confidences), truth)
    assert np.array_equal(sample.wrong_by_level(3), wrong)
    issued = {
        name: issue_policy(path, sample, LEVELS, None, 0.05, 0.95, "1", partial)[0]
        for name, path, partial in (
            ("on", path_from_dict(path_as_dict(PATH)), True),
            ("off", PATH, False),
            ("old", replace(PATH, upper=None), True),
        )
    }
    assert issued["old"] == issued["off"]
    assert (issued["off"].partial_coverage, issued["off"].partial_thresholds) == (0.0, None)
    on = issued["on"]
    assert on.partial_thresholds is not None
    assert list(on.partial_thresholds) == ["area", "kind"]
    assert on.partial_coverage > 0.05
    assert f"and {on.partial_coverage:.1%} down to an upper level" in on.sentence
    assert on.certificate["accepted"] == round(2000 * (on.certified_coverage + on.partial_coverage))
    flat = CalibrationSample("gold", Answers(names, np.zeros(2000, np.int32), confidences[:, :1]), truth)
    alone, _ = issue_policy(laid(levels=1), flat, ("kind",), None, 0.05, 0.95, "1", partial=True)
    assert alone.partial_thresholds is None, "one level has none to stop at"
