"""Confident learning by cleanlab itself (the extra `cleanlab`), on probabilities that were cross-fitted here.

cleanlab says which labels are wrong; what they become is the out-of-fold favourite. Knows arrays only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.noise import noise_by_level
from tasks.cleaning.relabel import Cleaning, propose
from tasks.errors import TrainingError
from tasks.student.levels import Levels


def label_issues(y: NDArray[np.integer], P: NDArray[np.floating]) -> NDArray[np.bool_]:
    """bool [n], the labels that `cleanlab.filter.find_label_issues` with its defaults holds to be wrong.

    Args:
        y: leaf indices [n], all labelled.
        P: out-of-fold probabilities [n, leaves].

    Raises:
        TrainingError: cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise TrainingError(
            "cleaning.method is cleanlab, which is not installed",
            "Install it (`pip install llm-flywheel[cleanlab]`), or set cleaning.method: cross_fitted.",
        ) from error

    borne, dense = np.unique(y, return_inverse=True)
    if len(borne) < 2:
        return np.zeros(len(y), bool)  # with one label there is nothing to confuse it with
    judged = np.clip(P[:, borne].astype(np.float64), 1e-12, None)
    judged /= judged.sum(axis=1, keepdims=True)
    return np.asarray(find_label_issues(dense, judged, n_jobs=1), bool)


def relabel_issues(
    y: NDArray[np.integer],
    P: NDArray[np.floating],
    levels: Levels,
    locked: NDArray[np.bool_],
    max_loss: float,
) -> Cleaning:
    """Overwrite what cleanlab holds to be wrong by the likeliest other label.

    Args:
        y: given leaves [n], all labelled.
        P: out-of-fold probabilities [n, leaves].
        levels: the tree.
        locked: [n], labels that cleanlab neither sees nor touches.
        max_loss: no leaf loses more than this share of its rows.

    Raises:
        TrainingError: cleanlab is not installed.
    """
    rows, free = np.arange(len(y)), ~locked
    wrong = np.zeros(len(y), bool)
    wrong[free] = label_issues(y[free], P[free])
    others = P.astype(np.float64)
    others[rows[wrong], y[wrong]] = -1.0
    favourite = others.argmax(axis=1)
    sure = P[rows, favourite]
    gain = (sure - P[rows, y]).astype(np.float32)
    estimated = noise_by_level(y[free], P[free], levels)
    noise = {name: replace(level, margin=0.0) for name, level in estimated.items()}
    return propose(y, favourite, gain, sure, wrong, free, noise, levels, max_loss)
