"""What a two-stage sample wants judged is what its certificate can depend on, and no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.student.adjudication import Adjudication, Terms, drawn_by_coin, share_to_check
from tasks.student.certifying import certified
from tasks.student.package import Answers
from tasks.student.thresholds import certify
from tasks.student.weighted_bounds import TwoStage
from tests.student.test_weighted_bounds import Traffic, path_of

KEYS = [place.to_bytes(16, "big") for place in range(4000)]
PATH = path_of(3000)


def sample_of(rows: int, seed: int, share: float, decided: np.ndarray | None = None) -> Adjudication:
    """Audits of the traffic: the student says `a`; truth and teacher say `a` or `b`."""
    people = Traffic(rows, seed)
    truth = np.where(people.wrong, "b", "a")
    teacher = np.where(people.differs, "b", "a").tolist()
    answers = Answers(["a"] * rows, np.zeros(rows, np.int32), people.confidences)
    known = np.zeros(rows, bool) if decided is None else decided
    labels = [str(label) if there else None for label, there in zip(truth, known, strict=True)]
    return Adjudication(
        KEYS[:rows], answers, teacher, labels, drawn_by_coin(KEYS[:rows], "secret", share), share
    )


@settings(max_examples=8)
@given(
    st.integers(0, 300),
    st.sampled_from([400, 900]),
    st.sampled_from([0.3, 0.6]),
    st.sampled_from([0.05, 0.1]),
)
def test_deciding_until_nothing_waits_certifies_what_deciding_all_would(
    seed: int, rows: int, share: float, target: float
) -> None:
    """And takes no label of a row that is neither a difference nor drawn, and none out of reach of the certificate."""
    terms = Terms(PATH, 1, None, target, 0.9)
    decided = np.zeros(rows, bool)
    while len(due := sample_of(rows, seed, share, decided).waiting(terms)):
        assert not decided[due].any()
        decided[due[:40]] = True
    few = sample_of(rows, seed, share, decided)
    everything = sample_of(rows, seed, share, few.two_stage.counts)
    found, answered, _ = certified(PATH, few.sample(), 1, None, target, 0.9)
    whole, _, _ = certified(PATH, everything.sample(), 1, None, target, 0.9)
    assert found.thresholds == whole.thresholds
    assert found.errors == whole.errors
    assert not (decided & ~few.two_stage.counts).any()
    assert np.array_equal(answered, few.in_reach(terms))


def test_what_is_open_counts_as_wrong_in_a_certificate() -> None:
    """Whoever certifies on a sample that still waits loses coverage, never the promise."""
    terms = Terms(PATH, 1, None, 0.1, 0.9)
    open_one = sample_of(900, 1, 0.5)
    assert len(open_one.waiting(terms)) > 0
    found, _, _ = certified(PATH, open_one.sample(), 1, None, 0.1, 0.9)
    assert found.thresholds is None
    complete = sample_of(900, 1, 0.5, open_one.two_stage.counts)
    assert certified(PATH, complete.sample(), 1, None, 0.1, 0.9)[0].certified_coverage > 0.2


def test_errors_that_are_shown_are_those_that_were_found() -> None:
    """Where looser points fail whatever is decided the rest stays open: that is no error, and more rows may help."""
    nobody = sample_of(900, 1, 1.0).sample()
    assert nobody.two_stage is not None
    kept = TwoStage.from_dict(json.loads(json.dumps(nobody.two_stage.as_dict())))
    for how in (nobody.two_stage, kept):
        found = certify(PATH, nobody.answers.scores, nobody.wrong, 0.1, 0.9, two_stage=how)
        assert found.thresholds is None
        assert sum(point.errors for point in found.curve) == 0
        assert found.more_rows_needed is not None


def test_the_surest_are_wanted_first() -> None:
    due = sample_of(900, 1, 0.5).waiting(Terms(PATH, 1, None, 0.1, 0.9))
    assert np.all(np.diff(sample_of(900, 1, 0.5).answers.confidence[due]) <= 0)


def test_a_small_sample_wants_nothing_and_is_not_large_enough() -> None:
    """Thirty items prove nothing about 2 %, however they are decided: nobody's time is taken."""
    few = sample_of(30, 1, 0.5)
    terms = Terms(PATH, 1, None, 0.02, 0.95)
    assert not few.large_enough(terms)
    assert len(few.waiting(terms)) == 0


def test_an_item_the_teacher_was_silent_about_is_like_a_difference() -> None:
    silent = sample_of(50, 1, 0.1)
    said = [None, *silent.teacher[1:]]
    assert Adjudication(silent.keys, silent.answers, said, silent.decided, silent.drawn, 0.1).differs[0]


def test_a_sample_that_was_decided_to_the_last_row_is_an_ordinary_one() -> None:
    assert sample_of(50, 1, 0.1, np.ones(50, bool)).sample().two_stage is None
    assert sample_of(50, 1, 0.1).sample().two_stage is not None


def test_items_that_are_never_answered_are_not_wanted() -> None:
    terms = Terms(PATH, 1, "a", 0.1, 0.9)
    assert len(sample_of(900, 1, 0.5).waiting(terms)) == 0


def test_the_coin_falls_as_often_as_it_should_and_always_the_same_way() -> None:
    """Of another secret otherwise; a larger share contains a smaller one, so that a change wastes no judgement."""
    few, many = drawn_by_coin(KEYS, "secret", 0.1), drawn_by_coin(KEYS, "secret", 0.3)
    assert few.mean() == pytest.approx(0.1, abs=0.02)
    assert many.mean() == pytest.approx(0.3, abs=0.03)
    assert not (few & ~many).any()
    assert np.array_equal(drawn_by_coin(KEYS[::-1], "secret", 0.1)[::-1], few)
    other = drawn_by_coin(KEYS, "another", 0.1)
    assert (other & few).mean() == pytest.approx(0.01, abs=0.006)
    assert drawn_by_coin(KEYS, "secret", 1.0).all()


def test_a_stricter_target_and_a_smaller_sample_check_more() -> None:
    shares = [share_to_check(rows, 0.05) for rows in (100, 500, 1000, 2000, 20_000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert 0 < shares[-1] < 0.05
    assert share_to_check(1000, 0.02) > share_to_check(1000, 0.1)


def test_reach_shrinks_as_errors_come_to_light() -> None:
    """All wrong that was looked at: soon nothing is in reach, and the rest need not be judged."""
    terms = Terms(PATH, 1, None, 0.05, 0.9)
    hopeless = sample_of(900, 1, 0.5)
    first = hopeless.waiting(terms)
    labels = ["b" if place in set(first[:200].tolist()) else None for place in range(900)]
    seen = Adjudication(hopeless.keys, hopeless.answers, hopeless.teacher, labels, hopeless.drawn, 0.5)
    assert len(seen.waiting(terms)) < len(first) - 200
