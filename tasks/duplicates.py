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


def near_duplicate_groups(texts: Sequence[str], similarity: float = SIMILARITY) -> NDArray[np.int64]:
    """The group of each text: the row of its first member, so that groups keep their number as rows are appended.

    Groups are connected components: a chain of near-duplicates is one group even if its ends differ. Case and
    white space do not count.

    Args:
        texts: [n].
        similarity: Jaccard of trigram sets in (0, 1] from which two texts are near-duplicates.

    Returns:
        int64 [n], `groups[i] <= i`.
    """
    n = len(texts)
    groups = np.arange(n, dtype=np.int64)
    if n < 2:
        return groups
    trigrams = _trigrams(texts)
    for order, buckets in _buckets(_bands(trigrams, trigrams.vocabulary)):
        for step in range(1, WINDOW + 1):
            together = buckets[step:] == buckets[:-step]
            pairs = np.stack([order[:-step][together], order[step:][together]], axis=1)
            pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
            if len(pairs):
                groups = _merged(groups, pairs[_jaccard(trigrams, trigrams, pairs) >= similarity])
    return groups


def near_duplicates_of(
    texts: Sequence[str], reference_texts: Sequence[str], similarity: float = SIMILARITY
) -> NDArray[np.bool_]:
    """Which texts are near-duplicates of some reference text (gold, say, which training must not resemble).

    Args:
        texts: [n].
        reference_texts: [m].
        similarity: Jaccard of trigram sets in (0, 1].

    Returns:
        bool [n].
    """
    found = np.zeros(len(texts), bool)
    if not len(texts) or not len(reference_texts):
        return found
    trigrams = _trigrams([*texts, *reference_texts])
    mine, theirs = trigrams.part(0, len(texts)), trigrams.part(len(texts), len(trigrams))
    bands, their_bands = _bands(mine, trigrams.vocabulary), _bands(theirs, trigrams.vocabulary)
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
            similar = _jaccard(mine, theirs, pairs) >= similarity
            found[pairs[similar, 0]] = True
    return found


@dataclass(frozen=True, eq=False)
class _Trigrams:
    """Sorted distinct trigrams of each text, one after another; text i owns values[starts[i]:starts[i + 1]]."""

    values: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def vocabulary(self) -> int:
        return int(self.values.max(initial=0)) + 1

    def part(self, first: int, last: int) -> _Trigrams:
        cut = self.starts[first : last + 1]
        return _Trigrams(self.values[cut[0] : cut[-1]], cut - cut[0])


def _trigrams(texts: Sequence[str]) -> _Trigrams:
    tidy = [" ".join(text.casefold().split()).ljust(3) for text in texts]
    lengths = np.fromiter((len(text) for text in tidy), np.int64, len(tidy))
    codes = np.frombuffer("".join(tidy).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    trigrams = codes[:-2] << 42 | codes[1:-1] << 21 | codes[2:]  # a code point needs 21 bits: no collisions
    ends = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(tidy)), lengths)[:-2]
    inside = np.arange(len(trigrams)) < ends[owner] - 2
    trigrams, owner = trigrams[inside], owner[inside]
    trigrams = np.unique(trigrams, return_inverse=True)[1]
    pairs = np.unique(owner << 31 | trigrams)  # sorted by text, then trigram
    starts = np.searchsorted(pairs, np.arange(len(tidy) + 1, dtype=np.int64) << 31)
    return _Trigrams(pairs & ((1 << 31) - 1), starts)


def _bands(trigrams: _Trigrams, vocabulary: int) -> NDArray[np.uint64]:
    """uint64 [bands, n]: one bucket key a band, mixed from its MinHashes; comparable for one vocabulary size."""
    rng = np.random.default_rng(0x5EED)
    keys = np.zeros((BANDS, len(trigrams)), np.uint64)
    for band in range(BANDS):
        for _ in range(ROWS):
            rank = rng.integers(0, 2**32, vocabulary, dtype=np.uint32)  # a random function on the trigrams
            smallest = np.minimum.reduceat(rank[trigrams.values], trigrams.starts[:-1])
            keys[band] = (keys[band] ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
            keys[band] ^= keys[band] >> np.uint64(29)
    return keys


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


def _jaccard(a: _Trigrams, b: _Trigrams, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact similarity of a's text pairs[:, 0] with b's text pairs[:, 1]."""
    size_a, size_b = np.diff(a.starts)[pairs[:, 0]], np.diff(b.starts)[pairs[:, 1]]
    shared = np.zeros(len(pairs), np.int64)
    A, B = _matrix(a), _matrix(b)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        shared[start : start + PAIRS_AT_ONCE] = np.asarray(
            A[part[:, 0]].multiply(B[part[:, 1]]).sum(axis=1)
        ).ravel()
    return shared / (size_a + size_b - shared)


def _matrix(trigrams: _Trigrams) -> Any:
    from scipy.sparse import csr_matrix

    ones = np.ones(len(trigrams.values), np.int32)
    return csr_matrix((ones, trigrams.values, trigrams.starts), shape=(len(trigrams), 1 << 31))


def _merged(groups: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups joined by the pairs, each numbered again by its first row."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(groups)
    ends = np.concatenate([pairs, np.stack([np.arange(n), groups], axis=1)])
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component, return_index=True)[1][component]
