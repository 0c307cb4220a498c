"""Training the candidates on one snapshot, comparing them on the same folds, fitting them on all rows.

Knows arrays and names; which items they are, where metrics go and which version this becomes is decided above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student.crossfit import cross_fitted_probabilities, unjudged_probabilities
from tasks.student.ensemble import EnsembleHead, shares_in
from tasks.student.finetuned import FinetunedStudent
from tasks.student.finetuning import Finetuning
from tasks.student.heads import Head, make_head
from tasks.student.image_training import Trained
from tasks.student.linear import LinearHead
from tasks.student.many_rows import Starts
from tasks.student.mlp import MlpHead
from tasks.student.nested import Apart, judged_apart
from tasks.student.search import Search
from tasks.student.selection import choose, out_of_fold_losses

OWN_INPUTS = ("finetuned", "timm")
"""Candidates that read the items themselves, not vectors."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows.

    Attributes:
        vectors: float32 [n, d].
        labels: leaf indices [n] to learn from; -1 where a row is judged only.
        raw_labels: leaf indices [n] to judge by; -1 where nobody settled on one, and for synthetic rows.
        folds: [n], by near-duplicate group; `crossfit.never_judged` ones for synthetic rows.
        weight: float32 [n], positive.
        images: encoded bytes, only where a candidate reads them.
        texts: the items themselves, only where a candidate reads them.
        repeated: so many of the last rows repeat others with a second label, see `shared_rows.shared`.
        apart: what judges each part learns, where that is not `labels` outside it.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.int64]
    raw_labels: NDArray[np.int64]
    folds: NDArray[np.int16]
    weight: NDArray[np.float32]
    images: Sequence[bytes] | None = None
    repeated: int = 0
    texts: Sequence[str] | None = None
    apart: Apart | None = None

    @property
    def untouched(self) -> NDArray[np.int64]:
        """Leaf indices [n] to learn from where what is judged may have touched `labels`: the raw ones there."""
        return self.labels if self.apart is None else np.where(self.written, self.labels, self.raw_labels)

    @property
    def written(self) -> NDArray[np.bool_]:
        """bool [n], the synthetic and the repeated rows: learned from, never judged by."""
        return self.folds < 0

    def settled(self) -> Rows:
        """The rows with a raw label, to be learned from as they came; synthetic ones stay as they are."""
        kept = (self.raw_labels >= 0) | self.written
        kept[len(kept) - self.repeated :] = False
        images = (
            None
            if self.images is None
            else [image for image, keep in zip(self.images, kept, strict=True) if keep]
        )
        raw, written = self.raw_labels[kept], self.written[kept]
        labels = np.where(written, self.labels[kept], raw)
        weight = np.where(written, self.weight[kept], 1.0).astype(np.float32)
        return Rows(self.vectors[kept], labels, raw, self.folds[kept], weight, images)


@dataclass(frozen=True)
class ImageTraining:
    """Settings of the image candidate, see `TimmStudent`."""

    model: str
    pretrained: bool
    epochs: int
    image_size: int
    weights: str | None = None
    train: Literal["auto"] | Trained = "auto"
    flip: bool = False
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate fitted on all rows, and how it did out of fold.

    Attributes:
        name: linear, mlp, ensemble, gbdt, finetuned or timm.
        model: predicts leaf probabilities.
        out_of_fold: float32 [n, leaves].
        loss: out-of-fold log-loss in nats against the raw labels.
        settings: what tuning chose.
    """

    name: str
    model: Any
    out_of_fold: NDArray[np.float32]
    loss: float
    settings: dict[str, float | int | str]


def train_candidates(
    names: Sequence[str],
    rows: Rows,
    n_leaves: int,
    seed: int,
    images: ImageTraining | None = None,
    near: float | None = None,
    finetuning: Finetuning | None = None,
    ensemble_with: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    search: Search | None = None,
    judge: Starts | None = None,
) -> tuple[list[Candidate], str]:
    """Tune and fit each candidate; the winner's name has the least out-of-fold log-loss.

    `near` is where a linear head starts to look for its regularisation; `ensemble_with` names what the ensemble
    averages beside linear head and neighbours; `progress` is told how many are fitted. After a `search` heads take the
    settings that it chose and go on from its weights; `judge` is where a linear head starts without one.

    Learning uses `rows.labels` (cleaned ones where cleaning ran); judging uses the raw labels, because nothing
    may be evaluated on what was cleaned, and heads that learned what was cleaned without the rows they judge.

    Raises:
        TrainingError: the rows cannot be learned from.
    """
    fitted: dict[str, tuple[Any, NDArray[np.float32]]] = {}
    for name in names:
        if name not in OWN_INPUTS:
            make_head(name)  # what is not installed is told before anything is trained
    # The ensemble last: it takes the others as they were trained.
    for name in sorted(names, key=lambda name: name == "ensemble"):
        if name == "timm":
            fitted[name] = _train_images(rows, n_leaves, seed, images)
        elif name == "finetuned":
            fitted[name] = _train_texts(rows, n_leaves, seed, finetuning)
        else:
            untrained = _untrained(name, near, fitted, ensemble_with, search, judge)
            fitted[name] = _train_head(untrained, rows, n_leaves, seed)
        if progress is not None:
            progress(len(fitted))
    fitted = {name: fitted[name] for name in names}
    out_of_fold = {
        name: P
        if rows.apart is None or name in OWN_INPUTS
        else judged_apart(model, rows.vectors, rows.apart, n_leaves=n_leaves, seed=seed)
        for name, (model, P) in fitted.items()
    }
    losses = out_of_fold_losses(out_of_fold, rows.raw_labels)
    candidates = [
        Candidate(name, model, out_of_fold[name], losses[name], dict(model.settings()))
        for name, (model, _) in fitted.items()
    ]
    return candidates, choose(out_of_fold, rows.raw_labels)


def _untrained(
    name: str,
    near: float | None,
    fitted: Mapping[str, tuple[Any, NDArray[np.float32]]],
    ensemble_with: Sequence[str],
    search: Search | None,
    judge: Starts | None,
) -> Head:
    """A head that looks for its regularisation near what is known; the ensemble takes heads as they were trained."""
    chosen = {} if search is None else search.settings.get(name, {})
    starts = {} if search is None else search.starts
    if name == "linear":
        return LinearHead(chosen.get("strength"), near, starts.get(name, judge))
    if name == "ensemble":
        shares = shares_in(chosen) if chosen else None
        others = [other for other in ensemble_with if shares is None or other in shares]
        ensemble = EnsembleHead(chosen.get("strength"), others=others, tuned=fitted)
        ensemble.shares = shares
        if "linear" not in fitted:
            ensemble.linear.near, ensemble.linear.starts = near, starts.get("linear", judge or {})
        for other in set(others) - set(fitted):
            ensemble.others[other] = _untrained(other, near, fitted, (), search, judge)
        return ensemble
    if name == "mlp" and name in starts and "epochs" in chosen:
        return MlpHead(chosen["epochs"], chosen["dropout"], chosen["decay"], starts[name])
    return make_head(name)


def starts_of(candidates: Sequence[Candidate]) -> dict[str, Starts]:
    """By kind of head, the weights that the next nights' training may go on from."""
    found: dict[str, Starts] = {}
    for candidate in candidates:
        head = candidate.model
        for one in head.heads.values() if isinstance(head, EnsembleHead) else [head]:
            if isinstance(one, LinearHead | MlpHead) and one.ends:
                found[one.kind] = one.ends
    return found


def _train_head(head: Head, rows: Rows, n_leaves: int, seed: int) -> tuple[Any, NDArray[np.float32]]:
    P = head.tune(rows.vectors, rows.labels, rows.folds, rows.weight, n_leaves=n_leaves, seed=seed)
    learned = rows.labels >= 0
    X, y, weight = (
        (rows.vectors, rows.labels, rows.weight)
        if learned.all()
        else (rows.vectors[learned], rows.labels[learned], rows.weight[learned])
    )
    return head.fit(X, y, weight, n_leaves=n_leaves, seed=seed), P


def _train_texts(
    rows: Rows, n_leaves: int, seed: int, finetuning: Finetuning | None
) -> tuple[Any, NDArray[np.float32]]:
    """An encoder costs minutes a training: see `FinetunedStudent.cross_fit`.

    Of a row that two labels share it learns the first one; those that judge learn `Rows.untouched`.
    """
    if finetuning is None or rows.texts is None:
        raise TrainingError(
            "the candidate `finetuned` reads texts", "Take it out of student.candidates for an image task."
        )
    n, student = len(rows.labels) - rows.repeated, FinetunedStudent(finetuning)
    texts, labels, weight = rows.texts[:n], rows.labels[:n], rows.weight[:n]
    P = unjudged_probabilities(len(rows.labels), n_leaves)
    P[:n] = student.cross_fit(texts, rows.untouched[:n], rows.folds[:n], weight, n_leaves=n_leaves, seed=seed)
    learned = labels >= 0
    texts = [text for text, keep in zip(texts, learned, strict=True) if keep]
    return student.fit(texts, labels[learned], weight[learned], n_leaves=n_leaves, seed=seed), P


def _train_images(
    rows: Rows, n_leaves: int, seed: int, settings: ImageTraining | None
) -> tuple[Any, NDArray[np.float32]]:
    """An image model costs minutes a fit, so it is cross-fitted on two halves of the folds.

    It knows no weights, so of a row that two labels share it learns the first one; the two that judge learn
    `Rows.untouched`.
    """
    from tasks.student.frozen_features import FrozenFeatures
    from tasks.student.timm_student import TimmStudent

    if settings is None or rows.images is None:
        raise TrainingError(
            "the candidate `timm` reads images", "Take it out of student.candidates for a text task."
        )

    features = FrozenFeatures()

    def untrained() -> Any:
        return TimmStudent(**asdict(settings), features=features)

    n = len(rows.images) - rows.repeated
    images: Any = np.empty(n, dtype=object)
    images[:] = list(rows.images)[:n]
    labels = rows.labels[:n]
    P = unjudged_probabilities(len(rows.images), n_leaves)
    P[:n] = cross_fitted_probabilities(
        untrained, images, rows.untouched[:n], rows.folds[:n] % 2, n_leaves=n_leaves, seed=seed
    )
    learned = labels >= 0
    student = untrained().fit(list(images[learned]), labels[learned], n_leaves=n_leaves, seed=seed)
    student.features = None  # nobody trains on them again
    return student, P
