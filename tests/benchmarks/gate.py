"""How often the gate lets a challenger pass that is as good as the champion, a point better, or a point worse.

Run as `python -m tests.benchmarks.gate [--gold 1000 5000] [--draws 1000]`; minutes on one thread. Simulated: an
item has a margin that both students share but for noise of their own, the confidence is its logistic and is right that
often, and one draw of chance an item decides for both. The champion is right for 90 % of the items. Each student's
path of thresholds is laid on 5,000 other items and certified (5 % error, 95 % confidence) on the half of gold that
calibrates; the other half is what the gate compares on, as in the product. Labels are 40 leaves in eight departments,
equally frequent; 70 % of the mistakes stay within the department.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.promotion.gate import Judged, Verdict, judge
from tasks.student.thresholds import accepts, certify, fix_path

ACCURACY, TARGET_ERROR, CONFIDENCE, MARGIN = 0.90, 0.05, 0.95, 0.01
DEPARTMENTS, LEAVES = 8, 5
PATH_ROWS, WITHIN = 5_000, 0.7
LABELS = tuple(f"d{place // LEAVES} > l{place}" for place in range(DEPARTMENTS * LEAVES))
CHALLENGERS = {"a point better": 0.01, "as good": 0.0, "a point worse": -0.01, "three points worse": -0.03}
NOISE = {"retrained on nearly the same": 0.5, "retrained on much that is new": 1.2}
COLUMNS = ("promoted", "two errors")
REASONS = {
    "accuracy": "accuracy changes",
    "label or level": "significantly worse",
    "coverage": "would answer",
}


@dataclass(frozen=True)
class World:
    """How easy items are for a student, and how much of that is its own."""

    shift: float
    noise: float

    def confidences(self, rng: np.random.Generator, shared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of a student for items whose shared margins are given, float [n]."""
        margins = self.shift + 3.0 * shared + self.noise * rng.standard_normal(len(shared))
        return 1 / (1 + np.exp(-margins))


def world(accuracy: float, noise: float) -> World:
    """The shift at which a student is right so often."""
    shared, low, high = np.random.default_rng(0).standard_normal(200_000), 0.0, 20.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        reached = World(middle, noise).confidences(np.random.default_rng(1), shared).mean()
        low, high = (middle, high) if reached < accuracy else (low, middle)
    return World(low, noise)


def one_draw(
    rng: np.random.Generator, gold: int, champion: World, challenger: World
) -> tuple[Verdict, list[NDArray[np.bool_]]]:
    """What the gate says about one draw of gold and of both students, and what each would answer."""
    rows, half = PATH_ROWS + gold, PATH_ROWS + gold // 2
    shared, chance = rng.standard_normal(rows), rng.random(rows)
    truth, stays, other = (
        rng.integers(0, len(LABELS), rows),
        rng.random(rows) < WITHIN,
        rng.integers(1, LEAVES, rows),
    )
    near = truth // LEAVES * LEAVES + (truth % LEAVES + other) % LEAVES
    wrong = np.where(stays, near, (truth + LEAVES * other) % len(LABELS))
    said, covers, certified = [], [], []
    for student in (champion, challenger):
        confidence = student.confidences(rng, shared)
        right = chance < confidence
        said.append([LABELS[place] for place in np.where(right, truth, wrong)[half:]])
        column = confidence[:, None]
        certificate = certify(
            fix_path(column[:PATH_ROWS]),
            column[PATH_ROWS:half],
            ~right[PATH_ROWS:half],
            TARGET_ERROR,
            CONFIDENCE,
        )
        certified.append(certificate.thresholds is not None)
        covers.append(accepts(column[half:], certificate.thresholds))
    labels = [LABELS[place] for place in truth[half:]]
    sample = Judged("gold", labels, said[0], said[1], (covers[0], covers[1]))
    return judge([sample], ["department", "leaf"], LABELS, MARGIN, not certified[0]), covers


def measure(gold: int, noise: float, change: float, draws: int) -> dict[str, float]:
    """Shares of the draws in which it is promoted, and refused for each kind of reason; the coverage gap's spread.

    `two errors` is how often it would be promoted if coverage, too, were allowed two standard errors.
    """
    champion, challenger = world(ACCURACY, noise), world(ACCURACY + change, noise)
    rng, counts = np.random.default_rng([gold, round(1000 * (1 + change)), round(10 * noise)]), Counter[str]()
    gaps: list[float] = []
    for _ in range(draws):
        verdict, covers = one_draw(rng, gold, champion, challenger)
        counts["promoted"] += verdict.promoted
        for name, words in REASONS.items():
            counts[name] += any(words in reason for reason in verdict.reasons)
        gaps.append(verdict.numbers["coverage"]["challenger"] - verdict.numbers["coverage"]["champion"])
        chance = 2 * float(np.std(covers[1].astype(float) - covers[0], ddof=1) / np.sqrt(len(covers[0])))
        lost = not verdict.numbers["coverage"]["waived"] and gaps[-1] < -max(MARGIN, chance)
        kept = not any(words in reason for reason in verdict.reasons for words in list(REASONS.values())[:2])
        counts["two errors"] += kept and not lost
    return {name: counts[name] / draws for name in (*COLUMNS, *REASONS)} | {"spread": float(np.std(gaps))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gold", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args(arguments)
    heads = ["gold", "challenger", "promoted", "with two standard errors allowed for coverage"]
    heads += ["refused for accuracy", "a label or level", "coverage", "SD of the coverage gap"]
    print(f"| {' | '.join(heads)} |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for gold in options.gold:
        for kind, noise in NOISE.items():
            for name, change in CHALLENGERS.items():
                found = measure(gold, noise, change, options.draws)
                shares = " | ".join(f"{share:.1%}" for share in found.values())
                print(f"| {gold:,} | {name}, {kind} | {shares} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
