"""Vectors to answers, many rows a second: one pass over scores that stay in the processor's cache.

Says what the head's probabilities, the temperature and `decode` say one after the other; a row that hangs on their
last digits is left to them. Knows heads and trees of labels, no name of a label and no threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.student.calibration import apply_temperature
from tasks.student.ensemble import EnsembleHead
from tasks.student.levels import Levels, decode
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead

BATCH_ROWS = 1024
"""A batch's scores fill some hundred kilobytes: more rows at once leave the cache, fewer waste the product."""

NEAR = 1e-5
"""Two nodes whose probabilities are no further apart than this: rounding could swap them."""

TEMPERATURES = (0.25, 4.0)
"""Beyond, single precision loses what the steps in double precision keep: what is sharpened more than four times is
rounded too coarsely, and what they flatten more than that may already have been rounded to 0."""

Scores = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Scorer:
    """What a fitted head answers, calibrated, at every level.

    Args:
        scores: vectors float32 [n, d] to scores float32 [n, columns] before the softmax; the result is overwritten.
        columns: int [columns], the leaf each column stands for.
        temperature: one for all, within `TEMPERATURES`.
        levels: the tree.
        slowly: vectors to calibrated probabilities float32 [n, leaves]: what decides where rounding could.
    """

    def __init__(
        self, scores: Scores, columns: NDArray[np.integer], temperature: float, levels: Levels, slowly: Scores
    ) -> None:
        self._scores, self._levels, self._slowly = scores, levels, slowly
        self._leaves = np.asarray(columns, np.int32)
        self._sharpness = np.float32(1 / temperature)
        # of each node its parent, and the same as 0 and 1 in a matrix; the deepest nodes are the head's columns
        self._parents = [*levels.parents[:-1], levels.parents[-1][levels.maps[-1][self._leaves]]]
        self._below = [
            (parents[:, None] == np.arange(nodes)).astype(np.float32)
            for parents, nodes in zip(self._parents[1:], levels.sizes[:-1], strict=True)
        ]

    def score(self, X: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The chosen leaf int32 [n] of vectors [n, d], and the confidence at each level, float32 [n, levels]."""
        leaf = np.empty(len(X), np.int32)
        confidences = np.empty((len(X), len(self._levels.names)), np.float32)
        for first in range(0, len(X), BATCH_ROWS):
            here = slice(first, first + BATCH_ROWS)
            self._score(np.asarray(X[here], np.float32), leaf[here], confidences[here])
        return leaf, confidences

    def _score(
        self, X: NDArray[np.float32], leaf: NDArray[np.int32], confidences: NDArray[np.float32]
    ) -> None:
        weights = self._scores(X)
        weights -= weights.max(axis=1, keepdims=True)
        if self._sharpness != 1:
            weights *= self._sharpness
        np.exp(weights, out=weights)
        sums = [weights]  # the deepest level first, each level from the one below: few terms, little rounding
        for lies_under in reversed(self._below):
            sums.append(sums[-1] @ lies_under)
        sums.reverse()
        total = sums[0].sum(axis=1)
        near, rows = total * np.float32(NEAR), np.arange(len(X))
        unsure = np.zeros(len(X), bool)
        chosen: NDArray[np.intp] | None = None
        for depth, nodes in enumerate(sums):
            best = nodes.argmax(axis=1)
            if chosen is not None:
                # The best of all nodes is the best below the one above, unless it lies elsewhere.
                parents = self._parents[depth]
                astray = np.flatnonzero(parents[best] != chosen)
                if astray.size:
                    there = nodes[astray]
                    there[parents[None, :] != chosen[astray, None]] = -1
                    best[astray] = there.argmax(axis=1)
                    nodes[astray] = there
            chosen = best
            top = nodes[rows, best]
            np.divide(top, total, out=confidences[:, depth])
            nodes[rows, best] = -1
            unsure |= ~(top - nodes.max(axis=1) > near)  # not a number is unsure too
        np.minimum(confidences, 1, out=confidences)
        np.minimum.accumulate(confidences, axis=1, out=confidences)
        leaf[:] = self._leaves[chosen]
        if unsure.any():
            decoded = decode(self._slowly(X[unsure]), self._levels)
            leaf[unsure], confidences[unsure] = decoded.leaf, decoded.confidences


def scorer_of(head: Any, temperature: float, levels: Levels) -> Scorer | None:
    """What scores for a fitted head at a temperature; None where only its own probabilities will do.

    Those are the heads that ask neighbours, the image models, and temperatures beyond `TEMPERATURES`. A temperature
    over another one is one temperature, their product.
    """

    def slowly(X: NDArray[np.float32]) -> NDArray[np.float32]:
        return apply_temperature(head.predict_proba(X), temperature)

    last_first, inner = [temperature], head
    if isinstance(inner, EnsembleHead) and not inner.share and not inner.others:
        last_first.append(inner.temperature)
        inner = inner.linear
    if not isinstance(inner, LinearHead | MlpHead):
        return None
    last_first.append(inner.temperature)
    least, most = TEMPERATURES
    together = np.cumprod(last_first)
    if not (least <= together[-1] and together.max() <= most):
        return None
    scores = _linear(inner) if isinstance(inner, LinearHead) else _mlp(inner)
    return Scorer(scores, inner.seen, float(together[-1]), levels, slowly)


def _linear(head: LinearHead) -> Scores:
    weights, bias = head.weights[:-1], head.weights[-1]

    def scores(X: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = X @ weights
        found += bias
        return found

    return scores


def _mlp(head: MlpHead) -> Scores:
    hidden, hidden_bias = head.weights["hidden"], head.weights["hidden_bias"]
    out, out_bias = head.weights["out"], head.weights["out_bias"]
    scale = np.float32(np.sqrt(hidden.shape[0]))  # as in training

    def scores(X: NDArray[np.float32]) -> NDArray[np.float32]:
        units: NDArray[np.float32] = (X * scale).astype(np.float32, copy=False) @ hidden
        units += hidden_bias
        np.maximum(units, 0, out=units)
        found: NDArray[np.float32] = units @ out
        found += out_bias
        return found

    return scores
