"""A noise model that makes gold labels err the way an LLM errs: hard items more, towards confusable labels.

It owns how likely and how an item is mislabelled; items are hard when they lie nearer to another label's
centroid than to their own. It knows nothing of servers, prompts or taxonomies: labels are opaque strings.
Plain numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TRIGRAM_BUCKETS = 2048
CONFUSIONS = 5
"""How many of the nearest labels a wrong answer is drawn from."""
CONFUSION_TEMPERATURE = 0.1
_ROWS_AT_ONCE = 2048


def noisy_passes(
    texts: Sequence[str],
    labels: Sequence[str],
    rate: float,
    passes: int = 2,
    seed: int = 0,
    label_neighbours: Mapping[str, Sequence[str]] | None = None,
) -> list[list[str]]:
    """Noisy answers about texts; hardness and confusions come from hashed character-trigram TF-IDF.

    Args:
        texts: n texts.
        labels: their n true labels.
        rate: mean share of wrong answers in each pass, 0 to 1.
        passes: how many lists of answers to make.
        seed: the same seed and inputs give the same answers.
        label_neighbours: label to the labels it is mistaken for, most likely first; labels it leaves out use
            the nearest centroids.

    Returns:
        `passes` lists of n labels. Half of an item's error probability is shared by all passes, with the same
        wrong label; the rest is drawn anew in each.

    Raises:
        ValueError: lengths differ, or the rate is outside 0 to 1.
    """
    weights = _inverse_document_frequency(texts)
    blocks = _TrigramBlocks(texts, weights)
    return _noisy(blocks, labels, rate, passes, seed, label_neighbours)


def noisy_passes_from_features(
    features: npt.ArrayLike,
    labels: Sequence[str],
    rate: float,
    passes: int = 2,
    seed: int = 0,
    label_neighbours: Mapping[str, Sequence[str]] | None = None,
) -> list[list[str]]:
    """As `noisy_passes`, for items given as an (n, d) matrix of features, such as the pixels of images."""
    return _noisy(_MatrixBlocks(np.asarray(features)), labels, rate, passes, seed, label_neighbours)


def error_probabilities(hardness: Floats, rate: float) -> Floats:
    """Probability of a wrong answer for hardness ranks uniform on 0 to 1; its mean is `rate`.

    h**k has the mean 1/(k+1) over uniform h. Up to a rate of one third k stays 2 (three times the rate for
    the hardest item); above it k falls so that no probability exceeds one.
    """
    if rate <= 0:
        return np.zeros_like(hardness)
    exponent = min(2.0, (1 - rate) / rate)
    return (rate * (exponent + 1) * hardness**exponent).astype(np.float32)


class _MatrixBlocks:
    """Unit-length, centred rows of a matrix, a block at a time."""

    def __init__(self, features: npt.NDArray[np.generic]) -> None:
        if features.ndim != 2:
            raise ValueError(f"features must be a matrix, one row an item; got shape {features.shape}")
        self.features = features
        self.mean = features.mean(axis=0, dtype=np.float64)
        self.rows, self.columns = features.shape

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        for start in range(0, self.rows, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, self.rows))
            yield part, _unit((self.features[part] - self.mean).astype(np.float32))


class _TrigramBlocks:
    """Unit-length TF-IDF rows of hashed character trigrams, a block at a time."""

    def __init__(self, texts: Sequence[str], weights: Floats) -> None:
        self.texts, self.weights = texts, weights
        self.rows, self.columns = len(texts), TRIGRAM_BUCKETS

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        for start in range(0, self.rows, _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, self.rows))
            counts = _trigram_counts(self.texts[part])
            yield part, _unit(np.log1p(counts) * self.weights)


def _trigram_counts(texts: Sequence[str]) -> Floats:
    """(len(texts), TRIGRAM_BUCKETS) counts of hashed trigrams, each text folded and padded by spaces."""
    padded = [f"  {text.casefold()}  " for text in texts]
    lengths = np.array([len(text) for text in padded])
    # "surrogatepass": a lone surrogate in a dirty file is still a character to hash.
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    points = points.astype(np.uint64)
    hashed = points[:-2] * 961 * 2654435761 + points[1:-1] * 31 * 40503 + points[2:] * 2246822519
    buckets = (hashed >> np.uint64(7)) % TRIGRAM_BUCKETS
    rows = np.repeat(np.arange(len(texts)), lengths)
    inside = rows[:-2] == rows[2:]
    cells = rows[:-2][inside] * TRIGRAM_BUCKETS + buckets[inside].astype(np.int64)
    counts = np.bincount(cells, minlength=len(texts) * TRIGRAM_BUCKETS)
    return counts.reshape(len(texts), TRIGRAM_BUCKETS).astype(np.float32)


def _inverse_document_frequency(texts: Sequence[str]) -> Floats:
    seen = np.zeros(TRIGRAM_BUCKETS)
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        seen += (_trigram_counts(texts[start : start + _ROWS_AT_ONCE]) > 0).sum(axis=0)
    return (np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _noisy(
    blocks: _MatrixBlocks | _TrigramBlocks,
    labels: Sequence[str],
    rate: float,
    passes: int,
    seed: int,
    label_neighbours: Mapping[str, Sequence[str]] | None,
) -> list[list[str]]:
    if blocks.rows != len(labels):
        raise ValueError(f"{blocks.rows} items but {len(labels)} labels")
    if not 0 <= rate <= 1:
        raise ValueError(f"the error rate must be within 0 and 1, not {rate}")
    names, truth = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    if blocks.rows == 0 or len(names) < 2:
        return [list(labels) for _ in range(passes)]

    margin, candidates, chances = _confusability(blocks, truth, len(names))
    rng = np.random.default_rng(seed)
    # Ties (equal items) are broken by chance, so that the ranks stay uniform.
    order = np.lexsort((rng.random(blocks.rows), -margin))
    hardness = np.empty(blocks.rows, dtype=np.float32)
    hardness[order] = (np.arange(blocks.rows) + 0.5) / blocks.rows
    wrong = error_probabilities(hardness, rate)
    systematic = wrong / 2
    independent = (wrong - systematic) / np.maximum(1 - systematic, 1e-9)

    named = {label: tuple(near) for label, near in (label_neighbours or {}).items()}

    def draw() -> npt.NDArray[np.object_]:
        column = (rng.random((blocks.rows, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
        column = np.minimum(column, candidates.shape[1] - 1)
        drawn = names[candidates[np.arange(blocks.rows), column]].astype(object)
        place = rng.random(blocks.rows)
        for i, label in enumerate(labels if named else ()):
            near = [other for other in named.get(label, ()) if other != label]
            if near:
                # Squaring leans towards the first, most likely neighbours.
                drawn[i] = near[int(place[i] ** 2 * len(near))]
        return drawn

    shared = rng.random(blocks.rows) < systematic
    given = np.where(shared, draw(), np.asarray(labels, dtype=object))
    answers = []
    for _ in range(passes):
        slips = ~shared & (rng.random(blocks.rows) < independent)
        answers.append([str(answer) for answer in np.where(slips, draw(), given)])
    return answers


def _confusability(
    blocks: _MatrixBlocks | _TrigramBlocks, truth: npt.NDArray[np.intp], label_count: int
) -> tuple[Floats, npt.NDArray[np.intp], Floats]:
    """How near each item is to its own label, and which others it is near.

    Returns:
        (n,) similarity to the own centroid, the item itself left out, minus that to the nearest other;
        (n, k) indices of the k nearest other labels; (n, k) chances of each, rows summing to one.
    """
    sums = np.zeros((label_count, blocks.columns), dtype=np.float32)
    for part, rows in blocks:
        np.add.at(sums, truth[part], rows)
    centroids = _unit(sums)
    k = min(CONFUSIONS, label_count - 1)
    margin = np.empty(blocks.rows, dtype=np.float32)
    candidates = np.empty((blocks.rows, k), dtype=np.intp)
    chances = np.empty((blocks.rows, k), dtype=np.float32)
    for part, rows in blocks:
        own = truth[part]
        own_similarity = (rows * _unit(sums[own] - rows)).sum(axis=1)
        similarity = rows @ centroids.T
        similarity[np.arange(len(own)), own] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(similarity, nearest, axis=1)
        margin[part] = own_similarity - near.max(axis=1)
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / CONFUSION_TEMPERATURE)
        candidates[part], chances[part] = nearest, weight / weight.sum(axis=1, keepdims=True)
    return margin, candidates, chances
