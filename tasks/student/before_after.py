"""What cleaning did to the student, level by level: accuracy before, after, and the difference on the same items.

Knows probabilities and true labels; both students were trained by whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.comparison import paired_difference
from tasks.student.intervals import wilson
from tasks.student.levels import Levels, decode


@dataclass(frozen=True)
class LevelEffect:
    """One row of the table: shares in [0, 1] of `items` right, each as (value, low, high) at 95 %.

    `before` and `after` have Wilson intervals; `delta` is after less before, with a paired bootstrap interval.
    """

    level: str
    items: int
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    delta: tuple[float, float, float]


def effect_by_level(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    y: NDArray[np.integer],
    levels: Levels,
    seed: int = 0,
) -> tuple[LevelEffect, ...]:
    """Compare two students on the same judged items, as they would be served (`levels.decode`).

    Args:
        before: probabilities [n, leaves] of the student of the labels as they came; n at least 1.
        after: of the student of the cleaned labels.
        y: true leaves [n].
        levels: the tree.
        seed: of the bootstrap.
    """
    first, second = decode(before, levels).nodes, decode(after, levels).nodes
    found = []
    for depth, (name, nodes) in enumerate(zip(levels.names, levels.maps, strict=True)):
        was, is_now = first[:, depth] == nodes[y], second[:, depth] == nodes[y]
        delta = paired_difference(is_now, was, seed=seed)
        found.append(LevelEffect(name, len(y), _share(was), _share(is_now), delta))
    return tuple(found)


def _share(right: NDArray[np.bool_]) -> tuple[float, float, float]:
    return (float(right.mean()), *wilson(int(right.sum()), len(right)))
