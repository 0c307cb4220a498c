"""The gate lets equals and betters pass, stops the worse, and says on which numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.promotion.gate import Judged, Verdict, first_promotion, judge, succession, within_latency
from tasks.promotion.gate_in_words import tags_in_words

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
    labels = [NAMES[row % len(NAMES)] for row in range(len(champion))]
    if truth is not None:
        labels = [NAMES[place] if place >= 0 else "Gone" for place in np.asarray(truth, int).tolist()]
    full = np.ones(len(labels), bool)
    covers = (full, full) if covered is None else (np.array(covered[0], bool), np.array(covered[1], bool))
    before, after = (
        [label if right else "wrong" for label, right in zip(labels, said, strict=True)]
        for said in (champion, challenger)
    )
    return Judged(name, labels, before, after, covers)


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
    return judge(samples, ["category"], NAMES, MARGIN, lapsed)


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

    fine, bad = (
        judge([worse_by(share)], ["category"], ["none of them"], MARGIN, False) for share in (0.005, 0.015)
    )
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
    assert found.numbers["gold"]["fell"] == ["Kettles (1.00 to 0.70)"]


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


@pytest.mark.parametrize(("rows", "judged_on"), [(3, "gold"), (99, "gold"), (100, "audited traffic")])
def test_coverage_is_judged_on_audited_traffic_from_a_hundred_rows_on(rows: int, judged_on: str) -> None:
    """Three requests, of which one more is left to the teacher, refuse nobody; what was passed over is said."""
    right, few = [1] * 200, [1] * rows
    lost = ([1] * rows, [0] * (rows // 3) + [1] * (rows - rows // 3))
    found = verdict(sample(right, right), sample(few, few, name="audited traffic", covered=lost))
    coverage = found.numbers["coverage"]
    assert coverage["on"] == judged_on
    assert found.promoted is (judged_on == "gold")
    words = tags_in_words(found.numbers)["gate coverage"]
    assert (f"audited traffic has {rows} of 100 rows" in words) is (judged_on == "gold")


def test_audited_traffic_alone_is_what_coverage_is_judged_on() -> None:
    """Without gold the few rows there are must do, and the words hold nothing that was passed over."""
    found = verdict(sample([1] * 30, [1] * 30, name="audited traffic", covered=([1] * 30, [0] * 30)))
    assert found.reasons == [
        "it would answer 0.0% of audited traffic at its own thresholds, the champion 100.0%"
    ]


def test_of_many_labels_that_fell_the_first_ten_are_named() -> None:
    """A hundred names fit no tag and no eye; the others are counted."""
    leaves = [f"Kitchen > {chr(97 + row // 26)}{chr(97 + row % 26)}" for row in range(40)]
    truth = [leaf for leaf in leaves for _ in range(40)]
    full = np.ones(len(truth), bool)
    found = judge(
        [Judged("gold", truth, truth, ["Kitchen > z"] * len(truth), (full, full))],
        ["department", "category"], leaves, 0.5, False,
    )  # fmt: skip
    fell = found.numbers["gold"]["fell"]
    assert (len(fell), fell[-1]) == (11, "and 31 more")


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
    sure = first_promotion(0.6, True)
    assert sure.promoted
    assert len(sure.reasons) == 1
    poor = first_promotion(0.0, False)
    assert poor.promoted
    assert any("answer no traffic" in reason for reason in poor.reasons)
    assert any("unverified" in reason for reason in poor.reasons)


def test_a_champion_that_knows_nothing_is_followed_as_if_there_were_none() -> None:
    """All labels are others now: the challenger serves, and what a first version would be told is told too."""
    found = succession(0.0, False)
    assert found.promoted
    assert "knows none of the labels" in found.reasons[0]
    assert any("answer no traffic" in reason for reason in found.reasons)


def nested(truth: list[str], champion: list[str], challenger: list[str]) -> Verdict:
    known = ["Kitchen > Kettles", "Kitchen > Knives", "Garden > Hoses", "Services"]
    full = np.ones(len(truth), bool)
    sample = Judged("gold", truth, champion, challenger, (full, full))
    return judge([sample], ["department", "category"], known, 0.5, False)


def test_an_upper_label_that_fell_refuses_though_no_leaf_did() -> None:
    """Fifteen leaf-sized losses are nothing by themselves; together they are a department, which is named."""
    kitchen = ["Kitchen > Kettles"] * 19 + ["Kitchen > Knives"] * 19
    truth = kitchen + ["Garden > Hoses"] * 200
    lost = ["Garden > Hoses"] * 6 + kitchen[6:19] + ["Garden > Hoses"] * 6 + kitchen[25:]
    found = nested(truth, truth, lost + truth[38:])
    assert not found.promoted
    [reason] = found.reasons
    assert "Kitchen (1.00 to 0.68)" in reason
    assert "Kettles" not in reason


def test_a_level_that_fell_refuses_where_every_label_is_too_rare_to_tell() -> None:
    """Errors spread over labels with 19 items each: the level as a whole tells what no label can."""
    leaves = [f"Kitchen > {name}" for name in "abcdefgh"]
    truth = [leaf for leaf in leaves for _ in range(19)]
    lost = ["Kitchen > z" if row % 19 < 2 else leaf for row, leaf in enumerate(truth)]
    full = np.ones(len(truth), bool)
    found = judge(
        [Judged("gold", truth, truth, lost, (full, full))], ["department", "category"], leaves, 0.5, False
    )
    assert found.numbers["gold"]["fell"] == ["level category (1.00 to 0.89)"]
    assert found.numbers["gold"]["tested"] == 3, "two levels, one department"


def test_a_mistake_within_the_department_is_none_for_the_department() -> None:
    """Knives called kettles: the leaf and its level fall, the department keeps its accuracy."""
    truth = ["Kitchen > Knives"] * 40 + ["Garden > Hoses"] * 40
    said = ["Kitchen > Kettles"] * 20 + truth[20:]
    found = nested(truth, truth, said)
    assert not any(
        fell.startswith(("Kitchen (", "level department")) for fell in found.numbers["gold"]["fell"]
    )
    assert any(fell.startswith("Kitchen > Knives (1.00 to 0.50)") for fell in found.numbers["gold"]["fell"])


def test_a_branch_that_ends_early_is_tested_once() -> None:
    """A leaf of the first level is one hypothesis, not one a level, so that it does not weaken the others."""
    truth = ["Services"] * 40
    assert nested(truth, truth, truth).numbers["gold"]["tested"] == 3, "two levels and the leaf"


@pytest.mark.parametrize(("p95", "promoted"), [(49.9, True), (50.0, True), (50.1, False)])
def test_a_challenger_that_answers_too_slowly_is_refused_with_its_time(p95: float, promoted: bool) -> None:
    """The limit itself is kept; beyond it the reason holds both numbers, and other reasons stay beside it."""
    found = within_latency(first_promotion(0.6, True), p95, 50.0)
    assert found.promoted is promoted
    assert found.numbers["latency"] == {"p95_ms": p95, "most_ms": 50.0}
    if not promoted:
        assert found.reasons == ["one item takes it 50.1 ms here (95th percentile), allowed 50 ms"]
        both = within_latency(Verdict(False, ["worse"]), p95, 50.0)
        assert both.reasons == ["worse", *found.reasons]


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
