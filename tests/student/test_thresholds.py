from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import TrainingError
from tasks.student.intervals import clopper_pearson_upper
from tasks.student.thresholds import ThresholdPath, accepts, certify, escalation_table, fix_path


def traffic(n: int, seed: int, levels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Confidences [n, levels] that fall with depth, and wrong answers as often as an honest student's."""
    rng = np.random.default_rng(seed)
    leaf = rng.beta(4, 1, n)
    upper = [1 - (1 - leaf) * rng.random(n) ** depth for depth in range(levels - 1, 0, -1)]
    wrong = rng.random(n) > leaf**0.5
    return np.stack([*upper, leaf], axis=1).astype(np.float32), wrong


PATH = fix_path(traffic(3000, seed=99)[0])


@given(st.integers(0, 200), st.integers(1, 3), st.integers(5, 300))
def test_looser_points_accept_a_superset(seed: int, levels: int, rows: int) -> None:
    confidences, _ = traffic(rows, seed, levels)
    path = fix_path(confidences)
    fresh, _ = traffic(200, seed + 1, levels)
    before = np.zeros(200, bool)
    for row in path.thresholds:
        after = accepts(fresh, row)
        assert np.all(after >= before)
        before = after
    assert before.all(), "the last point accepts everything"
    assert len(path.starts) == 1


@given(st.integers(0, 200), st.integers(20, 600), st.floats(0.01, 0.4), st.floats(0.0, 0.3))
def test_thresholds_are_monotone_in_the_target(seed: int, rows: int, target: float, more: float) -> None:
    """A laxer promise never raises a threshold and never covers less; a higher confidence never covers more."""
    confidences, wrong = traffic(rows, seed)
    strict = certify(PATH, confidences, wrong, target)
    lax = certify(PATH, confidences, wrong, target + more)
    assert lax.certified_coverage >= strict.certified_coverage
    if strict.thresholds is not None and lax.thresholds is not None:
        assert all(a <= b for a, b in zip(lax.thresholds, strict.thresholds, strict=True))
    assert certify(PATH, confidences, wrong, target, 0.99).certified_coverage <= strict.certified_coverage


@given(st.integers(0, 200), st.integers(20, 600))
def test_a_certificate_says_what_it_measured(seed: int, rows: int) -> None:
    confidences, wrong = traffic(rows, seed)
    never = np.random.default_rng(seed).random(rows) < 0.2
    certificate = certify(PATH, confidences, wrong, 0.1, never=never)
    taken = accepts(confidences, certificate.thresholds, never)
    assert certificate.accepted == taken.sum()
    assert certificate.errors == wrong[taken].sum()
    assert certificate.certified_coverage == pytest.approx(taken.mean())
    assert not np.any(taken & never)
    if certificate.thresholds is not None:
        assert certificate.upper_bound <= 0.1
        assert certificate.more_rows_needed == 0


def draws(target: float, confidence: float, naive: bool) -> tuple[float, float]:
    """Share of 300 calibration draws whose true error breaks the target, and the mean coverage."""
    population, wrong = traffic(100_000, seed=1)
    rates = []
    for row in PATH.thresholds:
        taken = accepts(population, row)
        rates.append(wrong[taken].mean())
    rng = np.random.default_rng(2)
    broken, coverage = 0, 0.0
    for _ in range(300):
        sample = rng.integers(0, len(wrong), 1000)
        certificate = certify(PATH, population[sample], wrong[sample], target, confidence)
        if naive:
            kept = [
                i for i, p in enumerate(certificate.curve) if p.accepted and p.errors / p.accepted <= target
            ]
        else:
            kept = [i for i, p in enumerate(certificate.curve) if p.certified]
        if kept:
            broken += rates[kept[-1]] > target
            coverage += certificate.curve[kept[-1]].coverage
    return broken / 300, coverage / 300


@pytest.mark.parametrize(("target", "confidence"), [(0.05, 0.9), (0.08, 0.95)])
def test_the_promise_holds_over_draws_and_a_naive_threshold_breaks_it(
    target: float, confidence: float
) -> None:
    """Broken in at most 1 - confidence of the draws, within binomial noise; the plug-in breaks it far more often."""
    from scipy.stats import binom

    broken, coverage = draws(target, confidence, naive=False)
    assert broken <= binom.ppf(0.999, 300, 1 - confidence) / 300
    assert coverage > 0.2, "a promise about nothing is easily kept"
    assert draws(target, confidence, naive=True)[0] > 0.3


def test_every_false_certificate_counts_even_on_a_path_made_to_tempt() -> None:
    """Where the error is just above the target at every point, the whole family is falsely certified rarely."""
    rng = np.random.default_rng(0)
    confidences = np.linspace(0.9, 1, 400, dtype=np.float32)[:, None]
    path = fix_path(confidences)
    falsely = sum(
        certify(path, confidences, rng.random(400) < 0.051, 0.05, 0.9).thresholds is not None
        for _ in range(150)
    )
    assert 1 <= falsely <= 150 * 0.1 + 3 * np.sqrt(150 * 0.09)


def test_budgets_that_meet_add_up() -> None:
    """A chain that runs from the first start through all of them tests the last points at the whole allowance."""
    confidences, _ = traffic(2000, seed=3)
    path = fix_path(traffic(3000, seed=99)[0], starts=4)
    curve = certify(path, confidences, np.zeros(2000, bool), 0.05, 0.9).curve
    assert curve[-1].certified
    assert curve[-1].allowance == pytest.approx(0.1)
    assert curve[path.starts_for(2000, 0.025)[0]].allowance == pytest.approx(0.025)
    assert not curve[0].certified, "points before the first start are not tested"
    point = curve[-1]
    assert point.bound == pytest.approx(float(clopper_pearson_upper(0, point.accepted, 0.1)))


@given(st.integers(1, 4), st.integers(0, 3000), st.integers(0, 50))
def test_starts_are_fixed_by_the_size_alone(k: int, items: int, seed: int) -> None:
    """Always k or fewer points of the path, the ones that are spread but the first; a path of before keeps its own."""
    path = fix_path(traffic(400, seed)[0], starts=k)
    starts = path.starts_for(items, 0.05)
    assert 1 <= len(starts) <= k
    assert set(path.starts[1:]) <= set(starts) <= set(range(len(path.coverages)))
    assert np.array_equal(replace(path, expected_errors=None).starts_for(items, 0.05), path.starts)


@pytest.mark.parametrize(("confidence", "least"), [(0.9, 114), (0.95, 149)])
def test_a_start_accepts_as_many_as_the_confidence_takes(confidence: float, least: int) -> None:
    """A sure student on 300 rows: so many without an error prove 2 %, and fewer prove nothing."""
    surest = np.linspace(0.99995, 1, 1000)[:, None]
    path = fix_path(surest)
    [start] = path.starts_for(300, 1 - confidence)
    assert round(300 * path.coverages[start]) >= least
    rows = np.random.default_rng(0).choice(surest, 300)
    assert certify(path, rows, np.zeros(300, bool), 0.02, confidence).thresholds is not None


def honest(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences [n, 1] that mean what they say, and wrong answers."""
    rng = np.random.default_rng(seed)
    confidences = rng.beta(4, 0.6, n)
    return confidences[:, None].astype(np.float32), rng.random(n) > confidences


@pytest.mark.parametrize("honesty", [1.0, 3.0])
def test_a_start_that_is_planned_covers_more_of_a_small_sample(honesty: float) -> None:
    """Than four spread ones; not less where three times as many answers are wrong as it says. The promise holds."""
    population, wrong = honest(60_000, 1)
    if honesty > 1:
        odds = honesty * (1 - population[:, 0]) / population[:, 0]
        wrong = np.random.default_rng(2).random(len(wrong)) < odds / (1 + odds)
    planned = fix_path(honest(3000, 3)[0])
    spread = replace(fix_path(honest(3000, 3)[0], starts=4), expected_errors=None)
    rates = [wrong[accepts(population, row)].mean() for row in planned.thresholds]
    rng, target = np.random.default_rng(4), 0.02
    covered, broken = {"planned": 0.0, "spread": 0.0}, 0
    for _ in range(60):
        rows = rng.integers(0, len(wrong), 500)
        for name, path in (("planned", planned), ("spread", spread)):
            certificate = certify(path, population[rows], wrong[rows], target, 0.9)
            covered[name] += certificate.certified_coverage / 60
            best = max((i for i, p in enumerate(certificate.curve) if p.certified), default=None)
            broken += name == "planned" and best is not None and rates[best] > target
    assert broken <= 12, "binomial(60, 0.1) is above this once in a hundred times"
    if honesty == 1:
        assert covered["planned"] > covered["spread"] + 0.1
    else:
        assert covered["planned"] >= covered["spread"] - 0.02


def test_the_rows_that_are_said_to_be_missing_do() -> None:
    """With as many more something is certified more often than not, with a third of them seldom."""
    path = fix_path(honest(3000, 3)[0])
    said = [certify(path, *honest(80, seed), 0.02).more_rows_needed for seed in range(9)]
    wanted = int(np.median([rows for rows in said if rows]))

    def proved(rows: int) -> float:
        found = [certify(path, *honest(rows, 100 + seed), 0.02).thresholds is not None for seed in range(24)]
        return float(np.mean(found))

    assert proved(80 + wanted) >= 0.6
    assert proved(80 + wanted // 3) <= 0.3


def test_nothing_certifiable_is_said_plainly() -> None:
    confidences, wrong = traffic(40, seed=4)
    few = certify(PATH, confidences, np.zeros(40, bool), 0.02)
    assert few.thresholds is None
    assert few.certified_coverage == 0
    assert few.more_rows_needed is not None
    assert f"about {few.more_rows_needed} more adjudicated items" in few.sentence
    enough = 40 + few.more_rows_needed
    assert certify(PATH, traffic(enough + 50, 5)[0], np.zeros(enough + 50, bool), 0.02).thresholds is not None
    hopeless = certify(PATH, traffic(3000, 6)[0], np.ones(3000, bool), 0.05)
    assert hopeless.more_rows_needed is None
    assert "not more rows" in hopeless.sentence
    empty = certify(PATH, confidences[:0], wrong[:0], 0.05)
    assert empty.certified_coverage == 0
    assert empty.more_rows_needed is not None
    never = certify(PATH, confidences, wrong, 0.5, never=np.ones(40, bool))
    assert never.thresholds is None


def test_wrong_use_is_refused() -> None:
    confidences, wrong = traffic(40, seed=4)
    for target, confidence in [(0.0, 0.9), (1.0, 0.9), (0.05, 1.0)]:
        with pytest.raises(TrainingError, match="between 0 and 1"):
            certify(PATH, confidences, wrong, target, confidence)
    with pytest.raises(TrainingError, match="2 levels"):
        certify(PATH, confidences[:, :1], wrong, 0.05)
    with pytest.raises(TrainingError, match="0 acceptable rows"):
        fix_path(confidences, np.ones(40, bool))


def test_ties_and_few_rows_make_a_path() -> None:
    path = fix_path(np.ones((3, 1), np.float32))
    assert isinstance(path, ThresholdPath)
    assert path.thresholds[0, 0] == 1
    assert accepts(np.ones((1, 1), np.float32), path.thresholds[0]).all()


def test_the_escalation_table_counts() -> None:
    rows = escalation_table(
        np.array([0.2, 0.6, 0.9, 0.9]), np.array([True, False, False, True]), (0.0, 0.5, 0.95)
    )
    assert [row.answered for row in rows] == [4, 3, 0]
    assert [row.escalated for row in rows] == pytest.approx([0, 0.25, 1])
    assert rows[1].accuracy == pytest.approx(2 / 3)
    assert np.isnan(rows[2].accuracy)
