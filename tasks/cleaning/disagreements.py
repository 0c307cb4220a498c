"""Several independent passes of a teacher as one label and one weight an item, the student voting where they differ.

Leaving disagreements out keeps only easy items and costs accuracy, although the rest is cleaner; so they stay, at
half weight, and a student that never saw the item's answers decides between the candidates. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.relabel import VOTE_SHARE

DISAGREED_WEIGHT = 0.5
SWITCH_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Passes:
    """The passes' answers joined.

    Attributes:
        labels: int64 [n], what most valid passes said, on a tie the earliest of them; -1 where none is valid.
        weight: float32 [n]: 1 where at least two passes are valid and all valid ones agree, `DISAGREED_WEIGHT` where
            they differ or only one is valid, 0 where none is.
        agreed: bool [n], the rows of weight 1.
    """

    labels: NDArray[np.int64]
    weight: NDArray[np.float32]
    agreed: NDArray[np.bool_]


def join_passes(answers: NDArray[np.integer]) -> Passes:
    """Join the passes without a student.

    Args:
        answers: leaf indices [n, passes], the most trusted pass first; -1 marks an invalid or missing answer.
    """
    valid = answers >= 0
    # how many passes say what pass p says; a pass of its own counts once, an invalid one never
    support = ((answers[:, :, None] == answers[:, None, :]) & valid[:, None, :]).sum(axis=2) * valid
    first = support.argmax(axis=1)
    labels = np.where(valid.any(axis=1), answers[np.arange(len(answers)), first], -1).astype(np.int64)
    agreed = (valid.sum(axis=1) >= 2) & (support.max(axis=1, initial=0) == valid.sum(axis=1))
    weight = np.where(agreed, 1.0, np.where(labels >= 0, DISAGREED_WEIGHT, 0.0)).astype(np.float32)
    return Passes(labels, weight, agreed)


def settle(
    answers: NDArray[np.integer],
    P: NDArray[np.floating],
    V: NDArray[np.floating],
    margin: float = SWITCH_MARGIN,
) -> NDArray[np.int64]:
    """Where passes differ, move to another pass's answer if the student prefers it by the margin.

    Only what some pass said can be chosen; agreements are left alone.

    Args:
        answers: leaf indices [n, passes], the most trusted pass first; -1 marks an invalid or missing answer.
        P: out-of-fold probabilities [n, leaves] of a head trained on `join_passes`, its weights used.
        V: neighbours' votes [n, leaves] over the same folds and weights.
        margin: how much more evidence the other answer must have, in [0, 1].

    Returns:
        int64 [n]; -1 where no pass is valid.
    """
    joined = join_passes(answers)
    rows = np.arange(len(answers))[:, None]
    said = np.maximum(answers, 0)
    evidence = (1 - VOTE_SHARE) * P[rows, said] + VOTE_SHARE * V[rows, said]
    evidence = np.where(answers >= 0, evidence, -1.0)
    mine = np.where(answers == joined.labels[:, None], evidence, -1.0).max(axis=1)
    best = evidence.argmax(axis=1)
    moved = (joined.labels >= 0) & ~joined.agreed & (evidence.max(axis=1) - mine >= margin)
    return np.where(moved, answers[rows[:, 0], best], joined.labels).astype(np.int64)
