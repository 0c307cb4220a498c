"""A retrain's outcome before it is registered: the winner, the policy it may answer under, and all that judges it.

Reads what training takes and puts the room's functions in order; knows nothing of MLflow and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from tasks.duplicates import near_duplicates_of
from tasks.embedding.vectors import encoder_settings
from tasks.project import Project
from tasks.records import Cleaned, Policy
from tasks.sources import read_gold_rows
from tasks.store import Store
from tasks.store.items import read_contents
from tasks.student.certifying import CalibrationSample, first_large_enough, issue_policy
from tasks.student.evaluation_report import RAW, EvaluationReport, evaluation_report
from tasks.student.finetuning import Finetuning
from tasks.student.judged import with_roles
from tasks.student.learning_curve import Curve
from tasks.student.package import Student
from tasks.student.retrain import Trained, flat_metrics, retrain
from tasks.student.samples import samples
from tasks.student.search import (
    JUDGE,
    JUDGE_FILE,
    SEARCH_EVERY_NIGHT_BELOW,
    SEARCH_FILE,
    Search,
    settings_of,
    standing_search,
)
from tasks.student.teacher_on_gold import teacher_metrics, teacher_on_gold
from tasks.student.thresholds import Certificate
from tasks.student.training import ImageTraining, starts_of
from tasks.student.training_inputs import TrainingInputs, training_inputs


@dataclass(frozen=True, eq=False)
class Challenger:
    """A trained student with its policy, judged and not yet registered.

    Attributes:
        cleaned: the snapshot and its labels.
        inputs: the arrays that were learned from.
        trained: the winner beside all candidates.
        sample: what the policy was certified on; None where nobody judged enough.
        policy: without a version yet.
        certificate: the curve behind it.
        report: the student on the rows that judge it.
        teacher: the teacher's own accuracy on gold, flat names.
        has_gold: whether people judged it.
        search: what the next nights may rest on; None where this one was none, or the rows are few.
    """

    cleaned: Cleaned
    inputs: TrainingInputs
    trained: Trained
    sample: CalibrationSample | None
    policy: Policy
    certificate: Certificate | None
    report: EvaluationReport
    teacher: dict[str, float]
    has_gold: bool
    search: Search | None = None

    @property
    def student(self) -> Student:
        """Ready to serve, its policy written into it."""
        trained = self.trained.student
        return replace(trained, about={**trained.about, "policy": self.policy.as_dict()})

    @property
    def candidate_metrics(self) -> dict[str, dict[str, float]]:
        """Flat metrics by candidate; the winner before cleaning is `raw labels`."""
        return {
            name: flat_metrics(scores, self.trained.judged_on) for name, scores in self.trained.scores.items()
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The winner's."""
        return self.candidate_metrics[self.trained.student.kind]

    @property
    def before_cleaning(self) -> dict[str, float]:
        """The winner's, taught the labels as they came; without a number where that was not measured."""
        if not self.trained.full:
            return {}
        return self.candidate_metrics.get(RAW, self.metrics)

    @property
    def settled_keys(self) -> pl.DataFrame:
        """key of the rows behind whose label somebody real stands, in the order of `trained.held_out`."""
        return self.inputs.frame.filter(pl.Series(self.inputs.settled)).select("key")


def make_challenger(
    project: Project,
    store: Store,
    cleaned: Cleaned,
    encoders_home: Path,
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> Challenger:
    """Train the candidates on a cleaned snapshot, certify the winner, evaluate it; nothing is written.

    Args:
        project: names candidates, targets and settings.
        store: has contents, judged items and the teacher's answers.
        cleaned: the snapshot and what its labels were cleaned to.
        encoders_home: where an encoder that is trained further is kept.
        progress: told how many candidates are fitted.
        full: search anew, whatever was found before.

    Raises:
        TrainingError: there is too little to learn from.
    """
    taxonomy, settings, routing = project.taxonomy, project.student, project.routing
    encoder = encoder_settings(project.encoder)
    read = read_gold_rows(project)
    gold = with_roles(read.frame)
    rows, made_with, now = pl.read_parquet(cleaned.snapshot.path), settings_of(project), time.time()
    days = 0.0 if full else settings.full_search_days
    search, judge = (
        None if found is None or _gold_was_learned(found, rows, gold, store) else found
        for found in (
            standing_search(project.root / SEARCH_FILE, rows, made_with, days, now),
            standing_search(project.root / JUDGE_FILE, rows, made_with, settings.full_search_days, now),
        )
    )
    inputs = training_inputs(project, store, cleaned, gold, search)
    own = inputs.training.folds[: rows.height]
    folds = np.where(own >= 0, own, -1 - own).astype(np.int16)
    if judge is not None and not judge.in_folds(rows, folds):
        judge = None
    trained = retrain(
        inputs.training,
        settings.candidates,
        taxonomy,
        encoder,
        project.task.modality,
        gold,
        (inputs.gold_vectors, inputs.gold_contents),
        starts=routing.starts,
        near=cleaned.strength,
        ensemble_with=settings.averaged,
        prototypes=settings.prototypes,
        finetuning=Finetuning(encoder, encoders_home, **settings.finetune.model_dump()),
        images=ImageTraining(
            settings.timm_model,
            settings.pretrained,
            settings.epochs,
            settings.image_size,
            settings.timm.weights and str(project.resolve(settings.timm.weights)),
            settings.timm.train,
            settings.timm.flip,
            settings.timm.device,
        ),
        progress=progress,
        search=search,
        judge=None if judge is None else judge.starts.get(JUDGE),
    )
    sample = first_large_enough([*samples(project, store, trained.student, trained.gold), trained.held_out])
    policy, certificate = issue_policy(
        trained.path,
        sample,
        taxonomy.levels,
        taxonomy.other,
        routing.target_error,
        routing.confidence,
        "",
        routing.partial,
    )
    said = teacher_on_gold(store, taxonomy, gold)
    report = evaluation_report(
        trained,
        inputs.training,
        said,
        read.slices,
        cleaned.noise_estimate or None,
        float(cleaned.levels[taxonomy.levels[-1]]["share"]),
        Curve.from_dict(search.curve) if search is not None and search.curve else None,
        [] if search is None else list(search.settings),
    )
    made = None
    if search is None and rows.height >= SEARCH_EVERY_NIGHT_BELOW:
        candidates = [candidate for candidate in trained.candidates if candidate.name != RAW]
        chosen = {candidate.name: candidate.settings for candidate in candidates}
        curve = report.curve.as_dict() if report.curve else None
        learned = rows.select("key", "label").with_columns(pl.Series("fold", folds))
        made = Search(now, made_with, trained.student.kind, chosen, learned, starts_of(candidates), curve)
    return Challenger(
        cleaned,
        inputs,
        trained,
        sample,
        policy,
        certificate,
        report,
        teacher_metrics(said, taxonomy, gold),
        bool(gold.height),
        made,
    )


def _gold_was_learned(search: Search, rows: pl.DataFrame, gold: pl.DataFrame, store: Store) -> bool:
    """Whether what judges today, or something much like it, is among what the search's weights learned."""
    gone = search.gone(rows)
    if not gone.height or not gold.height:
        return False
    if gone.join(gold.select("key"), on="key", how="semi").height:
        return True
    texts = read_contents(store, gone)["text"].drop_nulls().to_list()
    return bool(near_duplicates_of(texts, gold["text"].drop_nulls().to_list()).any())
