"""The text encoder itself, trained further together with a linear head; afterwards an encoder of its own and a head.

So what it learned is kept as any encoder is: a folder that vectors are named after and cached by. Knows texts and leaf
indices, no database and no registry.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.encoders import load_encoder
from tasks.embedding.model_files import weights_hash
from tasks.embedding.sentence_encoder import load_model
from tasks.embedding.settings import EncoderSettings
from tasks.errors import TrainingError
from tasks.student.calibration import apply_temperature, fit_temperature, log_loss
from tasks.student.crossfit import rows_that_judge, splits, unjudged_probabilities
from tasks.student.finetuning import Finetuning, epochs_of, judged_by, scale_of, tokens_of
from tasks.student.heads import check_rows, seen_leaves
from tasks.student.linear import LinearHead

ENCODER_FOLDER = "encoder"

PATIENCE = 1
WATCHED_SHARE = 0.15
NOT_TEXTS = ("hash", "pixels", "openai", "timm")


class FinetunedHead(LinearHead):
    """The linear head on vectors of the encoder that was trained with it; saving takes that encoder along."""

    kind: ClassVar[str] = "finetuned"
    encoder_folder: Path

    def save(self, folder: Path) -> None:
        """See `Head.save`; the encoder's own files lie in `encoder/`, weights in safetensors."""
        super().save(folder)
        if self.encoder_folder != folder / ENCODER_FOLDER:
            shutil.copytree(self.encoder_folder, folder / ENCODER_FOLDER, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Head.load`."""
        head = super().load(folder)
        head.encoder_folder = folder / ENCODER_FOLDER
        return head


class FinetunedStudent:
    """An encoder and its head, trained together on texts.

    Args:
        training: where it starts and how it is trained.
        epochs: passes over the texts, when known; None lets `cross_fit` (or `fit` on held-out texts) choose them.
    """

    def __init__(self, training: Finetuning, epochs: int | None = None) -> None:
        if training.encoder.model.partition(":")[0] in NOT_TEXTS:
            raise TrainingError(
                f"the candidate `finetuned` trains a sentence-transformers model further, which "
                f"{training.encoder.model} is not",
                "Name such an encoder, or take finetuned out of student.candidates.",
            )
        self.training, self.epochs = training, epochs
        self.encoder = training.encoder
        self.head = FinetunedHead(1.0)
        self.temperature = 1.0

    def cross_fit(
        self,
        texts: Sequence[str],
        y: NDArray[np.integer],
        folds: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> NDArray[np.float32]:
        """Two trainings, each on one half of the folds, judge the other half; afterwards the epochs are chosen.

        A training costs minutes, so there are two and not one a fold. Each watches a fold of its own half to stop
        early; it never learns from that fold, and no row is judged by what learned from it or from its near-duplicates.

        Returns:
            The out-of-fold probabilities, float32 [n, n_leaves]; somewhat worse than those of the student fitted on
            all rows, which learns from more than twice as many.
        """
        _check(texts, y, weight, n_leaves)
        P, chosen = unjudged_probabilities(len(y), n_leaves), []
        for train, held_out in splits(y, _halves(folds)):
            watched = _watched(folds[train], seed)
            with self._trial() as student:
                student._train(texts, y, weight, train[~watched], train[watched], n_leaves, seed)
                P[held_out] = student.predict_proba([texts[row] for row in held_out])
            chosen.append(student.epochs or 1)
        self.epochs = self.epochs or max(1, round(float(np.mean(chosen))))
        rows = rows_that_judge(y, folds)
        self.temperature = fit_temperature(P[rows], y[rows], None if weight is None else weight[rows])
        return apply_temperature(P, self.temperature)

    def fit(
        self,
        texts: Sequence[str],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None = None,
        *,
        n_leaves: int,
        seed: int,
    ) -> Self:
        """Train on all texts for the epochs chosen; one that was never cross-fitted watches some texts first."""
        _check(texts, y, weight, n_leaves)
        if y.min() < 0:
            raise TrainingError("texts without a label cannot be learned from", "leave them out")
        rows = np.arange(len(y))
        if self.epochs is None and len(y) > 1:
            watched = _watched(np.zeros(len(y), np.int16), seed)
            with self._trial() as trial:
                trial._train(texts, y, weight, rows[~watched], rows[watched], n_leaves, seed)
            self.epochs = trial.epochs
        self.epochs = self.epochs or 1
        self._train(texts, y, weight, rows, rows[:0], n_leaves, seed)
        return self

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, n_leaves], rows summing to 1; exactly 0 for a leaf that training never saw."""
        if not len(texts):
            return np.zeros((0, self.head.n_leaves), np.float32)
        return self.head.predict_proba(load_encoder(self.encoder).encode(texts))

    def settings(self) -> dict[str, float | int | str]:
        """What was trained, flat: the parameters of an experiment record."""
        return {
            "kind": FinetunedHead.kind,
            "start": self.training.encoder.model,
            "epochs": self.epochs or 0,
            "learning_rate": self.training.learning_rate,
            "batch": self.training.batch,
        }

    def _train(
        self,
        texts: Sequence[str],
        y: NDArray[np.integer],
        weight: NDArray[np.floating] | None,
        learned: NDArray[np.intp],
        watched: NDArray[np.intp],
        n_leaves: int,
        seed: int,
    ) -> None:
        """Afterwards the encoder and the head of the best epoch (of the last, where nothing is watched) are kept."""
        import torch

        seen, dense = seen_leaves(y[learned])
        w = np.ones(len(learned)) if weight is None else weight[learned]
        judged = watched[np.isin(y[watched], seen)]
        target = np.searchsorted(seen, y[judged])
        model = load_model(replace(self.training.encoder, backend="torch", precision="float32"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokens = tokens_of(model, self.training.encoder, [texts[row] for row in (*learned, *judged)])
            own, theirs = tokens[: len(learned)], tokens[len(learned) :]
            least, best = np.inf, 0
            kept: tuple[dict[str, Any], NDArray[np.float32]] | None = None
            epochs = self.epochs or self.training.epochs
            for epoch, layer in enumerate(
                epochs_of(model, own, dense, w, len(seen), self.training, epochs, seed), start=1
            ):
                weights = np.vstack(
                    [layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy()]
                )
                if not len(judged):
                    kept, best = None, epoch
                    continue
                P = judged_by(model, theirs, layer, self.training)
                loss = log_loss(P, target)
                if loss < least:
                    least, best = loss, epoch
                    state = {name: part.detach().cpu().clone() for name, part in model.state_dict().items()}
                    kept = state, weights
                elif self.epochs is None and epoch - best > PATIENCE:
                    break
            if kept is not None:
                model.load_state_dict(kept[0])
                weights = kept[1]
        self.epochs = self.epochs or best
        folder = _keep(model.to("cpu"), self.training.home)
        start = self.training.encoder
        self.encoder = replace(
            start, model=str(folder), revision=None, sha256=None, backend="torch", precision="float32"
        )
        self.head = FinetunedHead(1.0)
        self.head.weights = weights.astype(np.float32)
        self.head.weights[:-1] *= scale_of(self.training.encoder, len(weights) - 1)
        self.head.seen, self.head.n_leaves = seen, n_leaves
        self.head.encoder_folder, self.head.temperature = folder, self.temperature

    @contextmanager
    def _trial(self) -> Iterator[FinetunedStudent]:
        """One that is only asked and not kept: its encoder is gone afterwards."""
        with tempfile.TemporaryDirectory() as scratch:
            yield FinetunedStudent(replace(self.training, home=Path(scratch)), self.epochs)


def settle(encoder: EncoderSettings, home: Path) -> EncoderSettings:
    """The same encoder from a place that stays: a copy in `home` by the hash of its weights, made where it is not.

    Vectors are cached under a name made of the encoder's place, and a registry may hand out another one every time.
    """
    folder = Path(encoder.model)
    settled = home / str(weights_hash(encoder.model))[:16]
    if folder != settled and not settled.is_dir():
        _publish(lambda beside: shutil.copytree(folder, beside, dirs_exist_ok=True), settled)
    return replace(encoder, model=str(settled))


def _keep(model: Any, home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".") as scratch:
        written = Path(scratch) / ENCODER_FOLDER
        model.save_pretrained(str(written), create_model_card=False, safe_serialization=True)
        settled = home / str(weights_hash(str(written)))[:16]
        if not settled.is_dir():
            written.rename(settled)
    return settled


def _publish(write: Any, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        write(beside)
        try:
            beside.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster: its copy is the same
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check(
    texts: Sequence[str], y: NDArray[np.integer], weight: NDArray[np.floating] | None, n_leaves: int
) -> None:
    check_rows(np.zeros((len(texts), 1), np.float32), y, weight, n_leaves, unlabelled=True)


def _halves(folds: NDArray[np.integer]) -> NDArray[np.integer]:
    """Every second fold in one half; rows that are never judged stay with the half of the fold they go with."""
    goes_with = np.where(folds < 0, -1 - folds, folds)
    half = np.searchsorted(np.unique(folds[folds >= 0]), goes_with) % 2
    return np.where(folds < 0, -1 - half, half)


def _watched(folds: NDArray[np.integer], seed: int) -> NDArray[np.bool_]:
    """bool [n]: whole folds, at least one and about `WATCHED_SHARE` of the rows where the folds are that fine.

    Rows that are never judged (below 0) watch nothing. All in one fold: some of the rows, by chance.
    """
    judged = folds >= 0
    names, counts = np.unique(folds[judged], return_counts=True)
    if len(names) > 1:
        order = np.random.default_rng(seed).permutation(len(names))
        enough = max(1, int(np.searchsorted(np.cumsum(counts[order]), WATCHED_SHARE * counts.sum(), "right")))
        return np.asarray(np.isin(folds, names[order[: min(enough, len(names) - 1)]]))
    drawn = np.random.default_rng(seed).random(len(folds)) < WATCHED_SHARE
    return np.asarray(drawn & judged & (len(folds) > 1))
