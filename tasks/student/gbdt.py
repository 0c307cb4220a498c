"""Gradient-boosted trees on the frozen vectors, by XGBoost: for vectors whose single numbers mean something.

Each round grows one tree a label, so time grows with labels x rounds. Knows vectors and leaf indices; the extra
`xgboost` is needed to train it and to answer with it.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError, TrainingError
from tasks.student.calibration import apply_temperature, fit_temperature
from tasks.student.crossfit import UNLABELLED, rows_that_judge, splits, unjudged_probabilities
from tasks.student.heads import (
    check_rows,
    read_arrays,
    read_settings,
    seen_leaves,
    spread,
    tune_itself,
    write_head,
)
from tasks.student.threads import ONE_THREAD_BELOW

TREES_FILE = "head.ubj"

MAX_ROUNDS = 300
PATIENCE = 10
LEARNING_RATE = 0.15
VARIANTS = ((3, 1.0), (6, 5.0))
"""(depth, penalty on the squares of what leaves say) tried on the first fold; the better one goes on."""

LEAST_WEIGHT = 0.01
"""Of a leaf of a tree (`min_child_weight`). With a hundred labels a row weighs a hundredth at first, so that the usual
1 would keep trees from setting the few dozen rows of a label apart."""

ROW_SHARE, COLUMN_SHARE = 0.8, 0.3
"""Of the rows a tree sees and of the numbers a split is looked for in: less to search, and trees that differ."""


class GbdtHead:
    """Boosted trees, their depth, rounds and temperature chosen out of fold.

    Args:
        rounds: of boosting; None lets `tune` (or the first `fit`) choose all three.
        depth: of a tree.
        penalty: on the squares of what leaves say (`reg_lambda`).

    Raises:
        TrainingError: the extra is not installed.
    """

    kind: ClassVar[str] = "gbdt"

    def __init__(
        self, rounds: int | None = None, depth: int = VARIANTS[0][0], penalty: float = VARIANTS[0][1]
    ) -> None:
        if find_spec("xgboost") is None:
            raise TrainingError(
                "the student `gbdt` needs XGBoost, which is not installed",
                "pip install 'llm-flywheel[xgboost]', or take gbdt out of student.candidates.",
            )
        self.rounds, self.depth, self.penalty = rounds, depth, penalty
        self.temperature = 1.0
        self.seen = np.zeros(0, np.int64)
        self.n_leaves = 0
        self._trees: Any = None  # None where there is one seen leaf: it needs no tree

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
        """See `Head.tune`. One number of rounds serves all folds: the one whose pooled log-loss is least."""
        check_rows(X, y, weight, n_leaves, unlabelled=True)
        parts = splits(y, folds)
        chosen = self.rounds
        if chosen is None:
            trials = [
                (self._watch(X, y, weight, parts[0], *variant, seed=seed), variant) for variant in VARIANTS
            ]
            first, (self.depth, self.penalty) = min(trials, key=lambda trial: min(trial[0][1]))
        else:
            first = self._watch(X, y, weight, parts[0], self.depth, self.penalty, seed=seed)
        runs = [first]
        for part in parts[1:]:
            runs.append(self._watch(X, y, weight, part, self.depth, self.penalty, seed=seed))
        if chosen is None:
            shortest = min(len(losses) for _, losses in runs)
            judged = [int(np.sum(y[held_out] != UNLABELLED)) for _, held_out in parts]
            curves = [losses[:shortest] for _, losses in runs]
            chosen = int(np.average(curves, axis=0, weights=np.maximum(judged, 1)).argmin()) + 1
            self.rounds = chosen
        P = unjudged_probabilities(len(y), n_leaves)
        for (train, held_out), (trees, _) in zip(parts, runs, strict=True):
            seen = np.unique(y[train]).astype(np.int64)
            if trees is None and len(seen) > 1:  # nothing inside that fold said how many
                trees = self._grow(X, y, weight, train, chosen, seed)
            P[held_out] = spread(_predict(trees, X[held_out], len(seen), chosen), seen, n_leaves)
        rows = rows_that_judge(y, folds)
        self.temperature = fit_temperature(P[rows], y[rows], None if weight is None else weight[rows])
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
        if self.rounds is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.rounds = 1
        self.n_leaves, (self.seen, _) = n_leaves, seen_leaves(y)
        self._trees = None
        if len(self.seen) > 1:
            self._trees = self._grow(X, y, weight, np.arange(len(y)), self.rounds or 1, seed)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.predict_proba`."""
        P = apply_temperature(_predict(self._trees, X, len(self.seen), None), self.temperature)
        return spread(P, self.seen, self.n_leaves)

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {
            "kind": self.kind,
            "rounds": self.rounds or 0,
            "depth": self.depth,
            "penalty": self.penalty,
            "temperature": self.temperature,
        }

    def save(self, folder: Path) -> None:
        """See `Head.save`; the trees lie in `head.ubj`, XGBoost's own form, which is data and no program."""
        if self._trees is not None:
            self._trees.save_model(folder / TREES_FILE)
        write_head(folder, {**self.settings(), "n_leaves": self.n_leaves}, {"seen": self.seen})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`.

        Raises:
            InputError: a file is missing or damaged.
            TrainingError: the extra is not installed.
        """
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(settings["rounds"], settings["depth"], settings["penalty"])
        head.temperature, head.n_leaves = settings["temperature"], settings["n_leaves"]
        head.seen = arrays["seen"]
        if len(head.seen) > 1:
            head._trees = _load_trees(folder / TREES_FILE)
        return head

    @staticmethod
    def _settings_of_trees(n_seen: int, depth: int, penalty: float, rows: int, seed: int) -> dict[str, Any]:
        return {
            "objective": "multi:softprob",
            "num_class": n_seen,
            "eval_metric": "mlogloss",
            "tree_method": "hist",
            "max_depth": depth,
            "reg_lambda": penalty,
            "min_child_weight": LEAST_WEIGHT,
            "learning_rate": LEARNING_RATE,
            "subsample": ROW_SHARE,
            "colsample_bynode": COLUMN_SHARE,
            "seed": seed,
            "verbosity": 0,
            # Small trainings are faster on one thread than on two that share their processors with others.
            "nthread": 1 if rows < ONE_THREAD_BELOW else os.cpu_count() or 1,
        }

    def _grow(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        rows: NDArray[np.intp],
        rounds: int,
        seed: int,
    ) -> Any:
        import xgboost

        seen, dense = seen_leaves(y[rows])
        settings = self._settings_of_trees(len(seen), self.depth, self.penalty, len(rows), seed)
        return xgboost.train(settings, _matrix(X, dense, weight, rows, settings), rounds)

    def _watch(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        part: tuple[NDArray[np.intp], NDArray[np.intp]],
        depth: int,
        penalty: float,
        *,
        seed: int,
    ) -> tuple[Any, list[float]]:
        """Grow outside a fold; the trees, and what each round loses on those rows inside whose label they know.

        No trees and no losses where no such row is inside.
        """
        import xgboost

        train, held_out = part
        seen, dense = seen_leaves(y[train])
        judged = held_out[np.isin(y[held_out], seen)]
        if weight is not None:
            judged = judged[weight[judged] > 0]
        if len(seen) == 1 or not len(judged):
            return None, [0.0] * (self.rounds or MAX_ROUNDS)
        settings = self._settings_of_trees(len(seen), depth, penalty, len(train), seed)
        inside = np.searchsorted(seen, y[judged]).astype(np.int64)
        losses: dict[str, dict[str, list[float]]] = {}
        trees = xgboost.train(
            settings,
            _matrix(X, dense, weight, train, settings),
            self.rounds or MAX_ROUNDS,
            evals=[(_matrix(X, inside, weight, judged, settings), "inside")],
            evals_result=losses,
            early_stopping_rounds=PATIENCE if self.rounds is None else None,
            verbose_eval=False,
        )
        return trees, losses["inside"]["mlogloss"]


def _matrix(
    X: NDArray[np.float32],
    labels: NDArray[np.int64],
    weight: NDArray[np.floating] | None,
    rows: NDArray[np.intp],
    settings: dict[str, Any],
) -> Any:
    import xgboost

    w = None if weight is None else weight[rows]
    return xgboost.DMatrix(X[rows], labels, weight=w, nthread=settings["nthread"])


def _predict(trees: Any, X: NDArray[np.float32], n_seen: int, rounds: int | None) -> NDArray[np.float32]:
    """float32 [n, n_seen] of the first so many rounds; None: of all."""
    if trees is None or not len(X):
        return np.ones((len(X), n_seen), np.float32) / np.float32(max(1, n_seen))
    P = trees.inplace_predict(np.ascontiguousarray(X, np.float32), iteration_range=(0, rounds or 0))
    return np.asarray(P, np.float32).reshape(len(X), n_seen)


def _load_trees(file: Path) -> Any:
    import xgboost

    trees = xgboost.Booster()
    try:
        trees.load_model(bytearray(file.read_bytes()))
    except (OSError, ValueError, xgboost.core.XGBoostError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(file, f"cannot be read as trees ({reason})", "train the student again") from error
    trees.set_param({"nthread": 1})  # one item at a time is answered fastest by one
    return trees
