"""How good a student is on judged items, level by level, and what it confuses.

Knows probabilities and true leaves; never trains, never chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.calibration import expected_calibration_error
from tasks.student.levels import Levels, decode, marginals

TOPS = (1, 3, 5)


@dataclass(frozen=True)
class LevelScores:
    """How one level did; every number but `items` in [0, 1].

    Attributes:
        level: its name.
        items: judged.
        top1: share whose served answer is right at this level.
        top3: share whose right node is the served one or among the most probable that fill up three.
        top5: the same for five.
        macro_f1: mean F1 over the nodes that are true or answered at least once.
        ece: expected calibration error of the served confidence.
    """

    level: str
    items: int
    top1: float
    top3: float
    top5: float
    macro_f1: float
    ece: float


def evaluate(P: NDArray[np.floating], y: NDArray[np.integer], levels: Levels) -> tuple[LevelScores, ...]:
    """Score the answers a router would serve (`levels.decode`) at every level.

    Args:
        P: [n, n_leaves], rows summing to 1; n at least 1.
        y: true leaves [n].
        levels: the tree.

    Returns:
        One record a level, the first level first.

    Raises:
        TrainingError: no item to judge by.
    """
    if not len(y):
        raise TrainingError("there is no judged item to evaluate on", "add gold items or audit some traffic")
    answers = decode(P, levels)
    scores, rows = [], np.arange(len(y))
    for depth, (name, marginal) in enumerate(zip(levels.names, marginals(P, levels), strict=True)):
        true, served = levels.maps[depth][y], answers.nodes[:, depth]
        # The served node stands first even where another one is likelier, so that top-k never falls with k
        marginal[rows, served] = np.inf
        rank = (marginal > marginal[rows, true][:, None]).sum(axis=1)
        right = served == true
        top1, top3, top5 = (float(right.mean()) if k == 1 else float((rank < k).mean()) for k in TOPS)
        ece = expected_calibration_error(answers.confidences[:, depth], right)
        scores.append(LevelScores(name, len(y), top1, top3, top5, macro_f1(true, served), ece))
    return tuple(scores)


def macro_f1(true: NDArray[np.integer], answered: NDArray[np.integer]) -> float:
    """Mean F1 over the labels that are true or answered at least once, as scikit-learn's `average="macro"`."""
    n = int(max(true.max(), answered.max())) + 1
    hits = np.bincount(true[true == answered], minlength=n)
    total = np.bincount(true, minlength=n) + np.bincount(answered, minlength=n)
    occurs = total > 0
    return float((2 * hits[occurs] / total[occurs]).mean())


def confusion_matrix(true: NDArray[np.integer], answered: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """int64 [n, n]: items by true label (row) and answer (column)."""
    return np.bincount(true.astype(np.int64) * n + answered, minlength=n * n).reshape(n, n)


def confused_pairs(
    true: NDArray[np.integer], answered: NDArray[np.integer], limit: int = 20
) -> list[tuple[int, int, int]]:
    """The most frequent mistakes as (true, answered, count), the most frequent first; ties by index."""
    wrong = true != answered
    pairs, counts = np.unique(np.stack([true[wrong], answered[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]
