"""Cleaning a snapshot: cross-fitted evidence in, proposed labels out; the room's one domain function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.disagreements import settle
from tasks.cleaning.relabel import Cleaning, changes_by_level, clean, estimate_noise
from tasks.student.evaluation import confused_pairs
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead
from tasks.student.neighbours import cross_fitted_votes


def clean_rows(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    weight: NDArray[np.float32],
    candidates: NDArray[np.int64],
    folds: NDArray[np.int16],
    locked: NDArray[np.bool_],
    levels: Levels,
    cap: float,
    seed: int = 0,
) -> tuple[Cleaning, float]:
    """Judge each label by a linear head and by neighbours that never saw it.

    Where passes differ the student casts the third vote, between what they said. Labels that only one source
    vouches for are overwritten where the evidence against them is strong; locked ones never.

    Args:
        vectors: float32 [n, d].
        labels: leaf indices [n].
        weight: float32 [n], of each row in training.
        candidates: leaf indices [n, passes] of disputed rows, -1 elsewhere and for missing answers.
        folds: [n], by near-duplicate group.
        locked: bool [n], labels of people and those on which independent passes agree.
        levels: the tree.
        cap: no label loses more than this share.
        seed: of training.

    Returns:
        The proposal, and the regularisation strength that the judging head found.

    Raises:
        TrainingError: the rows cannot be cross-fitted.
    """
    head = LinearHead()
    P = head.tune(vectors, labels, folds, weight, n_leaves=levels.n_leaves, seed=seed)
    V = cross_fitted_votes(vectors, labels, folds, levels.n_leaves, weight=weight)
    disputed = (candidates >= 0).any(axis=1)
    cleaning = clean(labels, P, V, levels, locked | disputed, max_loss=cap)
    settled = np.where(disputed, settle(candidates, P, V), cleaning.labels)
    overwritten = settled != labels
    settled_rows = ~disputed
    merged = replace(
        cleaning,
        noise_estimate=estimate_noise(P[settled_rows], labels[settled_rows]) if settled_rows.any() else 0.0,
        labels=settled,
        overwritten=overwritten,
        by_level=changes_by_level(labels, settled, levels),
        confused_pairs=confused_pairs(labels[overwritten], settled[overwritten]),
    )
    return merged, float(head.strength or 1.0)
