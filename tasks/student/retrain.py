"""One retrain, from frozen rows to a calibrated student with its evaluation: the room's domain function.

Takes arrays and frames, gives a `Trained`; reading, logging and registering are the step's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.encoders import EncoderSettings
from tasks.student.before_after import LevelEffect, effect_by_level
from tasks.student.calibration import apply_temperature, fit_temperature
from tasks.student.certifying import CalibrationSample, path_as_dict
from tasks.student.evaluation import LevelScores, evaluate
from tasks.student.familiarity import fit_prototypes
from tasks.student.finetuned import FinetunedStudent
from tasks.student.finetuning import Finetuning
from tasks.student.levels import decode
from tasks.student.many_rows import Starts
from tasks.student.package import Answers, Student, decode_answers, levels_of
from tasks.student.partial import upper_thresholds
from tasks.student.search import Search
from tasks.student.thresholds import STARTS, ThresholdPath, fix_path
from tasks.student.training import OWN_INPUTS, Candidate, ImageTraining, Rows, train_candidates
from tasks.taxonomy import Taxonomy

Inputs = Callable[[pl.DataFrame, bool], Any]


@dataclass(frozen=True, eq=False)
class Judged:
    """Items with a true leaf label: `frame` has key, label, role; `P` the student's leaf probabilities."""

    frame: pl.DataFrame
    P: NDArray[np.float32]
    answers: Answers

    def role(self, role: str) -> NDArray[np.bool_]:
        """bool [n]: rows of that role."""
        return (self.frame["role"] == role).to_numpy()

    def sample(self, against: str, rows: NDArray[np.bool_]) -> CalibrationSample:
        """Those rows as a sample to certify on."""
        picked = np.flatnonzero(rows)
        truth = self.frame["label"].gather(picked).to_list()
        return CalibrationSample(against, self.answers.take(picked), truth)


@dataclass(frozen=True, eq=False)
class Trained:
    """The winner, calibrated and evaluated, beside all candidates.

    Attributes:
        student: ready to serve; its `about` carries the threshold path.
        path: the nested thresholds to be tested, fixed out of fold.
        candidates: all that were compared.
        scores: of each candidate (and of `raw labels`, the winner without cleaning) on the evaluation rows.
        judged_on: what those rows are: `gold`, or `heldout` labels where there is no gold.
        gold: the student on gold; None without gold.
        held_out: the student's out-of-fold answers on its training rows, against the raw labels.
        answered: int32 [rows] the leaf that each of them answers there.
        cleaning: by level, accuracy before and after cleaning on gold; empty where nothing was cleaned or no gold is.
        full: whether the candidates were compared and the effect of cleaning measured; else by an earlier night.
    """

    student: Student
    path: ThresholdPath
    candidates: list[Candidate]
    scores: Mapping[str, tuple[LevelScores, ...]]
    judged_on: str
    gold: Judged | None
    held_out: CalibrationSample
    answered: Mapping[str, NDArray[np.int32]]
    notes: list[str] = field(default_factory=list)
    cleaning: tuple[LevelEffect, ...] = ()
    full: bool = True

    @property
    def winner_scores(self) -> tuple[LevelScores, ...]:
        """The student's own scores."""
        return self.scores[self.student.kind]


def retrain(
    rows: Rows,
    names: Sequence[str],
    taxonomy: Taxonomy,
    encoder: EncoderSettings,
    modality: str,
    gold: pl.DataFrame,
    gold_inputs: tuple[NDArray[np.float32], Sequence[bytes] | Sequence[str] | None],
    seed: int = 0,
    starts: int = STARTS,
    images: ImageTraining | None = None,
    near: float | None = None,
    finetuning: Finetuning | None = None,
    prototypes: int = 0,
    ensemble_with: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    search: Search | None = None,
    judge: Starts | None = None,
) -> Trained:
    """Train, choose, calibrate, evaluate.

    The winner is chosen by out-of-fold log-loss; the temperature on the part of gold set aside for it, or (where
    gold is too small) out of fold against the raw labels; the threshold path on out-of-fold confidences. No row that
    certifies is looked at here except to be predicted.

    Args:
        rows: training rows.
        names: candidates.
        taxonomy: its leaves are the columns of every probability array.
        encoder: made the vectors.
        modality: text or image.
        gold: key, label, role; may be empty.
        gold_inputs: vectors [g, d] and, where a candidate reads the items themselves, the items.
        seed: of all training.
        starts: of fixed-sequence testing.
        images: settings of the image candidate.
        near: where a linear head starts to look for its regularisation.
        finetuning: settings of the candidate that trains the encoder further.
        prototypes: kept of each label, so that unfamiliar items score less; 0 keeps none. A student that reads the
            items themselves keeps none.
        ensemble_with: what the ensemble averages beside linear head and neighbours.
        progress: told how many candidates are fitted.
        search: one that still holds: its winner alone is trained, and what cleaning is worth not measured again.
        judge: the head that judged the labels for cleaning, which a linear head's training starts from.

    Raises:
        TrainingError: the rows cannot be learned from.
    """
    levels, n_leaves = levels_of(taxonomy), len(taxonomy.leaves)
    candidates, winner = train_candidates(
        names if search is None else [search.winner],
        rows,
        n_leaves,
        seed,
        images,
        near,
        finetuning,
        ensemble_with,
        progress,
        search,
        judge,
    )
    best = next(candidate for candidate in candidates if candidate.name == winner)
    truth = np.array([taxonomy.leaf_index[label] for label in gold["label"].to_list()], np.int64)
    roles = gold["role"].to_numpy() if gold.height else np.zeros(0, str)

    def on_gold(candidate: Candidate) -> NDArray[np.float32]:
        vectors, contents = gold_inputs
        inputs = contents if candidate.name in OWN_INPUTS else vectors
        return candidate.model.predict_proba(inputs) if gold.height else np.zeros((0, n_leaves), np.float32)

    uncalibrated = {candidate.name: on_gold(candidate) for candidate in candidates}
    fits = roles == "temperature"
    judged, raw = roles == "evaluation", rows.raw_labels >= 0
    temperature = 1.0
    if fits.any():
        temperature = fit_temperature(uncalibrated[winner][fits], truth[fits])
    elif (rows.labels != rows.raw_labels)[raw].any():  # heads were tuned on what was cleaned
        temperature = fit_temperature(best.out_of_fold[raw], rows.raw_labels[raw])
    calibrated = {
        name: apply_temperature(P, temperature) if name == winner else P for name, P in uncalibrated.items()
    }

    out_of_fold = apply_temperature(best.out_of_fold, temperature)
    if judged.any():
        judged_on = "gold"
        scores = {name: evaluate(P[judged], truth[judged], levels) for name, P in calibrated.items()}
        answered = {name: decode(P[judged], levels).leaf for name, P in calibrated.items()}
    else:
        judged_on = "heldout"
        scores = {c.name: evaluate(c.out_of_fold[raw], rows.raw_labels[raw], levels) for c in candidates}
        answered = {c.name: decode(c.out_of_fold[raw], levels).leaf for c in candidates}
    real = ~rows.written
    changed = bool((rows.labels != rows.raw_labels)[real].any()) or rows.repeated > 0
    cleaning: tuple[LevelEffect, ...] = ()
    if judged.any() and changed and winner not in OWN_INPUTS and search is None:
        [uncleaned], _ = train_candidates(
            [winner], rows.settled(), n_leaves, seed, near=near, ensemble_with=ensemble_with, judge=judge
        )
        P = apply_temperature(on_gold(uncleaned), temperature)
        scores["raw labels"] = evaluate(P[judged], truth[judged], levels)
        answered["raw labels"] = decode(P[judged], levels).leaf
        cleaning = effect_by_level(P[judged], calibrated[winner][judged], truth[judged], levels, seed)
        candidates = [
            *candidates,
            Candidate(
                "raw labels", uncleaned.model, uncleaned.out_of_fold, uncleaned.loss, uncleaned.settings
            ),
        ]

    said, kept = decode_answers(out_of_fold, taxonomy, levels), None
    if prototypes and winner not in OWN_INPUTS:
        kept, familiarity = fit_prototypes(
            rows.vectors,
            rows.labels,
            rows.folds,
            said.leaf,
            n_leaves=n_leaves,
            per_label=prototypes,
            seed=seed,
        )
        said = replace(said, familiarity=familiarity)
    path = _path(said.take(np.flatnonzero(real)), taxonomy.other, starts)
    held_truth = [taxonomy.leaves[leaf] for leaf in rows.raw_labels[raw].tolist()]
    head = best.model
    if isinstance(head, FinetunedStudent):  # serves as an encoder of its own and a head
        encoder, head = head.encoder, head.head
    about: dict[str, Any] = {"path": path_as_dict(path)}
    if fits.any():
        about["temperature_keys"] = [key.hex() for key in gold["key"].filter(pl.Series(fits)).to_list()]
    student = Student(taxonomy, head, winner, modality, encoder, temperature, about, kept)
    return Trained(
        student=student,
        path=path,
        candidates=candidates,
        scores=scores,
        judged_on=judged_on,
        gold=_judge(gold, calibrated[winner], student, gold_inputs[0]) if gold.height else None,
        held_out=CalibrationSample("teacher", said.take(np.flatnonzero(raw)), held_truth, cross_fitted=True),
        answered=answered,
        cleaning=cleaning,
        full=search is None,
    )


def _path(said: Answers, other: str | None, starts: int) -> ThresholdPath:
    """What is tested later, from the answers out of fold."""
    never = np.array([label == other for label in said.labels], bool)
    path = fix_path(said.scores, never, starts=starts, mistaken=1 - said.confidences[:, -1])
    return replace(path, upper=upper_thresholds(path, said.scores, said.confidences, said.depths, never))


def _judge(frame: pl.DataFrame, P: NDArray[np.float32], student: Student, inputs: Any) -> Judged:
    answers = decode_answers(P, student.taxonomy, student.levels)
    return Judged(frame, P, replace(answers, familiarity=student.familiarity(inputs, answers.leaf)))


def judge_with(student: Student, frame: pl.DataFrame, inputs: Any) -> Judged:
    """What a student says about judged items (key, label, role)."""
    return _judge(frame, student.probabilities(inputs), student, inputs)


def flat_metrics(scores: Sequence[LevelScores], judged_on: str) -> dict[str, float]:
    """`gold.LEVEL.top1|top3|top5|macro_f1` a level, and `ece` of the deepest."""
    metrics = {
        f"{judged_on}.{level.level}.{name}": round(float(getattr(level, name)), 6)
        for level in scores
        for name in ("top1", "top3", "top5", "macro_f1")
    }
    return metrics | {"ece": round(float(scores[-1].ece), 6)}
