"""The recipe as it was first published: train on all labels, predict the same rows, overwrite above a confidence.

Kept so that its table can be reproduced, not because it is good: it judges every row by a model that has seen that
row's label, so it repeats most wrong labels with confidence (notebooks/LOG.md). Knows arrays only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.noise import noise_by_level
from tasks.cleaning.relabel import Cleaning, propose
from tasks.student.levels import Levels


def overwrite_above(
    y: NDArray[np.integer],
    seen: NDArray[np.floating],
    P: NDArray[np.floating],
    levels: Levels,
    locked: NDArray[np.bool_],
    confidence: float,
    max_loss: float,
) -> Cleaning:
    """Overwrite a label where a model that learned from it is at least so sure of another one.

    Args:
        y: given leaves [n], all labelled.
        seen: probabilities [n, leaves] of a model fitted on these very rows.
        P: out-of-fold probabilities [n, leaves], for the noise estimate alone.
        levels: the tree.
        locked: [n], labels of people.
        confidence: the least probability that overwrites, in (0, 1); it stands as `margin` in the result.
        max_loss: no leaf loses more than this share of its rows; the published recipe had no such cap (1).
    """
    rows, free = np.arange(len(y)), ~locked
    favourite = seen.argmax(axis=1)
    sure = seen[rows, favourite]
    gain = (sure - seen[rows, y]).astype(np.float32)
    wanted = free & (favourite != y) & (sure >= confidence)
    estimated = noise_by_level(y[free], P[free], levels)
    noise = {name: replace(level, margin=confidence) for name, level in estimated.items()}
    return propose(y, favourite, gain, sure, wanted, free, noise, levels, max_loss)
