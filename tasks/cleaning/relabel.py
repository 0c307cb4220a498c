"""Cleaned labels: what the training view uses instead of a teacher's label the student confidently contradicts.

Plain self-distillation on out-of-fold evidence. Knows arrays only; the raw labels stay as they are, and the result
is recomputed from them every night.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.evaluation import confused_pairs
from tasks.student.levels import Levels

VOTE_SHARE = 0.4
"""Weight of the neighbours' vote beside the head's out-of-fold probability: the best cheap rule measured."""

LOWEST_MARGIN = 0.3
"""The margin at and above `NOISY`."""

QUIET, NOISY = 0.05, 0.16
"""Estimated noise up to which nothing is overwritten, and from which the margin is at its lowest.

Human labels are estimated at 0.03 to 0.06 (what the student contradicts there is its own mistakes), 5 % uniform errors
at 0.08 to 0.10, 15 % at 0.2; but 13 % to 15 % errors on hard items at only 0.06, no more than clean ones. Out-of-fold
evidence cannot tell those two apart, so the rule leaves both nearly alone. Who knows the noise from elsewhere (passes
that disagree, reviewed items) passes the margin: `LOWEST_MARGIN` is right from about 12 % errors up."""

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
        gain: float32 [n], how much more the evidence is for its favourite than for the given label, in [0, 1].
        noise_estimate: see `estimate_noise`.
        margin: what `gain` had to reach; inf where nothing was to be overwritten.
        by_level: changes by level name.
        confused_pairs: (given leaf, new leaf, count), the most frequent first.
    """

    labels: NDArray[np.int64]
    overwritten: NDArray[np.bool_]
    suspects: NDArray[np.int64]
    gain: NDArray[np.float32]
    noise_estimate: float
    margin: float
    by_level: Mapping[str, LevelCleaning]
    confused_pairs: list[tuple[int, int, int]]


def estimate_noise(P: NDArray[np.floating], y: NDArray[np.integer]) -> float:
    """The share of wrong labels by confident learning (Northcutt, Jiang & Chuang, JAIR 70, 2021, section 3.1).

    A row counts where some label's out-of-fold probability reaches that label's own average among the rows that
    bear it; the estimate is the share of those rows whose likeliest such label is not the given one. It leans low:
    errors that the teacher makes systematically are learned by the student and leave no trace, and those on hard
    items hide among the rows that do not count.

    Args:
        P: out-of-fold probabilities [n, leaves].
        y: given labels [n], all labelled.

    Returns:
        A share in [0, 1]; 0 where no row counts.
    """
    given = P[np.arange(len(y)), y].astype(np.float64)
    counts = np.bincount(y, minlength=P.shape[1])
    usual = np.bincount(y, given, P.shape[1]) / np.maximum(counts, 1)
    usual[counts == 0] = np.inf
    reached = np.where(usual <= P, P, -1.0)
    confident = reached.max(axis=1) >= 0
    if not confident.any():
        return 0.0
    return float((reached.argmax(axis=1) != y)[confident].mean())


def margin_for(noise_estimate: float) -> float:
    """The margin a contradiction must reach: `LOWEST_MARGIN` at `NOISY` and above, rising to 1 (never) at `QUIET`.

    Returns:
        A number in [LOWEST_MARGIN, 1], or inf at or below `QUIET`.
    """
    if noise_estimate <= QUIET:
        return float("inf")
    quietness = min(1.0, max(0.0, (NOISY - noise_estimate) / (NOISY - QUIET)))
    return LOWEST_MARGIN + (1 - LOWEST_MARGIN) * quietness


def clean(
    y: NDArray[np.integer],
    P: NDArray[np.floating],
    V: NDArray[np.floating],
    levels: Levels,
    locked: NDArray[np.bool_] | None = None,
    *,
    max_loss: float = MAX_LOSS,
    margin: float | None = None,
) -> Cleaning:
    """Overwrite a label where 0.6 x out-of-fold probability + 0.4 x neighbours' vote beats it by the margin.

    Args:
        y: given leaves [n]; -1 marks unlabelled rows, which stay so.
        P: out-of-fold probabilities [n, leaves] (`student.crossfit`, folds by near-duplicate group).
        V: neighbours' votes [n, leaves] (`student.neighbours.cross_fitted_votes`, the same folds).
        levels: the tree, for the report by level.
        locked: [n], labels of people: never overwritten, never suspects.
        max_loss: no leaf loses more than this share of its rows, in [0, 1]; the least contradicted stay.
        margin: overrides `margin_for(estimate_noise(P, y))`.

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
    evidence = (1 - VOTE_SHARE) * P + VOTE_SHARE * V
    rows = np.arange(len(y))
    favourite = evidence.argmax(axis=1)
    gain = np.where(labelled, evidence[rows, favourite] - evidence[rows, given], 0).astype(np.float32)
    noise = estimate_noise(P[free], y[free]) if free.any() else 0.0
    margin = margin_for(noise) if margin is None else margin
    wanted = free & (favourite != given) & (gain > 0) & (gain >= margin)
    overwritten = _capped(wanted, gain, given, labelled, max_loss)
    cleaned = np.where(overwritten, favourite, y).astype(np.int64)
    doubted = np.flatnonzero(free & (gain > 0) & ~overwritten)
    return Cleaning(
        labels=cleaned,
        overwritten=overwritten,
        suspects=doubted[np.argsort(-gain[doubted], kind="stable")],
        gain=gain,
        noise_estimate=noise,
        margin=margin,
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
