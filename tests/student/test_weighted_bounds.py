"""A two-stage sample proves no more than it may, whatever lies where nobody looked, and as much as it can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.student.intervals import clopper_pearson_upper
from tasks.student.thresholds import ThresholdPath, accepts, certify, fix_path
from tasks.student.weighted_bounds import TwoStage, two_stage_p_value, two_stage_upper

SIZES = st.integers(30, 400)
SHARES = st.floats(0.05, 0.95)
RATES = st.floats(0.01, 0.3)


@settings(max_examples=40)
@given(SIZES, SHARES, RATES, st.floats(0, 1), st.sampled_from([0.1, 0.025]))
def test_a_true_rate_is_refuted_as_rarely_as_allowed(
    accepted: int, share: float, rate: float, hidden: float, allowance: float
) -> None:
    """Exactly, by summing over all outcomes: at the rate itself, however many of the errors the coin may miss."""
    missed, seen = rate * hidden, rate * (1 - hidden)
    refuted = 0.0
    for drawn in range(accepted + 1):
        chance = binom.pmf(drawn, accepted, share * missed)
        if two_stage_p_value(0, drawn, accepted, share, rate) > allowance:
            break  # more errors are never more evidence, see below
        judged = 0
        while two_stage_p_value(judged + 1, drawn, accepted, share, rate) <= allowance:
            judged += 1
        refuted += chance * binom.cdf(judged, accepted - drawn, seen / (1 - share * missed))
    assert refuted <= allowance + 1e-9


@given(SIZES, SHARES, RATES, st.integers(0, 20), st.integers(0, 6))
def test_more_errors_are_less_evidence_and_a_higher_rate_is_easier_to_refute(
    accepted: int, share: float, rate: float, judged: int, drawn: int
) -> None:
    p_value = two_stage_p_value(judged, drawn, accepted, share, rate)
    assert 0 <= p_value <= 1
    assert two_stage_p_value(judged + 1, drawn, accepted, share, rate) >= p_value - 1e-12
    assert two_stage_p_value(judged, drawn + 1, accepted, share, rate) >= p_value - 1e-12
    assert two_stage_p_value(judged, drawn, accepted, share, rate + 0.05) <= p_value + 1e-12


@given(SIZES, st.integers(0, 20), st.integers(0, 6), st.sampled_from([0.1, 0.05, 0.0125]))
def test_where_all_are_drawn_it_is_the_exact_binomial_bound(
    accepted: int, judged: int, drawn: int, allowance: float
) -> None:
    """And where nearly all are, it is nearly that."""
    exact = float(clopper_pearson_upper(judged + drawn, accepted, allowance))
    assert two_stage_upper(judged, drawn, accepted, 1.0, allowance) == pytest.approx(exact)
    assert two_stage_p_value(judged, drawn, accepted, 1.0, exact) == pytest.approx(allowance)
    assert exact <= two_stage_upper(judged, drawn, accepted, 0.9999, allowance) <= 1.05 * exact + 1e-3


@given(SIZES, SHARES, st.integers(0, 10), st.integers(0, 4), st.sampled_from([0.1, 0.0125]))
def test_the_bound_is_the_rate_at_which_the_test_turns(
    accepted: int, share: float, judged: int, drawn: int, allowance: float
) -> None:
    bound = two_stage_upper(judged, drawn, accepted, share, allowance)
    assert judged / accepted < bound <= 1
    if bound < 1:
        assert two_stage_p_value(judged, drawn, accepted, share, bound) <= allowance
        assert two_stage_p_value(judged, drawn, accepted, share, 0.985 * bound - 2e-4) > allowance


def test_nothing_proves_nothing() -> None:
    assert two_stage_upper(0, 0, 0, 0.3, 0.05) == 1.0
    assert two_stage_upper(0, 0, 50, 0.3, 0.0) == 1.0
    assert two_stage_p_value(0, 0, 0, 0.3, 0.05) == 1.0


def test_it_proves_more_than_an_allowance_split_over_the_kinds() -> None:
    """Of 800 accepted rows 3 % are wrong, a sixth of them agreements; 5 % is to be proved."""
    rng = np.random.default_rng(0)
    whole, split, everything = 0, 0, 0
    for _ in range(200):
        judged, missed = int(rng.binomial(800, 0.025)), int(rng.binomial(800, 0.005))
        drawn = int(rng.binomial(missed, 0.3))
        whole += two_stage_p_value(judged, drawn, 800, 0.3, 0.05) <= 0.05
        parts = (float(clopper_pearson_upper(count, 800, 0.025)) for count in (judged, drawn))
        split += next(parts) + next(parts) / 0.3 <= 0.05
        everything += float(clopper_pearson_upper(judged + missed, 800, 0.05)) <= 0.05
    assert everything >= whole > 2 * split + 40


COARSE = tuple(place / 25 for place in range(1, 26))
"""A path of fewer points is as good a test, and a faster one."""


class Traffic:
    """Items whose student errs the more the less sure it is; its teacher shares one mistake in three."""

    def __init__(self, rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.confidences = rng.beta(4, 1, (rows, 1)).astype(np.float32)
        self.wrong = rng.random(rows) > self.confidences[:, 0] ** 0.5
        self.differs = np.where(self.wrong, rng.random(rows) > 0.33, rng.random(rows) < 0.12)


def path_of(rows: int) -> ThresholdPath:
    """Of an honest student: it knows how often it errs."""
    confidences = Traffic(rows, 2).confidences
    return fix_path(confidences, grid=COARSE, mistaken=1 - confidences[:, 0] ** 0.5)


@pytest.mark.parametrize(("target", "confidence", "share"), [(0.05, 0.9, 0.5), (0.08, 0.95, 0.3)])
def test_the_promise_holds_over_draws(target: float, confidence: float, share: float) -> None:
    """Broken in at most 1 - confidence of 200 draws, within noise; what was seen, taken at face value, breaks it."""
    people = Traffic(100_000, 1)
    path = path_of(3000)
    rates = [people.wrong[accepts(people.confidences, row)].mean() for row in path.thresholds]
    rng = np.random.default_rng(3)
    broken, naive, covered = 0, 0, 0.0
    for _ in range(200):
        rows = rng.integers(0, len(people.wrong), 1000)
        differs = people.differs[rows]
        how = TwoStage(differs, ~differs & (rng.random(1000) < share), share, bounds=False)
        wrong = people.wrong[rows]
        found = certify(path, people.confidences[rows], wrong, target, confidence, two_stage=how)
        kept = [place for place, point in enumerate(found.curve) if point.certified]
        broken += bool(kept) and rates[kept[-1]] > target
        covered += found.certified_coverage / 200
        seen = certify(path, people.confidences[rows], wrong & how.counts, target, confidence)
        kept = [place for place, point in enumerate(seen.curve) if point.certified]
        naive += bool(kept) and rates[kept[-1]] > target
    assert broken <= binom.ppf(0.999, 200, 1 - confidence)
    assert covered > 0.2, "a promise about nothing is easily kept"
    assert naive > binom.ppf(0.999, 200, 1 - confidence)


def test_what_was_judged_for_another_reason_does_not_count() -> None:
    """An agreement that somebody looked at without the coin changes no certificate: it was no random look."""
    people, path = Traffic(1500, 5), path_of(3000)
    drawn = ~people.differs & (np.random.default_rng(0).random(1500) < 0.4)
    how = TwoStage(people.differs, drawn, 0.4)
    clean = certify(path, people.confidences, people.wrong & how.counts, 0.08, 0.9, two_stage=how)
    assert certify(path, people.confidences, people.wrong, 0.08, 0.9, two_stage=how) == clean
    assert clean.thresholds is not None
    assert clean.upper_bound <= 0.08
    point = next(point for point in clean.curve if point.thresholds == clean.thresholds)
    assert point.errors == round(how.weighted(people.wrong & accepts(people.confidences, clean.thresholds)))
