"""Cleaning a snapshot: cross-fitted evidence in, proposed labels out; the room's one domain function.

Chooses between the methods; what becomes of the rows they contradict is `treatment`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.confident_learning import relabel_issues
from tasks.cleaning.disagreements import settle
from tasks.cleaning.evidence import neighbours_outside
from tasks.cleaning.noise import Counted, estimate_noise
from tasks.cleaning.relabel import Cleaning, changes_by_level, clean, evidence_for
from tasks.cleaning.resubstitution import overwrite_above
from tasks.student.evaluation import confused_pairs
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead

Method = Literal["cross_fitted", "cleanlab", "resubstitution"]


def clean_rows(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    weight: NDArray[np.float32],
    candidates: NDArray[np.int64],
    folds: NDArray[np.int16],
    people: NDArray[np.bool_],
    agreed: NDArray[np.bool_],
    levels: Levels,
    cap: float,
    seed: int = 0,
    method: Method = "cross_fitted",
    confidence: float = 0.85,
    gold: Sequence[Counted] = (),
    passes: Sequence[Counted] = (),
    head: LinearHead | None = None,
) -> tuple[Cleaning, float]:
    """Judge each label by a linear head and by neighbours that never saw it.

    Where passes differ the student casts the third vote, between what they said. Labels that only one source
    vouches for are overwritten where the evidence against them is strong; those of people and those on which passes
    agree never. `resubstitution` does neither: of each row it takes the first answer, and spares people's labels only.

    Args:
        vectors: float32 [n, d].
        labels: leaf indices [n].
        weight: float32 [n], of each row in training.
        candidates: leaf indices [n, passes] of disputed rows, -1 elsewhere and for missing answers.
        folds: [n], by near-duplicate group.
        people: bool [n], labels of people.
        agreed: bool [n], labels on which independent passes agree.
        levels: the tree.
        cap: no label loses more than this share.
        seed: of training.
        method: how wrong labels are found.
        confidence: of `resubstitution`, see `overwrite_above`.
        gold: by level, errors of whoever gave the labels that may be overwritten, counted on gold.
        passes: the same, by passes that differ.
        head: judges; tuned here, unless it brings a strength.

    Returns:
        The proposal, and the regularisation strength that the judging head found. Of a disputed row `favourite` is
        what the third vote went to.

    Raises:
        TrainingError: the rows cannot be cross-fitted, or cleanlab is wanted and not installed.
    """
    head = head or LinearHead()
    P = head.tune(vectors, labels, folds, weight, n_leaves=levels.n_leaves, seed=seed)
    strength = float(head.strength or 1.0)
    if method == "resubstitution":
        fitted = head.fit(vectors, labels, weight, n_leaves=levels.n_leaves, seed=seed)
        seen = fitted.predict_proba(vectors)
        return overwrite_above(labels, seen, P, levels, people, confidence, cap), strength
    neighbours = neighbours_outside(vectors, labels, folds)
    V = neighbours.votes(labels, levels.n_leaves, weight)
    disputed = np.asarray((candidates >= 0).any(axis=1))
    locked = people | agreed | disputed
    if method == "cleanlab":
        cleaning = relabel_issues(labels, P, levels, locked, cap)
    else:
        twins = neighbours.twins(~locked)
        cleaning = clean(labels, P, V, levels, locked, max_loss=cap, gold=gold, passes=passes, twins=twins)
    settled = np.where(disputed, settle(candidates, P, V), cleaning.labels)
    overwritten = settled != labels
    favourite = np.where(disputed, settled, cleaning.favourite)
    sure = np.where(disputed, evidence_for(np.maximum(favourite, 0), P, V), cleaning.confidence)
    gain = np.where(disputed, sure - evidence_for(labels, P, V), cleaning.gain)
    merged = replace(
        cleaning,
        noise_estimate=_noise(P, labels, ~disputed),
        labels=settled,
        overwritten=overwritten,
        favourite=favourite,
        confidence=sure.astype(np.float32),
        gain=gain.astype(np.float32),
        by_level=changes_by_level(labels, settled, levels),
        confused_pairs=confused_pairs(labels[overwritten], settled[overwritten]),
    )
    return merged, strength


def _noise(P: NDArray[np.float32], labels: NDArray[np.int64], settled: NDArray[np.bool_]) -> float:
    """The estimate over the rows with a settled label; without a copy where these are all."""
    if not settled.any():
        return 0.0
    return estimate_noise(P, labels) if settled.all() else estimate_noise(P[settled], labels[settled])
