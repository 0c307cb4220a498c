"""Rows that cleaning lets count for less: left out of learning, or learned with two labels that share the weight.

Every row is judged by its raw label all the same: nothing may be evaluated on what was cleaned.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.student.crossfit import UNLABELLED, never_judged
from tasks.student.training import Rows


def shared(rows: Rows, share: NDArray[np.floating], rest: NDArray[np.integer]) -> Rows:
    """Each row's label keeps its share of the weight; what is left of it goes to the other label, if there is one.

    A head that is trained on a row twice, with two labels and weights that add up, minimises the cross-entropy against
    the soft label of those weights. The second row is learned from wherever the first one is, and never judged.

    Args:
        rows: training rows, none of them shared yet.
        share: [n] in [0, 1]; where it is 0 the row's own label is not learned.
        rest: leaf indices [n] of the other label, -1 where there is none and what is left is lost.
    """
    labels = np.where(share > 0, rows.labels, UNLABELLED).astype(np.int64)
    weight = np.where(share > 0, rows.weight * share, rows.weight).astype(np.float32)
    twice = np.flatnonzero((rest >= 0) & (share < 1))
    if not len(twice):
        return replace(rows, labels=labels, weight=weight)
    return replace(
        rows,
        vectors=np.concatenate([rows.vectors, rows.vectors[twice]]),
        labels=np.concatenate([labels, rest[twice].astype(np.int64)]),
        raw_labels=np.concatenate([rows.raw_labels, np.full(len(twice), UNLABELLED, np.int64)]),
        folds=np.concatenate([rows.folds, never_judged(rows.folds[twice])]),
        weight=np.concatenate([weight, (rows.weight * (1 - share))[twice].astype(np.float32)]),
        images=None if rows.images is None else [*rows.images, *(rows.images[row] for row in twice.tolist())],
        texts=None if rows.texts is None else [*rows.texts, *(rows.texts[row] for row in twice.tolist())],
        repeated=len(twice),
    )
