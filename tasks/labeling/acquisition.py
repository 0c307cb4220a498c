"""In which order items are worth asking about: uncertain, diverse and random ones, mixed at every point.

Knows vectors and margins of a bounded pool of items. Where they come from, what is owed and how much is asked in
the end is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.labeling.spread import greatest_similarity, representatives, unit

UNCERTAIN, DIVERSE, RANDOM = "uncertain", "diverse", "random"
WHY = (UNCERTAIN, DIVERSE, RANDOM)

POOL_ITEMS = 131_072
"""Items looked at: a random sample beyond that, whose most uncertain are as good as those of all."""

LABELLED_ITEMS = 16_384
DIVERSE_POOL_ITEMS = 16_384
MOST_UNCERTAIN = 16_384
MOST_DIVERSE = 4_096
"""More than so many in one run are not planned; random ones take their place."""

WINDOW = 4
"""So many times more of the most uncertain items are looked at than are taken, to take no thing twice."""

AT_ONCE, CANDIDATES = 512, 8_192


@dataclass(frozen=True, eq=False)
class Sight:
    """What embeddings and the current student say about the items that may be asked about.

    Attributes:
        rows: int64 [n], the places of these items in the order that was asked about; ascending.
        vectors: float32 [n, d].
        labelled: float32 [m, d], the vectors of items that have a label already.
        margins: float32 [n], the student's probability of its first leaf minus that of its second; None without
            a student.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    labelled: NDArray[np.float32]
    margins: NDArray[np.float32] | None = None


def margins_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n] in [0, 1]: the greatest of each row [n, leaves] minus the second greatest."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), np.float32)
    greatest = np.partition(probabilities, -2, axis=1)
    return np.asarray(greatest[:, -1] - greatest[:, -2], np.float32)


def usable_shares(mix: Mapping[str, float], sight: Sight | None) -> dict[str, float]:
    """The mix as far as it can be kept: without a student its share goes to diverse, without embeddings to random."""
    if sight is None or not len(sight.rows):
        return {UNCERTAIN: 0.0, DIVERSE: 0.0, RANDOM: 1.0}
    if sight.margins is None:
        return {UNCERTAIN: 0.0, DIVERSE: mix[UNCERTAIN] + mix[DIVERSE], RANDOM: mix[RANDOM]}
    return {why: mix[why] for why in WHY}


def mixed_order(
    items: int, wanted: int, mix: Mapping[str, float], sight: Sight | None, seed: int
) -> tuple[NDArray[np.int64], list[str]]:
    """All items in the order to ask about them, so that every beginning of it has the mix.

    Args:
        items: how many there are; they stand in a random order already, which the random share keeps.
        wanted: how many will be asked about, as far as is known; after these the order is random.
        mix: share of `uncertain`, `diverse` and `random`, adding up to 1.
        sight: what is known about the items, or about some of them; None when nothing is.
        seed: of the choice.

    Returns:
        The items' places int64 [items], and why each is there (`WHY`).
    """
    shares, rng, wanted = usable_shares(mix, sight), np.random.default_rng(seed), min(wanted, items)
    picked: dict[str, NDArray[np.int64]] = {}
    if sight is not None and shares[RANDOM] < 1.0:
        vectors = unit(sight.vectors)
        uncertain = np.zeros(0, np.int64)
        if sight.margins is not None:
            most = min(round(shares[UNCERTAIN] * wanted), MOST_UNCERTAIN)
            uncertain = uncertain_rows(vectors, sight.margins, most, rng)
        most = min(round(shares[DIVERSE] * wanted), MOST_DIVERSE)
        labelled = unit(sight.labelled) if len(sight.labelled) else vectors[:0]
        diverse = diverse_rows(vectors, labelled, uncertain, most, rng)
        picked = {UNCERTAIN: sight.rows[uncertain], DIVERSE: sight.rows[diverse]}
    left = np.ones(items, bool)
    for rows in picked.values():
        left[rows] = False
    picked[RANDOM] = np.flatnonzero(left)
    return _interleaved(picked, shares)


def _interleaved(
    picked: Mapping[str, NDArray[np.int64]], shares: Mapping[str, float]
) -> tuple[NDArray[np.int64], list[str]]:
    """Each kind spread evenly by its share; what has no share (any more) comes last."""
    places, kinds, rows = [], [], []
    for kind, found in picked.items():
        share = shares[kind]
        places.append((np.arange(len(found)) + 0.5) / share if share > 0 else np.full(len(found), np.inf))
        kinds.append(np.full(len(found), WHY.index(kind)))
        rows.append(found)
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(rows)[order], [WHY[kind] for kind in np.concatenate(kinds)[order].tolist()]


def uncertain_rows(
    vectors: NDArray[np.float32], margins: NDArray[np.float32], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows with small margins, the smallest first in windows, and of near-duplicates one.

    Args:
        vectors: float32 [n, d], unit length.
        margins: float32 [n] in [0, 1].
        most: how many.
        rng: of the choice within a window.
    """
    rest = np.argsort(margins, kind="stable")[: WINDOW * most]
    found: list[NDArray[np.int64]] = []
    while most > 0 and len(rest):
        window = rest[: WINDOW * min(most, AT_ONCE)]
        weight = 1.0 - margins[window]
        taken = representatives(vectors[window], min(most, AT_ONCE), rng, weight)
        found.append(window[taken])
        rest = np.delete(rest, taken)
        most -= len(taken)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def diverse_rows(
    vectors: NDArray[np.float32],
    labelled: NDArray[np.float32],
    taken: NDArray[np.int64],
    most: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows that stand for what nothing labelled or taken stands for.

    Args:
        vectors: float32 [n, d], unit length, in random order.
        labelled: float32 [m, d], unit length.
        taken: rows chosen already.
        most: how many.
        rng: of the choice.
    """
    pool = np.setdiff1d(np.arange(min(len(vectors), DIVERSE_POOL_ITEMS + len(taken))), taken)
    if most <= 0 or not len(pool):
        return np.zeros(0, np.int64)
    known = greatest_similarity(vectors[pool], np.concatenate([labelled, vectors[taken]]))
    found: list[NDArray[np.int64]] = []
    while most > 0 and len(pool):
        candidates = np.sort(rng.choice(len(pool), min(CANDIDATES, len(pool)), replace=False))
        chosen = candidates[
            representatives(vectors[pool[candidates]], min(most, AT_ONCE), rng, known=known[candidates])
        ]
        found.append(pool[chosen])
        most -= len(chosen)
        pool, known = np.delete(pool, chosen), np.delete(known, chosen)
        known = np.maximum(known, greatest_similarity(vectors[pool], vectors[found[-1]]))
    return np.concatenate(found)
