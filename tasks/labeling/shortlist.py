"""The labels nearest to an item by embedding, for taxonomies too large to be listed in every prompt.

Plain numpy: vectors in, places of labels out. Knows neither encoders nor prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.taxonomy import Taxonomy

SCORES_AT_ONCE = 2_000_000  # float32: 8 MB, which stays near the processor
TRUSTED_AT = 3
"""A label's mean item counts for n / (n + 3) of its vector, its text for the rest: with one labelled item a label most
of the weight is the text's, with ten the items'. Measured in notebooks/LOG.md."""


def listed_labels(taxonomy: Taxonomy) -> tuple[str, ...]:
    """The leaves that can be candidates: all but "none of these", which is like nothing."""
    return tuple(leaf for leaf in taxonomy.leaves if leaf != taxonomy.other)


def label_texts(taxonomy: Taxonomy) -> list[str]:
    """What is encoded for each of the `listed_labels`: its path, followed by its instruction."""
    abouts = (" ".join(taxonomy.about.get(leaf, "").split()) for leaf in listed_labels(taxonomy))
    return [
        f"{leaf}: {about}" if about else leaf
        for leaf, about in zip(listed_labels(taxonomy), abouts, strict=True)
    ]


def label_vectors(
    L: NDArray[np.float32], X: NDArray[np.float32], labels: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.float32]:
    """Where each label lies: between its text and the mean of its items, nearer to these the more there are.

    Args:
        L: [m, d], the vectors of the labels' texts.
        X: [n, d], the vectors of labelled items; may be empty.
        labels: [n], the place of each item's label in `L`.

    Returns:
        Unit vectors float32 [m, d].
    """
    texts = unit(L)
    places = np.asarray(labels, np.int64)
    if not len(places):
        return texts
    means = np.zeros_like(texts)
    np.add.at(means, places, unit(X))
    items = np.bincount(places, minlength=len(texts)).astype(np.float32)
    share = (items / (items + TRUSTED_AT))[:, None]
    return unit((1 - share) * texts + share * unit(means))


def nearest(X: NDArray[np.float32], L: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """The `count` rows of `L` with the largest cosine to each row of `X`, the nearest first.

    Args:
        X: [n, d].
        L: [m, d].
        count: at least 1; more than m is m.

    Returns:
        int32 [n, min(count, m)]; of equals among them the first in `L` comes first. Memory beyond is bounded,
        whatever n.
    """
    count = min(count, len(L))
    found = np.empty((len(X), count), np.int32)
    if not count:
        return found
    labels = np.ascontiguousarray(unit(L).T)
    rows = max(1, SCORES_AT_ONCE // len(L))
    for first in range(0, len(X), rows):
        scores = unit(X[first : first + rows]) @ labels
        best = np.sort(np.argpartition(scores, len(L) - count, axis=1)[:, -count:], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found[first : first + rows] = np.take_along_axis(best, order, axis=1)
    return found


def unit(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a row of zeros stays one and is near nothing."""
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    return (X / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
