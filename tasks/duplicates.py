"""Near-duplicate texts: Jaccard of character trigrams at least 0.8, found by MinHash in time linear in the rows.

Knows texts only. Candidates come from locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman & Ullman, "Mining
of Massive Datasets", chapter 3) and every one is verified by its exact Jaccard similarity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIMILARITY = 0.8
BANDS, ROWS = 20, 5
"""A pair at Jaccard s meets in some band with probability 1 - (1 - s^5)^20: 0.9996 at 0.8, 0.47 at 0.5."""

WINDOW = 8
"""Members of a crowded bucket are compared with this many next to them (ordered by another band), not with all."""

PAIRS_AT_ONCE = 200_000
TEXTS_AT_ONCE = 20_000
MOST_IN_TABLE, TABLE_FOR_EACH = 1 << 24, 16
"""Entries of a table of all trigrams that an alphabet allows: at most so many, and so many for each one there is."""

Signatures = NDArray[np.uint64]
"""[n, BANDS], what `signatures` gives of n texts."""


def near_duplicate_groups(
    texts: Sequence[str], similarity: float = SIMILARITY, signed: Signatures | None = None
) -> NDArray[np.int64]:
    """The group of each text: the row of its first member, so that groups keep their number as rows are appended.

    Groups are connected components: a chain of near-duplicates is one group even if its ends differ. Case and
    white space do not count.

    Args:
        texts: [n].
        similarity: Jaccard of trigram sets in (0, 1] from which two texts are near-duplicates.
        signed: the texts' signatures, where they are known.

    Returns:
        int64 [n], `groups[i] <= i`.
    """
    n = len(texts)
    groups = np.arange(n, dtype=np.int64)
    if n < 2:
        return groups
    for order, buckets in _buckets(_by_band(signatures(texts) if signed is None else signed)):
        for step in range(1, WINDOW + 1):
            together = buckets[step:] == buckets[:-step]
            pairs = np.stack([order[:-step][together], order[step:][together]], axis=1)
            pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
            if len(pairs):
                groups = _merged(groups, pairs[_jaccard(texts, texts, pairs) >= similarity])
    return groups


def near_duplicates_of(
    texts: Sequence[str],
    reference_texts: Sequence[str],
    similarity: float = SIMILARITY,
    signed: Signatures | None = None,
) -> NDArray[np.bool_]:
    """Which texts are near-duplicates of some reference text (gold, say, which training must not resemble).

    Args:
        texts: [n].
        reference_texts: [m].
        similarity: Jaccard of trigram sets in (0, 1].
        signed: the texts' signatures, where they are known.

    Returns:
        bool [n].
    """
    found = np.zeros(len(texts), bool)
    if not len(texts) or not len(reference_texts):
        return found
    bands = _by_band(signatures(texts) if signed is None else signed)
    their_bands = _by_band(signatures(reference_texts))
    for band in range(BANDS):
        # Sorted by (this band, next band): of a crowded bucket a text meets the members most like it
        order = np.lexsort((their_bands[(band + 1) % BANDS], their_bands[band]))
        keys = their_bands[band][order]
        low = np.searchsorted(keys, bands[band], "left")
        high = np.searchsorted(keys, bands[band], "right")
        inside = their_bands[(band + 1) % BANDS][order]
        for step in range(2 * WINDOW):
            asked = np.flatnonzero(~found & (low < high))
            if not len(asked):
                break
            at = low[asked] + step
            if step >= WINDOW:  # beyond the first few, jump to where the next band agrees
                middle = _lower_bound_within(
                    inside, low[asked], high[asked], bands[(band + 1) % BANDS][asked]
                )
                at = middle + step - WINDOW
            within = at < high[asked]
            pairs = np.stack([asked[within], order[at[within]]], axis=1)
            similar = _jaccard(texts, reference_texts, pairs) >= similarity
            found[pairs[similar, 0]] = True
    return found


def signatures(texts: Sequence[str]) -> Signatures:
    """MinHashes of each text, some to a band: what a text alone decides, so that they may be kept with it."""
    found = np.zeros((len(texts), BANDS), np.uint64)
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        found[first : first + TEXTS_AT_ONCE] = _bands(_trigrams(texts[first : first + TEXTS_AT_ONCE])).T
    return found


@dataclass(frozen=True, eq=False)
class _Trigrams:
    """Sorted distinct trigrams of each text, one after another; text i owns values[starts[i]:starts[i + 1]].

    A value is the place of its trigram among the `distinct` ones.
    """

    values: NDArray[np.int64]
    starts: NDArray[np.int64]
    distinct: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


def _trigrams(texts: Sequence[str]) -> _Trigrams:
    tidy = [" ".join(text.casefold().split()).ljust(3) for text in texts]
    lengths = np.fromiter((len(text) for text in tidy), np.int64, len(tidy))
    codes = np.frombuffer("".join(tidy).encode("utf-32-le", "surrogatepass"), np.uint32)
    ends = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(tidy)), lengths)[:-2]
    inside = np.arange(len(owner)) < ends[owner] - 2
    owner = owner[inside]
    distinct, places = _distinct_trigrams(codes, inside)
    pairs = np.sort(owner << 31 | places)  # by text, then trigram; np.unique would take ten times as long
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    starts = np.searchsorted(pairs, np.arange(len(tidy) + 1, dtype=np.int64) << 31)
    return _Trigrams(pairs & ((1 << 31) - 1), starts, distinct)


def _distinct_trigrams(
    codes: NDArray[np.uint32], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sorted distinct trigrams among those that begin at the places marked, and which of them begins at each.

    A trigram's value is its three code points at 21 bits each: no collisions. Where they are many beside those that
    the alphabet allows, a table finds them in one pass instead of sorting.
    """
    used = np.flatnonzero(np.bincount(codes))
    size, ranks = len(used), np.zeros(int(used.max(initial=0)) + 1, np.int64)
    ranks[used] = np.arange(size)
    dense = ranks[codes]
    # Their order is that of the code points.
    trigrams = ((dense[:-2] * size + dense[1:-1]) * size + dense[2:])[inside]
    if size**3 <= min(MOST_IN_TABLE, TABLE_FOR_EACH * len(trigrams)):
        found = np.zeros(size**3, bool)
        found[trigrams] = True
        distinct = np.flatnonzero(found)
        places = (np.cumsum(found, dtype=np.int32) - 1)[trigrams].astype(np.int64)
    else:
        distinct, places = np.unique(trigrams, return_inverse=True)
    first, second, third = distinct // size**2, distinct // size % size, distinct % size
    return used[first] << 42 | used[second] << 21 | used[third], places


def _bands(trigrams: _Trigrams) -> NDArray[np.uint64]:
    """uint64 [bands, n]: one bucket key a band, mixed from its MinHashes."""
    seeds = np.random.default_rng(0x5EED).integers(0, 2**64, (BANDS, ROWS), np.uint64)
    keys = np.zeros((BANDS, len(trigrams)), np.uint64)
    for band in range(BANDS):
        for seed in seeds[band]:
            rank = _scattered(trigrams.distinct, seed)
            smallest = np.minimum.reduceat(rank[trigrams.values], trigrams.starts[:-1])
            keys[band] = (keys[band] ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
            keys[band] ^= keys[band] >> np.uint64(29)
    return keys


def _scattered(trigrams: NDArray[np.int64], seed: np.uint64) -> NDArray[np.uint32]:
    """A random function of each trigram: the finaliser of splitmix64 (Steele et al. 2014)."""
    mixed = trigrams.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ seed
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _by_band(signed: Signatures) -> NDArray[np.uint64]:
    return np.ascontiguousarray(signed.T)


def _buckets(bands: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    for band in range(BANDS):
        order = np.lexsort((bands[(band + 1) % BANDS], bands[band]))
        yield order, bands[band][order]


def _lower_bound_within(
    values: NDArray[np.uint64], low: NDArray[np.int64], high: NDArray[np.int64], wanted: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """For each i the first position in [low, high) whose value is not below the wanted one (bisection)."""
    low, high = low.copy(), high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        below = (low < high) & (values[np.minimum(middle, len(values) - 1)] < wanted)
        high = np.where(below | (low >= high), high, middle)
        low = np.where(below, middle + 1, low)
    return low


def _jaccard(a: Sequence[str], b: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact similarity of a's text pairs[:, 0] with b's text pairs[:, 1]."""
    found = np.zeros(len(pairs))
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        (of_a, left), (of_b, right) = (np.unique(part[:, side], return_inverse=True) for side in (0, 1))
        trigrams = _trigrams([*(a[row] for row in of_a.tolist()), *(b[row] for row in of_b.tolist())])
        matrix, sizes, right = _matrix(trigrams), np.diff(trigrams.starts), right + len(of_a)
        shared = np.asarray(matrix[left].multiply(matrix[right]).sum(axis=1)).ravel()
        found[start : start + PAIRS_AT_ONCE] = shared / (sizes[left] + sizes[right] - shared)
    return found


def _matrix(trigrams: _Trigrams) -> Any:
    from scipy.sparse import csr_matrix

    ones = np.ones(len(trigrams.values), np.int32)
    return csr_matrix((ones, trigrams.values, trigrams.starts), shape=(len(trigrams), 1 << 31))


def _merged(groups: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups joined by the pairs, each numbered again by its first row."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    numbers, places = np.unique(groups[pairs], return_inverse=True)
    ends = places.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(numbers),) * 2)
    component = connected_components(graph, directed=False)[1]
    now = np.arange(len(groups))
    now[numbers] = numbers[np.unique(component, return_index=True)[1]][component]
    return now[groups]
