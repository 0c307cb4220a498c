"""Which written examples are fit to be kept: new in content, in wording and in meaning, and of the label they are for.

Knows texts, labels and vectors; not who wrote them, nor where they will be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.duplicates import near_duplicate_groups, near_duplicates_of
from tasks.records import normalise, text_key

TOO_NEAR = 0.97
"""Cosine from which two texts say the same. From there up two BANKING77 questions under all-MiniLM-L6-v2 differ in
little words ("the card you sent me", "the card you sent to me"); 15 % of the real ones have such a twin."""

USUAL_SHARE = 0.95
"""Off-label is what lies farther from its label than this share of real items with as few examples to go by.

Measured on BANKING77 (all-MiniLM-L6-v2, tests/benchmarks/banking77_synthesis.py) with 1, 3, 5 and 10 examples of a
label: of real items of that label it drops 2 to 6 %, of those of any other 84, 97, 98 and 99 %, of those of the label
most like it 27, 60, 67 and 83 %."""

FEWEST_COMPARED, MOST_COMPARED = 40, 400
"""Real items by which that is learned: with fewer nothing is called off-label."""

LONGEST_CHARACTERS = 4_000

KEPT, DUPLICATE, OFF_LABEL, UNUSABLE = "kept", "duplicate", "off_label", "unusable"

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class Screen:
    """Judges written examples against what there is; those it keeps are what later ones are judged against, too.

    Args:
        known: every key there is, a column `key`.
        texts: [n] what an example must not resemble: real labelled items, gold, synthetic examples kept before.
        vectors: float32 [n, d] of the texts.
        labels: [n] the leaf of a real labelled item, None for all else: gold and synthetic examples say nothing
            about where a label lies.
        encode: texts to vectors [m, d].
    """

    def __init__(
        self,
        known: pl.DataFrame,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        labels: Sequence[str | None],
        encode: Encode,
    ) -> None:
        self._known, self._texts, self._encode = known.select("key"), list(texts), encode
        self._vectors = _unit(vectors)
        self._rows: dict[str, list[int]] = {}
        for row, label in enumerate(labels):
            if label is not None:
                self._rows.setdefault(label, []).append(row)
        self._leaves = list(self._rows)
        self._usual: dict[int, float | None] = {}
        self._centroids = _unit(
            np.stack([self._vectors[rows].mean(axis=0) for rows in self._rows.values()])
            if self._rows
            else np.zeros((0, self._vectors.shape[1]), np.float32)
        )

    def judge(self, examples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The verdict on each (text as written, label), in order: (normalised text, verdict).

        A verdict is kept, unusable (empty or too long), duplicate (the same text, a near-duplicate by trigrams, or
        a cosine of `TOO_NEAR`: of what there is or of an example before it) or off_label: nearer to the centroid of
        another label than to every real example of its own and their centroid, by more than is usual among real
        items (`USUAL_SHARE`). A label without real examples can be judged by no distance.
        """
        texts = [normalise(text) for text, _ in examples]
        labels = [label for _, label in examples]
        verdicts = [KEPT if 0 < len(text) <= LONGEST_CHARACTERS else UNUSABLE for text in texts]
        self._judge_content(texts, verdicts)
        rows = _kept(verdicts)
        if not rows:
            return list(zip(texts, verdicts, strict=True))
        vectors = np.zeros((len(texts), 0), np.float32)
        encoded = _unit(np.asarray(self._encode([texts[row] for row in rows]), np.float32))
        vectors = np.zeros((len(texts), encoded.shape[1]), np.float32)
        vectors[rows] = encoded
        for row in rows:
            if len(self._vectors) and float((self._vectors @ vectors[row]).max()) >= TOO_NEAR:
                verdicts[row] = DUPLICATE
            elif self._is_off_label(vectors[row], labels[row]):
                verdicts[row] = OFF_LABEL
        self._judge_among_themselves(texts, vectors, verdicts)
        self._remember(texts, vectors, verdicts)
        return list(zip(texts, verdicts, strict=True))

    def _judge_content(self, texts: list[str], verdicts: list[str]) -> None:
        keys = [text_key(text) for text in texts]
        frame = pl.DataFrame({"key": keys}, schema={"key": pl.Binary})
        seen = set(frame.join(self._known, on="key", how="semi")["key"].to_list())
        for row in _kept(verdicts):
            if keys[row] in seen:
                verdicts[row] = DUPLICATE
            seen.add(keys[row])
        rows = _kept(verdicts)
        for row, near in zip(
            rows, near_duplicates_of([texts[row] for row in rows], self._texts), strict=True
        ):
            if near:
                verdicts[row] = DUPLICATE

    def _is_off_label(self, vector: NDArray[np.float32], label: str) -> bool:
        rows = self._rows.get(label, [])
        usual = self._usual_distance(len(rows)) if rows else None
        return usual is not None and self._distance(vector, label, self._vectors[rows]) > usual

    def _distance(self, vector: NDArray[np.float32], label: str, own: NDArray[np.float32]) -> float:
        """How much nearer another label's centroid is than the examples of its own and their centroid (cosines)."""
        to_centroids = self._centroids @ vector
        others = np.delete(to_centroids, self._leaves.index(label))
        nearest_own = max(
            float((own @ vector).max()), float((_unit(own.mean(axis=0, keepdims=True)) @ vector)[0])
        )
        return float(others.max()) - nearest_own

    def _usual_distance(self, examples: int) -> float | None:
        """The distance that `USUAL_SHARE` of real items keep below, with so many examples of their label to go by."""
        if examples not in self._usual:
            rng, found = np.random.default_rng(examples), []
            several = [label for label, rows in self._rows.items() if len(rows) > examples]
            for number in range(MOST_COMPARED if len(self._leaves) > 1 else 0):
                if not several or number >= sum(len(self._rows[label]) for label in several):
                    break
                label = several[number % len(several)]
                judged, *shown = rng.choice(self._rows[label], examples + 1, replace=False).tolist()
                found.append(self._distance(self._vectors[judged], label, self._vectors[shown]))
            enough = len(found) >= FEWEST_COMPARED
            self._usual[examples] = float(np.quantile(found, USUAL_SHARE)) if enough else None
        return self._usual[examples]

    def _judge_among_themselves(
        self, texts: list[str], vectors: NDArray[np.float32], verdicts: list[str]
    ) -> None:
        rows = _kept(verdicts)
        first = near_duplicate_groups([texts[row] for row in rows])
        kept: list[int] = []
        for place, row in enumerate(rows):
            near = bool(kept) and float((vectors[kept] @ vectors[row]).max()) >= TOO_NEAR
            if near or first[place] != place:
                verdicts[row] = DUPLICATE
            else:
                kept.append(row)

    def _remember(self, texts: list[str], vectors: NDArray[np.float32], verdicts: list[str]) -> None:
        rows = _kept(verdicts)
        if not rows:
            return
        keys = pl.DataFrame({"key": [text_key(texts[row]) for row in rows]}, schema={"key": pl.Binary})
        self._known = pl.concat([self._known, keys])
        self._texts += [texts[row] for row in rows]
        kept = vectors[rows]
        self._vectors = np.concatenate([self._vectors, kept]) if len(self._vectors) else kept


def _kept(verdicts: Sequence[str]) -> list[int]:
    return [row for row, verdict in enumerate(verdicts) if verdict == KEPT]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to unit length; a vector of zeros stays one and is near nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
