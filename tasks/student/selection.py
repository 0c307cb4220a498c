"""Which candidate becomes the student: the one with the least out-of-fold log-loss.

Log-loss rather than accuracy or F1, because thresholds live on probabilities: F1 picked a badly calibrated
candidate in two of three cases. Knows no gold and must never be shown any.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.calibration import log_loss_of


def out_of_fold_losses(
    candidates: Mapping[str, NDArray[np.floating]],
    y: NDArray[np.integer],
    rows: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """The log-loss of each candidate, in nats, over the rows of the mask (all labelled ones by default).

    Args:
        candidates: out-of-fold probabilities [n, leaves] by name.
        y: leaf indices [n]; -1 marks unlabelled rows, which never count.
        rows: mask [n].

    Raises:
        TrainingError: no candidate, or no row to judge them by.
    """
    judged = (y >= 0) if rows is None else (rows & (y >= 0))
    if not candidates:
        raise TrainingError("there is no candidate to choose from", "name one under student.candidates")
    if not judged.any():
        raise TrainingError("there is no labelled row to judge the candidates by", "label some items first")
    by = np.flatnonzero(judged)
    return {name: log_loss_of(P[by, y[by]]) for name, P in candidates.items()}


def choose(
    candidates: Mapping[str, NDArray[np.floating]],
    y: NDArray[np.integer],
    rows: NDArray[np.bool_] | None = None,
) -> str:
    """The name of the candidate with the least out-of-fold log-loss; on a tie the one named first.

    Args:
        candidates: out-of-fold probabilities [n, leaves] by name.
        y: leaf indices [n]; -1 marks unlabelled rows, which never count.
        rows: mask [n].

    Raises:
        TrainingError: no candidate, or no row to judge them by.
    """
    losses = out_of_fold_losses(candidates, y, rows)
    return min(losses, key=losses.__getitem__)
