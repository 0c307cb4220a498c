"""The band around the curve of coverage against target holds what could be answered, and tightens with the sample."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.monitoring.operating_points import band
from tasks.student.thresholds import accepts, certify, fix_path


def honest(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences [n, 1] that mean what they say, and wrong answers."""
    rng = np.random.default_rng(seed)
    confidences = rng.beta(4, 0.6, n)
    return confidences[:, None].astype(np.float32), rng.random(n) > confidences


PATH = fix_path(honest(4000, 0)[0])
POPULATION = honest(200_000, 1)


def possible(target: float) -> float:
    """Coverage of the loosest point that keeps the target in the population."""
    scores, wrong = POPULATION
    taken = [accepts(scores, row) for row in PATH.thresholds]
    return max(float(one.mean()) for one in taken if wrong[one].mean() <= target)


@pytest.mark.parametrize("target", [0.03, 0.08])
def test_the_band_holds_what_could_be_answered(target: float) -> None:
    """In nine of ten samples each end holds, within binomial noise; four times the rows make it narrower."""
    true, widths = possible(target), {}
    for rows in (300, 1200):
        low, high, width = 0, 0, 0.0
        for seed in range(30):
            certificate = certify(PATH, *honest(rows, 10 + seed), target, 0.9)
            ends = band(certificate)
            assert certificate.certified_coverage <= ends["measured_coverage"] <= ends["coverage_at_most"]
            slack = 0.02 + 2 * np.sqrt(
                true * (1 - true) / rows
            )  # the sample's own share above a threshold varies
            low += certificate.certified_coverage <= true + slack
            high += ends["coverage_at_most"] >= true - slack
            width += (ends["coverage_at_most"] - certificate.certified_coverage) / 30
        assert low >= 24
        assert high >= 24
        widths[rows] = width
    assert widths[1200] < 0.8 * widths[300]


def test_a_sample_judged_in_part_tells_less() -> None:
    certificate = certify(PATH, *honest(500, 3), 0.05, 0.9)
    whole, part = band(certificate), band(certificate, 0.4)
    assert part["measured_coverage"] == whole["measured_coverage"]
    assert part["coverage_at_most"] >= whole["coverage_at_most"]


def test_nothing_accepted_has_no_band() -> None:
    confidences, wrong = honest(50, 4)
    nobody = certify(PATH, confidences, wrong, 0.05, 0.9, never=np.ones(50, bool))
    assert band(nobody) == {"measured_coverage": 0.0, "coverage_at_most": 0.0}
