"""The gate lets equals and betters pass, stops the worse, and says on which numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.promotion.gate import Judged, first_promotion, judge

NAMES = ["Kettles", "Knives", "Hoses"]
MARGIN = 0.01


def sample(
    champion: Any,
    challenger: Any,
    truth: Any = None,
    name: str = "gold",
    covered: tuple[Any, Any] | None = None,
) -> Judged:
    """Right (1) and wrong (0) answers of both; everything covered by both unless said otherwise."""
    before, after = np.array(champion, bool), np.array(challenger, bool)
    truth = np.arange(len(before)) % len(NAMES) if truth is None else np.asarray(truth)
    full = np.ones(len(before), bool)
    covers = (full, full) if covered is None else (np.array(covered[0], bool), np.array(covered[1], bool))
    return Judged(name, truth.astype(np.int64), before, after, *covers)


def drawn(rng: np.random.Generator, rows: int, before: float, after: float, agree: float) -> Judged:
    """Students of given accuracies who agree on a share of the items and are independent on the rest."""
    shared, own = rng.random(rows) < agree, rng.random((2, rows))
    base = rng.random(rows) < before
    # On shared items both are right or wrong together; the difference in accuracy lies in the others.
    fallen = before + (after - before) / (1 - agree)
    champion = np.where(shared, base, own[0] < before)
    challenger = np.where(shared, base, own[1] < fallen)
    return sample(champion, challenger, rng.integers(0, 3, rows))


def verdict(*samples: Judged, lapsed: bool = False) -> Any:
    return judge(samples, NAMES, MARGIN, lapsed)


def test_an_identical_challenger_is_promoted() -> None:
    """The same answers on the same items: not worse, and it says on what."""
    right = [1] * 90 + [0] * 10
    found = verdict(sample(right, right), sample(right, right, name="audited traffic"))
    assert found.promoted
    assert found.reasons == ["not worse than the champion on gold, audited traffic"]
    assert found.numbers["gold"]["difference"] == 0.0


def test_a_clearly_worse_challenger_is_refused_with_its_numbers() -> None:
    """Ten points worse on a thousand items: the reason holds change, bound and allowance."""
    found = verdict(sample([1] * 900 + [0] * 100, [1] * 800 + [0] * 200))
    assert not found.promoted
    assert "on gold accuracy changes by -0.100" in found.reasons[0]
    numbers = found.numbers["gold"]
    assert (numbers["rows"], numbers["champion_accuracy"], numbers["challenger_accuracy"]) == (1000, 0.9, 0.8)
    assert numbers["difference"] == pytest.approx(-0.1)
    assert -0.13 < numbers["low"] < -0.1 < numbers["high"] < -0.07


def test_a_better_challenger_is_promoted_by_a_small_sample() -> None:
    """Winning needs no large sample."""
    assert verdict(sample([1] * 30 + [0] * 10, [1] * 36 + [0] * 4)).promoted


def test_a_small_sample_uses_two_standard_errors_and_says_so() -> None:
    """Forty items cannot show one point: one lost answer passes, and seven lost ones are refused in those words."""
    passed = verdict(sample([1] * 36 + [0] * 4, [1] * 35 + [0] * 5))
    assert passed.promoted
    assert passed.numbers["gold"]["resolves_margin"] is False
    assert passed.numbers["gold"]["allowed"] > MARGIN
    refused = verdict(sample([1] * 36 + [0] * 4, [1] * 29 + [0] * 11))
    assert not refused.promoted
    assert "40 items are too few for the margin of 0.01" in refused.reasons[0]
    assert "two standard errors" in refused.reasons[0]


def test_a_large_sample_holds_to_the_margin() -> None:
    """On 40,000 items that resolve a point, half a point worse passes and a point and a half does not."""
    rows = 40_000
    right = np.arange(rows) % 10 > 0
    spots = np.flatnonzero(right)

    def worse_by(share: float) -> Judged:
        after = right.copy()
        after[spots[: int(share * rows)]] = False
        return sample(right, after, np.zeros(rows))

    fine, bad = (judge([worse_by(share)], ["all"], MARGIN, False) for share in (0.005, 0.015))
    assert fine.numbers["gold"]["resolves_margin"]
    assert bad.numbers["gold"]["resolves_margin"]
    assert not [reason for reason in fine.reasons if "accuracy" in reason]
    assert "allowed -0.010" in bad.reasons[0]


def test_a_label_that_fell_significantly_refuses() -> None:
    """Twelve of forty kettles lost and as many others won: equal on the whole, refused by name."""
    truth = [0] * 40 + [1] * 100
    champion = [1] * 40 + [0] * 12 + [1] * 88
    challenger = [0] * 12 + [1] * 28 + [1] * 100
    found = verdict(sample(champion, challenger, truth))
    assert not found.promoted
    assert found.reasons == ["on gold significantly worse: Kettles (1.00 to 0.70)"]
    assert found.numbers["gold"]["labels_that_fell"] == ["Kettles (1.00 to 0.70)"]


def test_a_rare_label_accuses_nobody() -> None:
    """Nineteen items of a label are too few to be tested, even if all were lost."""
    truth = [0] * 19 + [1] * 100
    found = verdict(sample([1] * 19 + [0] * 19 + [1] * 81, [0] * 19 + [1] * 100, truth))
    assert found.promoted


def test_labels_the_challenger_does_not_know_are_called_by_no_other_name() -> None:
    """Items whose label is not in the challenger's taxonomy count as its errors, not as those of its last label."""
    truth = [-1] * 40 + [1] * 60
    found = verdict(sample([1] * 40 + [0] * 40 + [1] * 20, [0] * 40 + [1] * 60, truth))
    assert found.promoted, found.reasons
    lost = verdict(sample([1] * 100, [0] * 40 + [1] * 60, truth))
    assert not lost.promoted
    assert not any("Hoses" in reason for reason in lost.reasons)


@pytest.mark.parametrize(("lapsed", "promoted"), [(False, False), (True, True)])
def test_lower_coverage_refuses_unless_the_champion_lapsed(lapsed: bool, promoted: bool) -> None:
    """It must answer as much at its own thresholds, within the margin, of a champion that may still answer."""
    right = [1] * 100
    covered = ([1] * 60 + [0] * 40, [1] * 50 + [0] * 50)
    found = verdict(sample(right, right, covered=covered), lapsed=lapsed)
    assert found.promoted is promoted
    if not promoted:
        assert found.reasons == ["it would answer 50.0% of gold at its own thresholds, the champion 60.0%"]


def test_coverage_within_the_margin_passes() -> None:
    """One of a hundred fewer is within a margin of a point."""
    right = [1] * 100
    covered = ([1] * 60 + [0] * 40, [1] * 59 + [0] * 41)
    assert verdict(sample(right, right, covered=covered)).promoted


def test_every_sample_must_agree() -> None:
    """Better on gold does not excuse worse on audited traffic."""
    found = verdict(
        sample([1] * 800 + [0] * 200, [1] * 900 + [0] * 100),
        sample([1] * 900 + [0] * 100, [1] * 800 + [0] * 200, name="audited traffic"),
    )
    assert not found.promoted
    assert all("audited traffic" in reason for reason in found.reasons)


def test_without_a_sample_it_is_refused_with_words() -> None:
    """Nothing to judge by is said, not guessed."""
    found = verdict()
    assert not found.promoted
    assert found.reasons == ["there is neither gold nor audited traffic to judge by"]


def test_the_first_version_is_promoted_if_it_answers() -> None:
    """Without a champion loading is enough; no certificate and no gold are said."""
    sure = first_promotion(True, 0.6, True)
    assert sure.promoted
    assert len(sure.reasons) == 1
    poor = first_promotion(True, 0.0, False)
    assert poor.promoted
    assert any("answer no traffic" in reason for reason in poor.reasons)
    assert any("unverified" in reason for reason in poor.reasons)
    assert not first_promotion(False, 0.6, True).promoted


@pytest.mark.parametrize(("rows", "most"), [(150, 150), (750, 15)])
def test_equal_challengers_are_rarely_refused_and_much_worse_ones_rarely_promoted(
    rows: int, most: int
) -> None:
    """Of 300 equals at most one in ten is refused; of 300 that are five points worse, 750 items let 5 % pass.

    150 items cannot tell five points from chance much better than a coin, whatever the rule.
    """
    rng = np.random.default_rng(rows)

    def promoted(after: float) -> int:
        return sum(verdict(drawn(rng, rows, 0.9, after, agree=0.8)).promoted for _ in range(300))

    assert promoted(0.9) > 270
    assert promoted(0.85) <= most
