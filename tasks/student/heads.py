"""What every head on top of an encoder promises, and the few things all of them share.

A head maps vectors to probabilities over the leaves. It knows no text, no label name and no database.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import InputError, TrainingError

HEAD_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"
CHECKED_AT_ONCE = 32_768


class Head(Protocol):
    """A classifier over vectors, in two movements: `tune` fixes what is not learned, `fit` learns the rest."""

    kind: ClassVar[str]

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
        """Choose regularisation and the like by out-of-fold log-loss, and keep them.

        Args:
            X: float32 [n, d], unit length.
            y: leaf indices [n]; -1 marks rows to judge but not to learn from.
            folds: [n], see `crossfit.fold_of`.
            weight: non-negative [n].
            n_leaves: columns of every probability array.
            seed: of whatever is drawn.

        Returns:
            The out-of-fold probabilities at the choice, float32 [n, n_leaves].

        Raises:
            TrainingError: the rows cannot be learned from, with the reason.
        """
        ...

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        """Learn from all rows (y in [0, n_leaves)); a head that was never tuned tunes itself on them first."""
        ...

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, n_leaves], rows summing to 1; exactly 0 for a leaf that training never saw."""
        ...

    def settings(self) -> dict[str, float | int | str]:
        """What was chosen, flat: the parameters of an experiment record."""
        ...

    def save(self, folder: Path) -> None:
        """Write `head.json` and `head.safetensors` into an existing folder; nothing is pickled."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The head that `save` wrote: it predicts the same to the last bit."""
        ...


def make_head(kind: str) -> Head:
    """An untuned head by the name it has under `student.candidates`.

    Raises:
        TrainingError: no such head.
    """
    makers = _makers()
    if kind not in makers:
        raise TrainingError(f"no head is called {kind!r}", f"use one of {', '.join(sorted(makers))}")
    return makers[kind]()


def load_head(folder: Path) -> Head:
    """The head saved in the folder, whichever kind it is.

    Raises:
        InputError: the folder holds no head, or one of a kind this version does not know.
    """
    kind = read_settings(folder).get("kind")
    makers = _makers()
    if kind not in makers:
        raise InputError(
            folder / HEAD_FILE, f"holds a head of kind {kind!r}", f"this version knows {', '.join(makers)}"
        )
    return makers[kind].load(folder)


def _makers() -> dict[str, type[Head]]:
    from tasks.student.ensemble import EnsembleHead
    from tasks.student.finetuned import FinetunedHead
    from tasks.student.gbdt import GbdtHead
    from tasks.student.lda import LdaHead
    from tasks.student.linear import LinearHead
    from tasks.student.mlp import MlpHead

    return {head.kind: head for head in (LinearHead, MlpHead, EnsembleHead, LdaHead, GbdtHead, FinetunedHead)}


def check_rows(
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    weight: NDArray[np.floating] | None,
    n_leaves: int,
    *,
    unlabelled: bool = False,
) -> None:
    """Refuse what no head can learn from, before hours are spent on it.

    Args:
        X: [n, d].
        y: leaf indices [n].
        weight: [n] or None.
        n_leaves: the upper end of y.
        unlabelled: whether -1 is allowed in y.

    Raises:
        TrainingError: no labelled rows, shapes that do not fit, values that are not finite, labels out of range, or
            weights that are negative or all zero.
    """
    if X.ndim != 2 or y.shape != (len(X),) or (weight is not None and weight.shape != y.shape):
        shapes = f"{X.shape}, {y.shape}" + ("" if weight is None else f", {weight.shape}")
        raise TrainingError(f"vectors, labels and weights of shapes {shapes}", "pass [n, d], [n] and [n]")
    if not np.any(y >= 0):
        raise TrainingError("there is no labelled row", "label some items first")
    blocks = (X[start : start + CHECKED_AT_ONCE] for start in range(0, len(X), CHECKED_AT_ONCE))
    broken = np.flatnonzero(np.concatenate([~np.isfinite(block).all(axis=1) for block in blocks]))
    if len(broken):
        raise TrainingError(
            f"{len(broken)} of {len(X)} vectors hold NaN or infinity, the first at row {broken[0]}",
            "encode these items again",
        )
    lowest = -1 if unlabelled else 0
    if y.min() < lowest or y.max() >= n_leaves:
        raise TrainingError(
            f"labels run from {y.min()} to {y.max()}, the taxonomy has {n_leaves} leaves",
            "build the labels from the taxonomy that is trained on",
        )
    if weight is not None and not (np.all(weight >= 0) and weight[y >= 0].sum() > 0):
        raise TrainingError(
            "weights are negative, not numbers or all zero", "weigh at least one labelled row above 0"
        )


def seen_leaves(y: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The leaves that occur, sorted, and y renumbered among them: heads learn these only."""
    seen, dense = np.unique(y, return_inverse=True)
    return seen.astype(np.int64), dense.astype(np.int64)


def spread(P: NDArray[np.floating], seen: NDArray[np.int64], n_leaves: int) -> NDArray[np.float32]:
    """Columns of the seen leaves put back to their places; every other leaf is exactly 0."""
    full = np.zeros((len(P), n_leaves), np.float32)
    full[:, seen] = P
    return full


def softmax(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Row-wise, in the precision given; the scores are overwritten."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def own_folds(n: int, seed: int, k: int = 5) -> NDArray[np.int16]:
    """Random folds of equal size, for a head that is fitted without having been tuned."""
    return (np.random.default_rng(seed).permutation(n) % max(2, min(k, n))).astype(np.int16)


def tune_itself(
    head: Head,
    X: NDArray[np.float32],
    y: NDArray[np.integer],
    weight: NDArray[np.floating] | None,
    *,
    n_leaves: int,
    seed: int,
) -> bool:
    """Tune a head that is fitted without having been tuned; False where there are too few rows for folds."""
    if len(y) < 2:
        return False
    head.tune(X, y, own_folds(len(y), seed), weight, n_leaves=n_leaves, seed=seed)
    return True


def write_head(folder: Path, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write both files of a head; the folder exists and is the caller's to publish atomically."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / WEIGHTS_FILE)
    (folder / HEAD_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """The JSON side of a saved head.

    Raises:
        InputError: it is not there or is not JSON.
    """
    path = folder / HEAD_FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read as a saved head ({error})", "train the student again"
        ) from error


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a saved head.

    Raises:
        InputError: they are not there or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(path, f"cannot be read as weights ({error})", "train the student again") from error


HeadFactory = Callable[[], Head]
