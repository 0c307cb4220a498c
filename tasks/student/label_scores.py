"""Precision, recall and F1 of every label at every level, with the counts behind them.

Knows true and answered nodes; which names they bear is the taxonomy's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelScore:
    """How one label of one level fares.

    Attributes:
        node: its index at its level.
        items: judged items that are of it.
        answered: items that were said to be of it.
        right: both.
    """

    node: int
    items: int
    answered: int
    right: int

    @property
    def precision(self) -> float | None:
        """Share right of what was answered with it, in [0, 1]; None where it never was."""
        return self.right / self.answered if self.answered else None

    @property
    def recall(self) -> float | None:
        """Share found of what is of it, in [0, 1]; None where no judged item is."""
        return self.right / self.items if self.items else None

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, in [0, 1]."""
        return 2 * self.right / (self.items + self.answered)


def label_scores(true: NDArray[np.integer], answered: NDArray[np.integer]) -> list[LabelScore]:
    """One record for each node that is true or answered at least once, by index.

    Args:
        true: nodes [n] of one level.
        answered: nodes [n].
    """
    n = int(max(true.max(initial=-1), answered.max(initial=-1))) + 1
    items, said = np.bincount(true, minlength=n), np.bincount(answered, minlength=n)
    right = np.bincount(true[true == answered], minlength=n)
    return [
        LabelScore(node, int(items[node]), int(said[node]), int(right[node]))
        for node in np.flatnonzero(items + said).tolist()
    ]


ENOUGH_ITEMS = 5
"""Of labels with fewer judged items nobody can say how weak they are."""


def weakest(scores: Sequence[LabelScore], limit: int) -> list[LabelScore]:
    """Those with the lowest F1, the lowest first, more items first on a tie.

    Labels with fewer than `ENOUGH_ITEMS` items are passed over where others are left.
    """
    enough = [score for score in scores if score.items >= ENOUGH_ITEMS]
    known = enough or [score for score in scores if score.items]
    return sorted(known, key=lambda score: (score.f1, -score.items, score.node))[:limit]
