"""Accuracy on traffic from few decisions: right on average, honest about how sure, silent while something is open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.adjudication_queue import PLAN_SCHEMA, WANTED, write_plan
from tasks.monitoring.adjudicated import adjudicated_lines, adjudicated_traffic
from tasks.records import text_key
from tasks.store import Store
from tasks.store.labels import append_labels
from tasks.student.prediction_powered import prediction_powered_mean
from tests.labeling.scripted import HOSES, KETTLES, taxonomy

SHARE = 0.3


def drawn_plan(rows: int, seed: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """A plan; who of student and teacher is right. The student errs in 6 %, its teacher in 15 %, often together."""
    rng = np.random.default_rng(seed)
    student = rng.random(rows) > 0.06
    teacher = np.where(student, rng.random(rows) > 0.13, rng.random(rows) < 0.5)
    right = {True: KETTLES, False: HOSES}
    differs = student != teacher
    frame = pl.DataFrame(
        {
            "key": [text_key(f"item {row}") for row in range(rows)],
            "student_label": [right[bool(one)] for one in student],
            "student_confidence": rng.random(rows),
            "teacher_label": [right[bool(one)] for one in teacher],
            "differs": differs,
            "drawn": rng.random(rows) < SHARE,
            "share": SHARE,
            "in_reach": rng.random(rows) < 0.8,
        },
        schema=PLAN_SCHEMA,
    )
    return frame, student, teacher


def decide(store: Store, plan: pl.DataFrame) -> None:
    append_labels(store, [(key, KETTLES, "adjudicated") for key in plan["key"]], 1)


def test_nothing_is_estimated_while_something_is_open(store: Store, tmp_path: Path) -> None:
    """First what waits, then accuracy where the student answers, then on all traffic."""
    plan, student, teacher = drawn_plan(900, 1)
    write_plan(tmp_path, "1", plan)
    wanted = plan.filter(WANTED)
    near = wanted.filter("in_reach")
    before = adjudicated_traffic(tmp_path, store, "1", taxonomy())
    assert before is not None
    assert (before.items, before.wanted, before.decided, before.waiting) == (
        900,
        wanted.height,
        0,
        near.height,
    )
    assert (before.answered, before.traffic) == (None, None)
    assert [name for name, _ in adjudicated_lines(before.as_dict())] == ["adjudicated"]
    decide(store, near)
    answered = adjudicated_traffic(tmp_path, store, "1", taxonomy())
    assert answered is not None
    assert answered.waiting == 0
    assert answered.answered is not None
    assert answered.traffic is None
    assert answered.answered.student.items == plan.filter("in_reach").height
    decide(store, wanted.filter(~pl.col("in_reach")))
    done = adjudicated_traffic(tmp_path, store, "1", taxonomy())
    assert done is not None
    assert done.traffic is not None
    for estimate, truth in ((done.traffic.student, student), (done.traffic.teacher, teacher)):
        assert estimate.low <= truth.mean() <= estimate.high
        assert estimate.high - estimate.low < 0.08
        assert estimate.judged == wanted.height
    said = dict(adjudicated_lines(done.as_dict()))
    assert f"{wanted.height:,} of {wanted.height:,} wanted of 900" in said["adjudicated"]
    assert "teacher 8" in said["  right on all traffic"]


def test_without_a_plan_nothing_is_said(store: Store, tmp_path: Path) -> None:
    assert adjudicated_traffic(tmp_path, store, None, taxonomy()) is None
    assert adjudicated_traffic(tmp_path, store, "1", taxonomy()) is None
    assert adjudicated_lines(None) == []


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """In at least nine of ten of 300 draws, and narrower than one from the drawn items alone."""
    covered, narrower = 0, 0
    for seed in range(300):
        plan, student, _ = drawn_plan(600, seed)
        differs, drawn = plan["differs"].to_numpy(), plan["drawn"].to_numpy()
        value, agree = student.astype(float), 1.0 - differs
        both = prediction_powered_mean(value, agree, differs | drawn, np.where(differs, 1.0, SHARE))
        alone = prediction_powered_mean(value, agree, drawn, np.full(600, SHARE))
        covered += both.low <= 0.94 <= both.high
        narrower += both.high - both.low < alone.high - alone.low
    assert covered >= 0.90 * 300
    assert narrower > 290


@given(st.integers(1, 200), st.integers(0, 50))
def test_where_all_are_judged_it_is_the_mean(rows: int, seed: int) -> None:
    """Whatever was guessed; and a guess of no use leaves the weighted mean of the judged."""
    rng = np.random.default_rng(seed)
    value, guess = rng.random(rows), rng.random(rows)
    whole = prediction_powered_mean(value, guess, np.ones(rows, bool), np.ones(rows))
    assert whole.mean == pytest.approx(value.mean())
    assert (whole.judged, whole.items) == (rows, rows)
    assert 0 <= whole.low <= whole.mean <= whole.high <= 1
    half = np.arange(rows) % 2 == 0
    same = prediction_powered_mean(value, np.full(rows, 0.5), half, np.full(rows, half.mean()))
    assert same.mean == pytest.approx(value[half].mean())


def test_the_numbers_of_the_reference_implementation() -> None:
    """ppi-python 0.2.3, `ppi_mean_ci` on 400 judged of 1,400, to five digits (worked out once by hand)."""
    rng = np.random.default_rng(0)
    expected = {
        (200, 1800, 0.9): (0.89637, 0.85958, 0.93316),
        (100, 3000, 0.8): (0.80959, 0.75531, 0.86388),
        (400, 1000, 0.97): (0.97234, 0.95697, 0.98772),
    }
    for (judged, others, accuracy), (mean, low, high) in expected.items():
        rows = judged + others
        value = (rng.random(rows) < accuracy).astype(float)
        guess = np.where(rng.random(rows) < 0.85, value, 1 - value)
        known = np.zeros(rows, bool)
        known[rng.permutation(rows)[:judged]] = True
        found = prediction_powered_mean(value, guess, known, np.full(rows, judged / rows))
        assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), abs=2e-5)


def test_no_items_say_nothing() -> None:
    nothing = prediction_powered_mean(np.zeros(0), np.zeros(0), np.zeros(0, bool), np.ones(0))
    assert (nothing.low, nothing.high, nothing.items) == (0.0, 1.0, 0)
