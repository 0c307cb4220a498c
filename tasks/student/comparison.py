"""Two students on the same items: by how much they differ, and which labels fell.

Knows right and wrong answers only; what difference is tolerable is the promotion gate's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000


def paired_difference(
    correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The accuracy of a minus that of b on the same items, with a paired bootstrap percentile interval.

    Resampling items with replacement draws the counts of (only a right, only b right, neither or both) from a
    multinomial, which is sampled directly. Half an item is added to each of the four cells of the table in the
    resampling (Agresti & Min, Biometrics 61, 2005), so that a sample without a single disagreement does not claim
    an interval of no width.

    Args:
        correct_a: [n], n at least 1.
        correct_b: [n], the same items in the same order.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the resampling.

    Returns:
        (difference, low, high), each in [-1, 1].
    """
    n = len(correct_a)
    only_a, only_b = int(np.sum(correct_a & ~correct_b)), int(np.sum(correct_b & ~correct_a))
    cells = np.array([only_a + 0.5, only_b + 0.5, n - only_a - only_b + 1.0]) / (n + 2)
    drawn = np.random.default_rng(seed).multinomial(n, cells, DRAWS)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = (only_a - only_b) / n
    return difference, min(float(low), difference), max(float(high), difference)


@dataclass(frozen=True)
class LabelChange:
    """How one label fared under the two students.

    Attributes:
        label: its index.
        items: judged items that truly bear it.
        before: accuracy of the champion on them.
        after: accuracy of the challenger on them.
        p_value: one-sided exact McNemar test of "it did not fall".
        adjusted: the same after Holm's correction over all labels tested.
        fell: whether `adjusted` is at most the level tested at.
    """

    label: int
    items: int
    before: float
    after: float
    p_value: float
    adjusted: float
    fell: bool


def labels_that_fell(
    y: NDArray[np.integer],
    correct_champion: NDArray[np.bool_],
    correct_challenger: NDArray[np.bool_],
    min_items: int = 20,
    level: float = 0.05,
) -> list[LabelChange]:
    """Test every label with enough items for a fall; which ones fell stands in `fell`.

    One-sided exact McNemar tests (Psychometrika 12, 1947: given the items on which the two disagree, a coin decides
    who is right), adjusted by Holm's step-down procedure (Scand. J. Stat. 6, 1979): the chance of accusing any
    label wrongly is at most `level`.

    Args:
        y: true labels [n], of one level.
        correct_champion: [n].
        correct_challenger: [n].
        min_items: labels with fewer are not tested; too few to say anything.
        level: chance of any false alarm, in (0, 1).

    Returns:
        The labels tested, the smallest p-value first.
    """
    labels, counts = np.unique(y, return_counts=True)
    tested = labels[counts >= min_items]
    found = []
    for label in tested.tolist():
        rows = y == label
        before, after = correct_champion[rows], correct_challenger[rows]
        lost, won = int(np.sum(before & ~after)), int(np.sum(after & ~before))
        found.append((_coin_tail(lost, lost + won), label, rows, before, after))
    found.sort(key=lambda entry: entry[:2])
    changes, highest = [], 0.0
    for rank, (p, label, rows, before, after) in enumerate(found):
        highest = max(highest, min(1.0, p * (len(found) - rank)))
        shares = float(before.mean()), float(after.mean())
        changes.append(LabelChange(label, int(rows.sum()), *shares, p, highest, highest <= level))
    return changes


def _coin_tail(heads: int, tosses: int) -> float:
    """The probability of at least this many heads of a fair coin."""
    from scipy.special import bdtrc

    return 1.0 if heads == 0 else float(bdtrc(heads - 1, tosses, 0.5))
