"""What a calibration sample looks like: which labels, how high scores, how familiar. Kept with the policy it certified.

Knows answers as arrays; what is later compared with it, and when that is drift, is monitoring's business.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.package import Answers

BINS = 32
DECIMALS = 6
"""Two batches of one size or another may differ in the seventh digit of a score."""


def calibration_profile(answers: Answers) -> dict[str, Any]:
    """Plain values: `items`, `labels` (path to count), `scores` of the deepest level and `familiarity`.

    The latter two are the edges of bins and the items in each; None where the student keeps no prototypes.
    """
    return {
        "items": len(answers.labels),
        "labels": dict(sorted(Counter(answers.labels).items())),
        "scores": _shape(answers.scores[:, -1]),
        "familiarity": None if answers.familiarity is None else _shape(answers.familiarity),
    }


def binned(values: NDArray[np.floating], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each value, int64 [n] from 0 to len(edges): bin i ends with edge i, which it includes."""
    return np.searchsorted(edges, np.round(values.astype(np.float64), DECIMALS), side="left")


def _shape(values: NDArray[np.floating]) -> dict[str, list[Any]]:
    rounded = np.round(values.astype(np.float64), DECIMALS)
    inner = np.arange(1, BINS) / BINS
    edges = np.zeros(0)
    if len(rounded):
        edges = np.unique(np.quantile(rounded, inner, method="inverted_cdf")).astype(np.float64)
    counts = np.bincount(binned(rounded, edges), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
