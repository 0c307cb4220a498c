"""Cleaned labels: what the training view uses instead of a teacher's label the student confidently contradicts.

Plain self-distillation on out-of-fold evidence. Knows arrays only; the raw labels stay as they are, and the result
is recomputed from them every night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.noise import Counted, Noise, noise_by_level
from tasks.errors import TrainingError
from tasks.student.evaluation import confused_pairs
from tasks.student.levels import ROWS_AT_ONCE, Levels, marginals

VOTE_SHARE = 0.4
"""Weight of the neighbours' vote beside the head's out-of-fold probability: the best cheap rule measured."""

MAX_LOSS = 0.3


@dataclass(frozen=True)
class LevelCleaning:
    """One level's share of the changes: labels looked at, overwritten at this level, and their ratio in [0, 1]."""

    labels: int
    overwritten: int
    share: float


@dataclass(frozen=True, eq=False)
class Cleaning:
    """What cleaning proposes.

    Attributes:
        labels: int64 [n], the label to train on; unlabelled rows stay -1.
        overwritten: bool [n], where it is not the given one.
        suspects: rows the student contradicts but that were left alone (too small a margin, or a label that would
            have lost more than its share), the strongest contradiction first: worth a second question.
        favourite: int64 [n], the label that the evidence prefers, whether or not it was taken; -1 where unlabelled.
        confidence: float32 [n], the evidence for the favourite, in [0, 1].
        held_back: bool [n], the suspects contradicted by the margin, which only the cap kept as they are: for review.
        gain: float32 [n], how much more the evidence is for its favourite than for the given label, in [0, 1].
        noise: by level name, how many of the labels that may be overwritten are wrong, and the margin that gives.
        noise_estimate: the deepest level's.
        margin: what `gain` had to reach at the deepest level; inf where nothing was to be overwritten.
        by_level: changes by level name.
        confused_pairs: (given leaf, new leaf, count), the most frequent first.
    """

    labels: NDArray[np.int64]
    overwritten: NDArray[np.bool_]
    suspects: NDArray[np.int64]
    favourite: NDArray[np.int64]
    confidence: NDArray[np.float32]
    held_back: NDArray[np.bool_]
    gain: NDArray[np.float32]
    noise: Mapping[str, Noise]
    noise_estimate: float
    margin: float
    by_level: Mapping[str, LevelCleaning]
    confused_pairs: list[tuple[int, int, int]]


def weighed(P: NDArray[np.floating], V: NDArray[np.floating]) -> NDArray[np.floating]:
    """The evidence for each label, float [n, leaves] in [0, 1]: the head's probabilities and the neighbours' votes."""
    return (1 - VOTE_SHARE) * P + VOTE_SHARE * V


def evidence_for(
    leaf: NDArray[np.integer], P: NDArray[np.floating], V: NDArray[np.floating]
) -> NDArray[np.floating]:
    """What `weighed` gives each row [n] for one leaf of its own [n]."""
    rows = np.arange(len(leaf))
    return weighed(P[rows, leaf], V[rows, leaf])


def clean(
    y: NDArray[np.integer],
    P: NDArray[np.floating],
    V: NDArray[np.floating],
    levels: Levels,
    locked: NDArray[np.bool_] | None = None,
    *,
    max_loss: float = MAX_LOSS,
    margin: float | None = None,
    gold: Sequence[Counted] = (),
    passes: Sequence[Counted] = (),
    twins: NDArray[np.integer] | None = None,
) -> Cleaning:
    """Overwrite a label where 0.6 x out-of-fold probability + 0.4 x neighbours' vote beats it by the margin.

    Each level has a margin of its own, from its own noise; a label is overwritten where the evidence clears the
    margin of every level at which the two differ. So a level whose labels are nearly all right is left alone, even
    where many are wrong below it.

    Args:
        y: given leaves [n]; -1 marks unlabelled rows, which stay so.
        P: out-of-fold probabilities [n, leaves] (`student.crossfit`, folds by near-duplicate group).
        V: neighbours' votes [n, leaves] (`evidence.Neighbours.votes`, the same folds).
        levels: the tree, for the report by level.
        locked: [n], labels of people: never overwritten, never suspects.
        max_loss: no leaf loses more than this share of its rows, in [0, 1]; the least contradicted stay.
        margin: of every level, instead of what follows from its noise.
        gold: by level, the errors counted on gold, see `noise_by_level`.
        passes: by level, the errors that passes which differ show.
        twins: rows [m, 2] of the most alike items, see `noise_by_level`.

    Returns:
        The proposal; `y` itself is not touched.

    Raises:
        TrainingError: shapes that do not fit, or a label out of range.
    """
    shape = (len(y), levels.n_leaves)
    if P.shape != shape or V.shape != shape or (len(y) and not -1 <= y.min() <= y.max() < levels.n_leaves):
        raise TrainingError(
            f"labels, probabilities and votes of shapes {y.shape}, {P.shape}, {V.shape} for {shape[1]} leaves",
            "clean with the taxonomy and the rows the student was cross-fitted on",
        )
    labelled = y >= 0
    free = labelled if locked is None else labelled & ~locked
    given = np.where(labelled, y, 0).astype(np.int64)
    blocks = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(y), ROWS_AT_ONCE)]
    favourite = np.zeros(len(y), np.int64)
    for here in blocks:
        favourite[here] = weighed(P[here], V[here]).argmax(axis=1)
    confidence = evidence_for(favourite, P, V)
    gain = np.where(labelled, confidence - evidence_for(given, P, V), 0).astype(np.float32)
    alike = None if twins is None else given[twins]
    noise = noise_by_level(given[free], P if free.all() else P[free], levels, gold, passes, alike)
    if margin is not None:
        noise = {name: Noise(level.share, "given", margin) for name, level in noise.items()}
    wanted = free & (favourite != given) & (gain > 0)
    for here in blocks:
        at_levels = marginals(weighed(P[here], V[here]), levels)
        for name, nodes, weights in zip(levels.names, levels.maps, at_levels, strict=True):
            before, after, rows = nodes[given[here]], nodes[favourite[here]], np.arange(len(weights))
            beaten_by = weights[rows, after] - weights[rows, before]
            wanted[here] &= (before == after) | (beaten_by >= noise[name].margin)
    return propose(y, favourite, gain, confidence, wanted, free, noise, levels, max_loss)


def propose(
    y: NDArray[np.integer],
    favourite: NDArray[np.integer],
    gain: NDArray[np.float32],
    confidence: NDArray[np.floating],
    wanted: NDArray[np.bool_],
    free: NDArray[np.bool_],
    noise: Mapping[str, Noise],
    levels: Levels,
    max_loss: float,
) -> Cleaning:
    """What becomes of the changes a method wants: no label loses more than its share, the rest are suspects.

    Args:
        y: given leaves [n]; -1 unlabelled.
        favourite: leaves [n] that the evidence prefers.
        gain: [n], evidence for the favourite less that for the given label.
        confidence: [n], evidence for the favourite.
        wanted: [n], rows to overwrite.
        free: [n], rows that may be overwritten at all.
        noise: by level.
        levels: the tree.
        max_loss: no leaf loses more than this share of its rows, in [0, 1]; the least contradicted stay.
    """
    labelled = y >= 0
    given = np.where(labelled, y, 0).astype(np.int64)
    overwritten = _capped(wanted, gain, given, labelled, max_loss)
    cleaned = np.where(overwritten, favourite, y).astype(np.int64)
    doubted = np.flatnonzero(free & (wanted | (gain > 0)) & ~overwritten)
    deepest = noise[levels.names[-1]]
    return Cleaning(
        labels=cleaned,
        overwritten=overwritten,
        suspects=doubted[np.argsort(-gain[doubted], kind="stable")],
        favourite=np.where(labelled, favourite, -1).astype(np.int64),
        confidence=np.asarray(confidence, np.float32),
        held_back=wanted & ~overwritten,
        gain=gain,
        noise=noise,
        noise_estimate=deepest.share,
        margin=deepest.margin,
        by_level=changes_by_level(y, cleaned, levels),
        confused_pairs=confused_pairs(y[overwritten], cleaned[overwritten]),
    )


def _capped(
    wanted: NDArray[np.bool_],
    gain: NDArray[np.float32],
    given: NDArray[np.int64],
    labelled: NDArray[np.bool_],
    max_loss: float,
) -> NDArray[np.bool_]:
    """The wanted changes with the largest gains, at most floor(max_loss x rows) from any one label."""
    candidates = np.flatnonzero(wanted)
    candidates = candidates[np.lexsort((-gain[candidates], given[candidates]))]
    labels = given[candidates]
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    # the epsilon keeps 0.3 x 10 at 3
    allowed = np.floor(max_loss * np.bincount(given[labelled], minlength=1) + 1e-9).astype(np.int64)
    overwritten = np.zeros(len(wanted), bool)
    overwritten[candidates[rank < allowed[labels]]] = True
    return overwritten


def changes_by_level(
    before: NDArray[np.integer], after: NDArray[np.integer], levels: Levels
) -> dict[str, LevelCleaning]:
    """How many labels changed at each level; unlabelled rows (-1 before) do not count.

    Args:
        before: leaf indices [n].
        after: leaf indices [n].
        levels: the tree.
    """
    labelled = before >= 0
    given, cleaned, n = before[labelled], after[labelled], int(labelled.sum())
    report = {}
    for name, nodes in zip(levels.names, levels.maps, strict=True):
        changed = int((nodes[given] != nodes[cleaned]).sum())
        report[name] = LevelCleaning(n, changed, changed / n if n else 0.0)
    return report
