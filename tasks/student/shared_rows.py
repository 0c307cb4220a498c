"""Rows that cleaning lets count for less: left out of learning, or learned with two labels that share the weight.

Every row is judged by its raw label all the same: nothing may be evaluated on what was cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.student.crossfit import UNLABELLED, never_judged
from tasks.student.nested import Apart, Lesson
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


@dataclass(frozen=True, eq=False)
class Instead:
    """Rows [m], and the label, its share and the other label that are learned of them while a part is judged."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    share: NDArray[np.float32]
    rest: NDArray[np.int64]


def apart(
    rows: Rows,
    share: NDArray[np.floating],
    rest: NDArray[np.integer],
    part_of: NDArray[np.integer],
    instead: Mapping[int, Instead],
) -> Rows:
    """`shared`, and each part judged by what learns the same rows as if that part had said nothing.

    Args:
        rows: training rows, none of them shared yet.
        share: as `shared` takes it.
        rest: likewise.
        part_of: the part of each row [n], -1 for rows that are never judged.
        instead: by part what is learned otherwise.
    """

    def lesson(part: int) -> Lesson:
        labels, shares, others = rows.labels.copy(), share.copy(), rest.copy()
        if (other := instead.get(part)) is not None:
            labels[other.rows], shares[other.rows], others[other.rows] = other.labels, other.share, other.rest
        taught = shared(replace(rows, labels=labels), shares, others)
        own = np.where(taught.folds < 0, -1 - taught.folds, taught.folds)
        judged = np.pad(part_of, (0, taught.repeated), constant_values=-1)
        # what is written or repeated goes with the folds of the part
        goes_with = (judged == part) | ((judged < 0) & np.isin(own, own[judged == part]))
        kept = np.flatnonzero((taught.labels >= 0) & ~goes_with)
        return taught.vectors[kept], taught.labels[kept], taught.weight[kept]

    whole = shared(rows, share, rest)
    parts = np.pad(part_of, (0, whole.repeated), constant_values=-1).astype(np.int64)
    return replace(whole, apart=Apart(parts, lesson))
