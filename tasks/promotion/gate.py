"""The gate: whether a challenger may serve, judged on the same items as the champion, pair by pair.

Non-inferiority by paired bootstrap within a margin, no label significantly worse (Holm), coverage at its own
certified threshold. Knows nothing of registries; a refusal is a result with its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.comparison import labels_that_fell, paired_difference

CONFIDENCE = 0.95
MIN_LABEL_ROWS = 20


@dataclass(frozen=True, eq=False)
class Judged:
    """How champion and challenger did on one sample: correct bool [n], covered bool [n] by own thresholds.

    `truth` is the label of each row at the deepest level, as an index; -1 is one that the challenger does not know.
    """

    name: str
    truth: NDArray[np.int64]
    champion_correct: NDArray[np.bool_]
    challenger_correct: NDArray[np.bool_]
    champion_covered: NDArray[np.bool_]
    challenger_covered: NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why (or why not), and the numbers behind it."""

    promoted: bool
    reasons: list[str]
    numbers: dict[str, Any] = field(default_factory=dict)


def first_promotion(loads: bool, coverage: float, verified: bool) -> Verdict:
    """No champion yet: promote if it loads and scores; coverage 0 is allowed and said."""
    if not loads:
        return Verdict(False, ["the challenger does not load or does not score"])
    reasons = ["there is no champion yet and the challenger loads and scores"]
    if coverage == 0:
        reasons.append("nothing is certified yet: it will answer no traffic until it is")
    if not verified:
        reasons.append("there is no gold: the version is marked unverified")
    return Verdict(True, reasons, {"certified_coverage": coverage})


def judge(
    samples: Sequence[Judged], label_names: Sequence[str], margin: float, champion_lapsed: bool, seed: int = 0
) -> Verdict:
    """Compare champion and challenger.

    Args:
        samples: gold's evaluation half, recent audited traffic: those that have rows.
        label_names: by the indices of `truth`.
        margin: how much worse, as a share, may still count as not worse.
        champion_lapsed: whether the champion's certificate no longer holds, which waives coverage.
        seed: of the bootstrap.
    """
    against: list[str] = []
    numbers: dict[str, Any] = {"margin": margin}
    for sample in samples:
        against += _not_worse(sample, margin, numbers, seed)
        against += _no_label_fell(sample, label_names, numbers)
    if samples and not champion_lapsed:
        against += _coverage_kept(samples[-1], margin, numbers)
    if not samples:
        against.append("there is neither gold nor audited traffic to judge by")
    if against:
        return Verdict(False, against, numbers)
    return Verdict(
        True, [f"not worse than the champion on {', '.join(sample.name for sample in samples)}"], numbers
    )


def _not_worse(sample: Judged, margin: float, numbers: dict[str, Any], seed: int) -> list[str]:
    difference, low, high = paired_difference(
        sample.challenger_correct, sample.champion_correct, confidence=2 * CONFIDENCE - 1, seed=seed
    )
    paired = sample.challenger_correct.astype(float) - sample.champion_correct.astype(float)
    standard_error = float(paired.std(ddof=1) / np.sqrt(len(paired))) if len(paired) > 1 else 1.0
    # Two equal students differ by up to two standard errors in most samples; where the bound of such a difference
    # would fall below the margin, the bound would refuse equals more often than not.
    resolves = (difference - low) + 2 * standard_error <= margin
    allowed = margin if resolves else 2 * standard_error
    numbers[sample.name] = {
        "rows": len(paired),
        "champion_accuracy": float(sample.champion_correct.mean()),
        "challenger_accuracy": float(sample.challenger_correct.mean()),
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
        f"{changed}; {len(paired)} items are too few for the margin of {margin}, so the change itself may be "
        f"{-allowed:+.3f} (two standard errors)"
    ]


def _no_label_fell(sample: Judged, names: Sequence[str], numbers: dict[str, Any]) -> list[str]:
    known = sample.truth >= 0
    tested = labels_that_fell(
        sample.truth[known],
        sample.champion_correct[known],
        sample.challenger_correct[known],
        MIN_LABEL_ROWS,
        1 - CONFIDENCE,
    )
    fallen = [change for change in tested if change.fell]
    shown = [f"{names[fall.label]} ({fall.before:.2f} to {fall.after:.2f})" for fall in fallen]
    numbers[sample.name]["labels_that_fell"] = shown
    return [f"on {sample.name} significantly worse: {', '.join(shown)}"] if shown else []


def _coverage_kept(sample: Judged, margin: float, numbers: dict[str, Any]) -> list[str]:
    before, after = float(sample.champion_covered.mean()), float(sample.challenger_covered.mean())
    numbers["coverage"] = {"on": sample.name, "champion": before, "challenger": after}
    if after >= before - margin:
        return []
    return [f"it would answer {after:.1%} of {sample.name} at its own thresholds, the champion {before:.1%}"]
