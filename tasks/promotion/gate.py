"""The gate: whether a challenger may serve, judged on the same items as the champion, pair by pair.

Non-inferiority by paired bootstrap within a margin, no label and no level significantly worse (Holm), coverage at its
own certified threshold, latency. Knows nothing of registries; a refusal is a result with its numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.comparison import labels_that_fell, paired_difference
from tasks.taxonomy import join, split

CONFIDENCE = 0.95
MIN_LABEL_ROWS = 20
MIN_COVERAGE_ROWS = 100
"""So few rows of audited traffic certify nothing either (`tasks.student.certifying.ENOUGH_ROWS`)."""
MOST_NAMED = 10


@dataclass(frozen=True, eq=False)
class Judged:
    """What champion and challenger said on one sample, path by path, and whether they would have answered, bool [n].

    `covers` are (champion, challenger), each by its own thresholds. `left_out` rows have labels that came after the
    champion, which nobody could hold against it.
    """

    name: str
    truth: Sequence[str]
    champion: Sequence[str]
    challenger: Sequence[str]
    covers: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    left_out: int = 0

    def at(self, depth: int | None = None) -> tuple[list[tuple[str, ...]], list[NDArray[np.int64]]]:
        """The paths there are, cut at a depth (from 1); truth, champion and challenger as indices of them."""
        paths, columns = self._coded
        place: dict[tuple[str, ...], int] = {}
        cut = np.array([place.setdefault(path[:depth], len(place)) for path in paths], np.int64)
        return list(place), [cut[column] for column in columns]

    @cached_property
    def _coded(self) -> tuple[list[tuple[str, ...]], list[NDArray[np.int64]]]:
        place: dict[str, int] = {}
        columns = [
            np.array([place.setdefault(label, len(place)) for label in labels], np.int64)
            for labels in (self.truth, self.champion, self.challenger)
        ]
        return [split(label) for label in place], columns


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why (or why not), and the numbers behind it."""

    promoted: bool
    reasons: list[str]
    numbers: dict[str, Any] = field(default_factory=dict)

    def against(self, reason: str) -> Verdict:
        """The same with one more reason to refuse; reasons to promote are none beside it."""
        return replace(self, promoted=False, reasons=[reason] if self.promoted else [*self.reasons, reason])


def first_promotion(coverage: float, verified: bool) -> Verdict:
    """No champion yet: a challenger that loads and scores may serve; coverage 0 is allowed and said."""
    reasons = ["there is no champion yet and the challenger loads and scores"]
    if coverage == 0:
        reasons.append("nothing is certified yet: it will answer no traffic until it is")
    if not verified:
        reasons.append("there is no gold: the version is marked unverified")
    return Verdict(True, reasons, {"certified_coverage": coverage})


def succession(coverage: float, verified: bool) -> Verdict:
    """The champion knows none of today's labels, and nothing it says would be taken: as if there were none."""
    verdict = first_promotion(coverage, verified)
    why = "the champion knows none of the labels of today's taxonomy, and the challenger loads and scores"
    return replace(verdict, reasons=[why, *verdict.reasons[1:]])


def within_latency(verdict: Verdict, p95_ms: float, most_ms: float) -> Verdict:
    """The verdict, against the challenger where 95 % of single items do not get their answer in time here."""
    found = replace(verdict, numbers=verdict.numbers | {"latency": {"p95_ms": p95_ms, "most_ms": most_ms}})
    if p95_ms <= most_ms:
        return found
    return found.against(f"one item takes it {p95_ms:.1f} ms here (95th percentile), allowed {most_ms:g} ms")


def judge(
    samples: Sequence[Judged],
    levels: Sequence[str],
    known: Collection[str],
    margin: float,
    champion_lapsed: bool,
    seed: int = 0,
) -> Verdict:
    """Compare champion and challenger.

    Coverage is judged on audited traffic from 100 rows on, which is what it will be asked; before that on gold.

    Args:
        samples: gold's evaluation half, recent audited traffic: those that have rows.
        levels: their names, the first one first.
        known: the leaves that the challenger knows; items of others count, their labels are not tested.
        margin: how much worse, as a share, may still count as not worse.
        champion_lapsed: whether the champion's certificate no longer holds, which waives coverage.
        seed: of the bootstrap.
    """
    against: list[str] = []
    numbers: dict[str, Any] = {"margin": margin}
    for sample in samples:
        against += _not_worse(sample, margin, numbers, seed)
        against += _nothing_fell(sample, levels, known, numbers)
    if samples:
        against += _coverage_kept(samples, margin, champion_lapsed, numbers)
    else:
        against.append("there is neither gold nor audited traffic to judge by")
    if against:
        return Verdict(False, against, numbers)
    reasons = [f"not worse than the champion on {', '.join(sample.name for sample in samples)}"]
    reasons += [
        f"{sample.left_out} items of {sample.name} are left out: the champion does not know their labels"
        for sample in samples
        if sample.left_out
    ]
    return Verdict(True, reasons, numbers)


def _not_worse(sample: Judged, margin: float, numbers: dict[str, Any], seed: int) -> list[str]:
    _, (truth, said_before, said) = sample.at()
    champion, challenger = said_before == truth, said == truth
    difference, low, high = paired_difference(challenger, champion, confidence=2 * CONFIDENCE - 1, seed=seed)
    two_errors = 2 * _standard_error(challenger, champion)
    # Two equal students differ by up to two standard errors in most samples; where the bound of such a difference
    # would fall below the margin, the bound would refuse equals more often than not.
    resolves = (difference - low) + two_errors <= margin
    allowed = margin if resolves else two_errors
    numbers[sample.name] = {
        "rows": len(sample.truth),
        "champion_accuracy": float(champion.mean()),
        "challenger_accuracy": float(challenger.mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "allowed": allowed,
        "resolves_margin": resolves,
    }
    if (low if resolves else difference) >= -allowed:
        return []
    changed = f"on {sample.name} accuracy changes by {difference:+.3f}, 95 % bound {low:+.3f}"
    if resolves:
        return [f"{changed}, allowed {-allowed:+.3f}"]
    return [
        f"{changed}; {len(sample.truth)} items are too few for the margin of {margin}, so the change itself may be "
        f"{-allowed:+.3f} (two standard errors)"
    ]


def _standard_error(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Of the difference of two shares of the same items; 1 where nothing can be said."""
    paired = a.astype(float) - b.astype(float)
    return float(paired.std(ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else 1.0


def _nothing_fell(
    sample: Judged, levels: Sequence[str], known: Collection[str], numbers: dict[str, Any]
) -> list[str]:
    """Every level and every label of every level is one hypothesis of the same Holm correction."""
    tested = {split(leaf)[:depth] for leaf in known for depth in range(1, len(levels) + 1)}
    names: list[str] = []
    groups, champion, challenger = [], [], []

    def add(group: NDArray[np.int64], rows: NDArray[np.bool_], right: tuple[NDArray[np.bool_], ...]) -> None:
        groups.append(group[rows] + len(names))
        champion.append(right[0][rows])
        challenger.append(right[1][rows])

    for depth, level in enumerate(levels, start=1):
        paths, (truth, said_before, said) = sample.at(depth)
        right = (said_before == truth, said == truth)
        add(np.zeros_like(truth), np.ones(len(truth), bool), right)
        names.append(f"level {level}")
        # A branch that ends early is tested once, where it ends.
        own = np.array([len(path) == depth and path in tested for path in paths], bool)
        add(truth, own[truth], right)
        names += [join(path) for path in paths]
    changes = labels_that_fell(
        np.concatenate(groups),
        np.concatenate(champion),
        np.concatenate(challenger),
        MIN_LABEL_ROWS,
        1 - CONFIDENCE,
    )
    shown = [
        f"{names[change.label]} ({change.before:.2f} to {change.after:.2f})"
        for change in changes
        if change.fell
    ]
    if len(shown) > MOST_NAMED:
        shown = [*shown[:MOST_NAMED], f"and {len(shown) - MOST_NAMED} more"]
    numbers[sample.name] |= {"tested": len(changes), "fell": shown}
    return [f"on {sample.name} significantly worse: {', '.join(shown)}"] if shown else []


def _coverage_kept(
    samples: Sequence[Judged], margin: float, waived: bool, numbers: dict[str, Any]
) -> list[str]:
    """On the last sample that has enough rows, else the first."""
    sample = next((each for each in reversed(samples) if len(each.truth) >= MIN_COVERAGE_ROWS), samples[0])
    before, after = (float(covered.mean()) for covered in sample.covers)
    passed_over = [
        f"{each.name} has {len(each.truth)} of {MIN_COVERAGE_ROWS} rows"
        for each in samples[samples.index(sample) + 1 :]
    ]
    numbers["coverage"] = {
        "on": sample.name,
        "champion": before,
        "challenger": after,
        "waived": waived,
        "passed_over": passed_over,
    }
    # No allowance for chance here: refusing an equal costs a night, answering less costs every day.
    if waived or after >= before - margin:
        return []
    said = f"it would answer {after:.1%} of {sample.name} at its own thresholds, the champion {before:.1%}"
    return [f"{said} ({', '.join(passed_over)})" if passed_over else said]
