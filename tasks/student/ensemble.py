"""A linear head, the neighbours and other heads averaged, the share of each learned out of fold.

What does not help comes out with a share near nothing and is left out: serving costs what helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.calibration import FLOOR, apply_temperature
from tasks.student.cells import IN_CELLS_FROM, cross_fitted_votes_of_many
from tasks.student.crossfit import UNLABELLED, rows_that_judge
from tasks.student.heads import (
    Head,
    check_rows,
    load_head,
    make_head,
    read_arrays,
    read_settings,
    tune_itself,
    write_head,
)
from tasks.student.linear import LinearHead
from tasks.student.many_rows import drawn, temper, temperature_of
from tasks.student.neighbours import SHARPNESS, K, cross_fitted_votes, votes

EM_STEPS = 50
LEAST_SHARE = 0.01
"""A share smaller than that is not worth its work."""

LINEAR, NEIGHBOURS = "linear", "neighbours"
OTHERS = ("mlp", "lda")
"""What may be averaged beside them. The MLP errs on other items than they do, and helps most where labels are wrong;
LDA learns what is systematic in wrong labels (notebooks/LOG.md)."""

Tuned = Mapping[str, tuple[Head, NDArray[np.float32]]]
"""By kind, a head that was tuned and fitted on these very rows, and its out-of-fold probabilities."""


class EnsembleHead:
    """The mean of logistic regression, neighbours' votes and other heads by their shares, at one temperature.

    Args:
        strength: see `LinearHead`.
        share: of the neighbours in [0, 1], the linear head having the rest; None lets `tune` (or the first `fit`) learn
            the shares of all members.
        max_neighbours: rows that vote, drawn at random where there are more; None lets all of them.
        others: of `OTHERS`, what is averaged beside linear head and neighbours.
        tuned: members that need no training of their own.

    Raises:
        TrainingError: another head is none of `OTHERS`.
    """

    kind: ClassVar[str] = "ensemble"

    def __init__(
        self,
        strength: float | None = None,
        share: float | None = None,
        max_neighbours: int | None = 50_000,
        others: Sequence[str] = (),
        tuned: Tuned | None = None,
    ):
        if not set(others) <= set(OTHERS):
            raise TrainingError(
                f"an ensemble cannot average {', '.join(sorted(set(others) - set(OTHERS)))}",
                f"name any of {', '.join(OTHERS)}",
            )
        self._tuned: Tuned = tuned or {}
        known = self._tuned[LINEAR][0] if LINEAR in self._tuned else None
        self.linear = known if isinstance(known, LinearHead) else LinearHead(strength)
        self.others: dict[str, Head] = {
            name: self._tuned[name][0] if name in self._tuned else make_head(name) for name in others
        }
        self.shares = None if share is None else {LINEAR: 1 - share, NEIGHBOURS: share}
        self.max_neighbours = max_neighbours
        self.temperature = 1.0
        self.reference = np.zeros((0, 0), np.float32)
        self.labels = np.zeros(0, np.int64)
        self.weight: NDArray[np.float32] | None = None

    @property
    def heads(self) -> dict[str, Head]:
        """All members but the neighbours, the linear head first."""
        return {LINEAR: self.linear, **self.others}

    @property
    def share(self) -> float | None:
        """Of the neighbours; None until it is learned."""
        return None if self.shares is None else self.shares[NEIGHBOURS]

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
        P = {
            name: self._tuned[name][1]
            if name in self._tuned
            else head.tune(X, y, folds, weight, n_leaves=n_leaves, seed=seed)
            for name, head in self.heads.items()
        }
        if self.share != 0:
            voters = drawn(np.flatnonzero(y != UNLABELLED), seed, self.max_neighbours or len(y))
            voting = np.full_like(y, UNLABELLED)
            voting[voters] = y[voters]
            vote = cross_fitted_votes if len(y) <= IN_CELLS_FROM else cross_fitted_votes_of_many
            P[NEIGHBOURS] = vote(X, voting, folds, n_leaves, K, SHARPNESS, weight)
        rows = np.flatnonzero(rows_that_judge(y, folds))
        if self.shares is None:
            given = np.stack([member[rows, y[rows]] for member in P.values()])
            found = mixture_shares(given, None if weight is None else weight[rows])
            self.shares = dict(zip(P, found.tolist(), strict=True))
            self.others = {name: head for name, head in self.others.items() if self.shares[name]}
        mixed = _mix(P, self.shares)
        self.temperature = temperature_of(mixed, y, weight, rows, seed)
        return temper(mixed, self.temperature)

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
        if self.shares is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.shares, self.others = {LINEAR: 1.0, NEIGHBOURS: 0.0}, {}
        for name, head in self.heads.items():
            if name not in self._tuned:
                head.fit(X, y, weight, n_leaves=n_leaves, seed=seed)
        self._tuned = {}
        kept = drawn(np.arange(len(y)), seed, self.max_neighbours or len(y))
        self.reference, self.labels = X[kept].astype(np.float32), y[kept].astype(np.int64)
        self.weight = None if weight is None else weight[kept].astype(np.float32)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.predict_proba`."""
        shares = self.shares or {LINEAR: 1.0}
        P = {name: head.predict_proba(X) for name, head in self.heads.items()}
        if shares.get(NEIGHBOURS):
            n_leaves = P[LINEAR].shape[1]
            P[NEIGHBOURS] = votes(X, self.reference, self.labels, n_leaves, K, SHARPNESS, self.weight)
        return apply_temperature(_mix(P, shares), self.temperature)

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {
            "kind": self.kind,
            "strength": self.linear.strength or 0.0,
            "neighbour_share": self.share or 0.0,
            "temperature": self.temperature,
            **{f"{name}_share": (self.shares or {LINEAR: 1.0})[name] for name in self.heads},
        }

    def save(self, folder: Path) -> None:
        """See `Head.save`; every member that is a head has a folder of its own."""
        arrays: dict[str, NDArray[Any]] = {"reference": self.reference, "labels": self.labels}
        if self.weight is not None:
            arrays["weight"] = self.weight
        for name, head in self.heads.items():
            (folder / name).mkdir(exist_ok=True)
            head.save(folder / name)
        write_head(folder, self.settings(), arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(share=settings["neighbour_share"])
        head.linear = LinearHead.load(folder / LINEAR)
        head.shares = shares_in(settings)
        head.others = {name: load_head(folder / name) for name in OTHERS if name in head.shares}
        head.temperature = settings["temperature"]
        head.reference, head.labels, head.weight = arrays["reference"], arrays["labels"], arrays.get("weight")
        return head


def shares_in(settings: Mapping[str, Any]) -> dict[str, float]:
    """The shares by member, as an ensemble's settings have them."""
    neighbours = settings["neighbour_share"]
    kept = {name: settings[f"{name}_share"] for name in (LINEAR, *OTHERS) if f"{name}_share" in settings}
    return {LINEAR: 1 - neighbours, **kept, NEIGHBOURS: neighbours}  # what was kept first had no others


def mixture_shares(
    given: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """The shares of several distributions at which their mean has the least log-loss.

    Expectation-maximisation for mixture weights (Dempster, Laird & Rubin 1977); the loss is convex in the shares, so
    what is found is the best.

    Args:
        given: [members, n], the probability that each gives to the true label.
        weight: non-negative [n].

    Returns:
        [members], in [0, 1], summing to 1; what would be below `LEAST_SHARE` is 0, and the first never is.
    """
    members = np.maximum(given, FLOOR).astype(np.float64)
    shares = np.full(len(members), 0.3 / max(1, len(members) - 1))
    shares[0] = 1 - shares[1:].sum()
    for left_out in range(2):
        for _ in range(EM_STEPS):
            mixed = shares @ members
            shares *= np.average(members / mixed, axis=1, weights=weight)
        small = (shares < LEAST_SHARE) & (np.arange(len(shares)) > 0)
        if left_out or not (small & (shares > 0)).any():
            break
        shares[small] = 0
        shares /= shares.sum()
    return shares


def mixture_share(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    y: NDArray[np.integer],
    weight: NDArray[np.floating] | None = None,
) -> float:
    """The share of `second` [n, leaves] beside `first`, see `mixture_shares`."""
    rows = np.arange(len(y))
    return float(mixture_shares(np.stack([first[rows, y], second[rows, y]]), weight)[1])


def _mix(P: Mapping[str, NDArray[np.float32]], shares: Mapping[str, float]) -> NDArray[np.float32]:
    mixed = P[LINEAR] * np.float32(shares[LINEAR])
    for name, share in shares.items():
        if share and name != LINEAR:
            mixed += P[name] * np.float32(share)
    return mixed
