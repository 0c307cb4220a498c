"""One hidden layer on top of the encoder: ReLU, dropout, AdamW, label smoothing, stopped early out of fold.

Trained with torch; what it predicts is two matrix products in numpy, so that serving does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.student.calibration import apply_temperature, fit_temperature, log_loss
from tasks.student.crossfit import UNLABELLED, rows_that_judge, splits, unjudged_probabilities
from tasks.student.heads import (
    check_rows,
    read_arrays,
    read_settings,
    seen_leaves,
    softmax,
    spread,
    tune_itself,
    write_head,
)
from tasks.student.many_rows import (
    ALL_ROWS,
    MANY_ROWS,
    SAMPLE_ROWS,
    Starts,
    blocks,
    drawn,
    fewer_folds,
    fill,
    temper,
    temperature_of,
)
from tasks.student.threads import threads_for

WIDTH = 256
SMOOTHING = 0.05
MAX_EPOCHS = 40
PATIENCE = 6
LEEWAY = 1.02
"""The latest epoch that loses no more than this times the least is taken: where labels are wrong, a head that is
trained longer loses a little more against them and is more often right (notebooks/LOG.md)."""

PATIENCE_OF_MANY = 1
"""Of `MANY_ROWS` an epoch is hundreds of steps and minutes: the first one that does not help ends the training."""

FURTHER_EPOCHS = 1
"""From weights that know nearly all of the rows."""

LEARNING_RATE = 2e-3
AVERAGED_STEPS = 48
"""What serves is the moving average of the weights over so many steps: three epochs of few rows, less of many."""

VARIANTS = ((0.5, 0.5), (0.7, 0.5))
"""(dropout, weight decay) tried on the first fold, heavy and heavier (lighter ones lost on clean and on noisy labels);
the better one goes on to the others."""

Weights = dict[str, NDArray[Any]]


class MlpHead:
    """A perceptron with one hidden layer, its epochs, dropout, weight decay and temperature chosen out of fold.

    Args:
        epochs: passes over the rows; None lets `tune` (or the first `fit`) choose all four.
        dropout: share of hidden units dropped in training, in [0, 1).
        decay: weight decay of AdamW.
        starts: where training starts, as another head's `ends` after it was trained on nearly the same rows in the same
            folds; `FURTHER_EPOCHS` lead on from there. Used where `epochs` is given and the leaves are the same.

    After training `ends` has the weights by fold that was held out, and those of all rows.
    """

    kind: ClassVar[str] = "mlp"

    def __init__(
        self,
        epochs: int | None = None,
        dropout: float = 0.2,
        decay: float = 0.05,
        starts: Starts | None = None,
    ):
        self.epochs, self.dropout, self.decay = epochs, dropout, decay
        self.starts: Starts = starts or {}
        self.ends: dict[int, Weights] = {}
        self.temperature = 1.0
        self.weights: Weights = {}
        self.seen = np.zeros(0, np.int64)
        self.n_leaves = 0

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
        """See `Head.tune`. One number of epochs serves all folds, by their pooled log-loss."""
        with threads_for(len(y)):
            return self._tune(X, y, folds, weight, n_leaves, seed)

    def _tune(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        folds: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        n_leaves: int,
        seed: int,
    ) -> NDArray[np.float32]:
        check_rows(X, y, weight, n_leaves, unlabelled=True)
        folds = fewer_folds(folds)
        parts = splits(y, folds)
        same_folds = set(self.starts) - {ALL_ROWS} == {int(folds[held_out[0]]) for _, held_out in parts}
        runs: list[tuple[list[Weights], list[float]]] = []
        if self.epochs is None:
            train, held_out = parts[0]
            sampled = len(train) > SAMPLE_ROWS
            part = (drawn(train, seed), held_out)
            trials = [(self._watch(X, y, weight, part, *variant, seed=seed), variant) for variant in VARIANTS]
            first, (self.dropout, self.decay) = min(trials, key=lambda trial: min(trial[0][1]))
            runs = [] if sampled else [first]
        for part in parts[len(runs) :]:
            start = self.starts.get(int(folds[part[1][0]])) if same_folds else None
            runs.append(self._watch(X, y, weight, part, self.dropout, self.decay, start, seed=seed))
        if self.epochs is None:
            shortest = min(len(losses) for _, losses in runs)
            judged = [int(np.sum(y[held_out] != UNLABELLED)) for _, held_out in parts]
            pooled = np.average(
                [losses[:shortest] for _, losses in runs], axis=0, weights=np.maximum(judged, 1)
            )
            self.epochs = int(np.flatnonzero(pooled <= _enough(pooled.min(), len(y)))[-1]) + 1
        P = unjudged_probabilities(len(y), n_leaves)
        for (train, held_out), (snapshots, _) in zip(parts, runs, strict=True):
            weights, seen = snapshots[: self.epochs][-1], np.unique(y[train])
            self.ends[int(folds[held_out[0]])] = {**weights, "seen": seen}
            fill(P, held_out, X, partial(_judged, weights=weights, seen=seen, n_leaves=n_leaves))
        self.temperature = temperature_of(P, y, weight, np.flatnonzero(rows_that_judge(y, folds)), seed)
        return temper(P, self.temperature)

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
        if self.epochs is None and not tune_itself(self, X, y, weight, n_leaves=n_leaves, seed=seed):
            self.epochs = 1
        self.n_leaves, (self.seen, dense) = n_leaves, seen_leaves(y)
        with threads_for(len(y)):
            rows, start = np.arange(len(y)), _from(self.starts.get(ALL_ROWS), self.seen)
            epochs = FURTHER_EPOCHS if start is not None else self.epochs or 1
            for weights in epochs_over(
                X,
                rows,
                dense,
                weight,
                len(self.seen),
                self.dropout,
                self.decay,
                epochs,
                seed,
                start,
            ):
                self.weights = weights
        self.ends[ALL_ROWS] = {**self.weights, "seen": self.seen}
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Head.predict_proba`."""
        P = apply_temperature(_forward(X, self.weights), self.temperature)
        return spread(P, self.seen, self.n_leaves)

    def settings(self) -> dict[str, float | int | str]:
        """See `Head.settings`."""
        return {
            "kind": self.kind,
            "epochs": self.epochs or 0,
            "dropout": self.dropout,
            "decay": self.decay,
            "temperature": self.temperature,
        }

    def save(self, folder: Path) -> None:
        """See `Head.save`."""
        write_head(
            folder, {**self.settings(), "n_leaves": self.n_leaves}, {**self.weights, "seen": self.seen}
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        settings, arrays = read_settings(folder), read_arrays(folder)
        head = cls(settings["epochs"], settings["dropout"], settings["decay"])
        head.temperature, head.n_leaves = settings["temperature"], settings["n_leaves"]
        head.seen = arrays.pop("seen")
        head.weights = arrays
        return head

    def _watch(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        part: tuple[NDArray[np.intp], NDArray[np.intp]],
        dropout: float,
        decay: float,
        start: Mapping[str, NDArray[Any]] | None = None,
        *,
        seed: int,
    ) -> tuple[list[Weights], list[float]]:
        """Train outside a fold; the weights after every epoch and what each loses inside it.

        Losses are taken at their best temperature: label smoothing makes every epoch underconfident.
        """
        train, held_out = part
        judged = drawn(held_out[y[held_out] != UNLABELLED], seed)
        seen, dense = seen_leaves(y[train])
        first = _from(start, seen) if self.epochs is not None else None
        w = None if weight is None else weight[train]
        limit = FURTHER_EPOCHS if first is not None else self.epochs or MAX_EPOCHS
        patience = PATIENCE_OF_MANY if len(y) >= MANY_ROWS else PATIENCE
        snapshots: list[Weights] = []
        losses: list[float] = []
        for weights in epochs_over(X, train, dense, w, len(seen), dropout, decay, limit, seed, first):
            snapshots.append(weights)
            if not len(judged):
                losses.append(0.0)
                continue
            several = [_judged(X[block], weights, seen, int(y.max()) + 1) for block in blocks(judged)]
            P = np.concatenate(several)
            wj = None if weight is None else weight[judged] + 1e-9
            losses.append(log_loss(apply_temperature(P, fit_temperature(P, y[judged], wj)), y[judged], wj))
            if self.epochs is None and min(losses[-patience:]) > _enough(min(losses), len(y)):
                break
        return snapshots, losses


def _enough(least: float, rows: int) -> float:
    """The most that an epoch may lose to be taken; an epoch of many rows is too dear to be one too many."""
    return least if rows >= MANY_ROWS else LEEWAY * least


def _from(start: Mapping[str, NDArray[Any]] | None, seen: NDArray[np.int64]) -> Weights | None:
    """Weights to start from; None where they are for other leaves."""
    return dict(start) if start is not None and np.array_equal(start["seen"], seen) else None


def _forward(X: NDArray[np.float32], weights: Weights) -> NDArray[np.floating]:
    scale = np.float32(
        np.sqrt(X.shape[1])
    )  # unit-length vectors have entries too small for the usual learning rates
    hidden = np.maximum((X * scale) @ weights["hidden"] + weights["hidden_bias"], 0)
    return softmax(hidden @ weights["out"] + weights["out_bias"])


def _judged(
    X: NDArray[np.float32], weights: Weights, seen: NDArray[np.int64], n_leaves: int
) -> NDArray[np.float32]:
    return spread(_forward(X, weights), seen, n_leaves)


def epochs_over(
    X: NDArray[np.float32],
    rows: NDArray[np.intp],
    y: NDArray[np.int64],
    weight: NDArray[np.floating] | None,
    n_seen: int,
    dropout: float,
    decay: float,
    epochs: int,
    seed: int,
    start: Weights | None = None,
) -> Iterator[Weights]:
    """Yield the averaged weights after each epoch of AdamW over those rows of X, batches gathered one by one.

    The average is exponential over the last `AVERAGED_STEPS` steps (Polyak and Juditsky, "Acceleration of stochastic
    approximation by averaging", 1992): the loss out of fold falls smoothly, so that stopping early does not stop at a
    chance rise. Deterministic in the seed, whatever torch's global one is. The gradient of the two products is written
    out, and dropout comes from random bytes (a unit stays for one of at least 256 x dropout, rounded): torch's own
    dropout alone took a sixth of an epoch.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, out = torch.nn.Linear(X.shape[1], WIDTH), torch.nn.Linear(WIDTH, n_seen)
    w1, b1, w2, b2 = parameters = [*hidden.parameters(), *out.parameters()]
    if start is not None:
        names = ("hidden", "hidden_bias", "out", "out_bias")
        with torch.no_grad():
            for parameter, name in zip(parameters, names, strict=True):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(start[name].T)))
    generator, byte_source = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    batch = int(np.clip(len(y) // 16, 16, 1024))
    target, places, dropped = torch.from_numpy(y), torch.arange(batch), round(256 * dropout)
    scale, kept_scale = float(np.sqrt(X.shape[1])), 256 / (256 - dropped)
    w = torch.ones(len(y)) if weight is None else torch.from_numpy(weight.astype(np.float32))
    w = w / w.mean()
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=decay, fused=True)
    average, steps = [parameter.detach().clone() for parameter in parameters], 0
    for _ in range(epochs):
        with torch.no_grad():
            for chosen in torch.randperm(len(y), generator=generator).split(batch):
                x = torch.from_numpy(X[rows[chosen.numpy()]].astype(np.float32, copy=False))
                units = torch.addmm(b1, x, (w1 * scale).T).relu_()
                drawn_bytes = np.frombuffer(byte_source.bytes(units.numel()), np.uint8).reshape(units.shape)
                units.mul_(torch.from_numpy((drawn_bytes >= dropped).astype(np.float32))).mul_(kept_scale)
                # of weight x cross-entropy against labels smoothed: P less the labels
                slope = torch.addmm(b2, units, w2.T).softmax(dim=1).sub_(SMOOTHING / n_seen)
                slope[places[: len(chosen)], target[chosen]] -= 1 - SMOOTHING
                slope.mul_((w[chosen] / len(chosen))[:, None])
                through = (slope @ w2).mul_(units.sign()).mul_(kept_scale)
                w1.grad, b1.grad = (through.T @ x).mul_(scale), through.sum(dim=0)
                w2.grad, b2.grad = slope.T @ units, slope.sum(dim=0)
                optimizer.step()
                steps += 1
                torch._foreach_lerp_(average, parameters, max(1 / steps, 1 / AVERAGED_STEPS))
        yield {
            "hidden": average[0].numpy().T.copy(),
            "hidden_bias": average[1].numpy().copy(),
            "out": average[2].numpy().T.copy(),
            "out_bias": average[3].numpy().copy(),
        }
