"""A linear head and the neighbours averaged, the weight of each learned out of fold.

Where neighbours do not help, their weight comes out near nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.student.calibration import FLOOR, apply_temperature, fit_temperature
from tasks.student.crossfit import rows_that_judge
from tasks.student.heads import check_rows, read_arrays, read_settings, tune_itself, write_head
from tasks.student.linear import LinearHead
from tasks.student.neighbours import SHARPNESS, K, cross_fitted_votes, votes

EM_STEPS = 50


class EnsembleHead:
    """share x neighbours' votes + (1 - share) x logistic regression, at one temperature.

    Args:
        strength: see `LinearHead`.
        share: weight of the neighbours in [0, 1]; None lets `tune` (or the first `fit`) learn it.
        max_neighbours: reference rows kept for serving, drawn at random where there are more; None keeps all.
    """

    kind: ClassVar[str] = "ensemble"

    def __init__(
        self, strength: float | None = None, share: float | None = None, max_neighbours: int | None = 50_000
    ):
        self.linear = LinearHead(strength)
        self.share, self.max_neighbours = share, max_neighbours
        self.temperature = 1.0
        self.reference = np.zeros((0, 0), np.float32)
        self.labels = np.zeros(0, np.int64)
        self.weight: NDArray[np.float32] | None = None

    def tune(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        folds: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """See `Head.tune`."""
        straight = self.linear.tune(X, y, folds, weight, n_leaves=n_leaves, seed=seed)
        voted = cross_fitted_votes(X, y, folds, n_leaves, K, SHARPNESS, weight)
        rows = rows_that_judge(y, folds)
        w = None if weight is None else weight[rows]
        if self.share is None:
            self.share = mixture_share(straight[rows], voted[rows], y[rows], w)
        P = _mix(straight, voted, self.share)
        self.temperature = fit_temperature(P[rows], y[rows], w)
        return apply_temperature(P, self.temperature)

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        """See `Head.fit`."""
        check_rows(X, y, weight, n_leaves)
        if self.share is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.share = 0.0
        self.linear.fit(X, y, weight, n_leaves=n_leaves, seed=seed)
        kept = np.arange(len(y))
        if self.max_neighbours is not None and len(y) > self.max_neighbours:
            kept = np.sort(np.random.default_rng(seed).choice(len(y), self.max_neighbours, replace=False))
        self.reference, self.labels = X[kept].astype(np.float32), y[kept].astype(np.int64)
        self.weight = None if weight is None else weight[kept].astype(np.float32)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.predict_proba`."""
        straight = self.linear.predict_proba(X)
        if not self.share:
            return apply_temperature(straight, self.temperature)
        voted = votes(X, self.reference, self.labels, straight.shape[1], K, SHARPNESS, self.weight)
        return apply_temperature(_mix(straight, voted, self.share), self.temperature)

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {
            "kind": self.kind,
            "strength": self.linear.strength or 0.0,
            "neighbour_share": self.share or 0.0,
            "temperature": self.temperature,
        }

    def save(self, folder: Path) -> None:
        """See `Head.save`."""
        arrays: dict[str, NDArray[Any]] = {"reference": self.reference, "labels": self.labels}
        if self.weight is not None:
            arrays["weight"] = self.weight
        linear = folder / "linear"
        linear.mkdir(exist_ok=True)
        self.linear.save(linear)
        write_head(folder, self.settings(), arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(share=settings["neighbour_share"])
        head.linear = LinearHead.load(folder / "linear")
        head.temperature = settings["temperature"]
        head.reference, head.labels, head.weight = arrays["reference"], arrays["labels"], arrays.get("weight")
        return head


def mixture_share(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    y: NDArray[np.integer],
    weight: NDArray[np.floating] | None = None,
) -> float:
    """The share of `second` at which (1 - share) x first + share x second has the least log-loss.

    Expectation-maximisation for mixture weights (Dempster, Laird & Rubin 1977); the loss is convex in the share, so
    what is found is the best.

    Args:
        first: [n, leaves].
        second: [n, leaves].
        y: leaf indices [n].
        weight: non-negative [n].

    Returns:
        A share in [0, 1]; below 0.01 it is 0, because a vote that small is not worth the search for neighbours.
    """
    rows, share = np.arange(len(y)), 0.3
    a, b = np.maximum(first[rows, y], FLOOR), np.maximum(second[rows, y], FLOOR)
    for _ in range(EM_STEPS):
        share = float(np.average(share * b / ((1 - share) * a + share * b), weights=weight))
    return share if share >= 0.01 else 0.0


def _mix(straight: NDArray[np.float32], voted: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    return np.float32(1 - share) * straight + np.float32(share) * voted
