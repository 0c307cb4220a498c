"""A retrain's outcome before it is registered: the winner, the policy it may answer under, and all that judges it.

Reads what training takes and puts the room's functions in order; knows nothing of MLflow and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from tasks.embedding.vectors import encoder_settings
from tasks.project import Project
from tasks.records import Cleaned, Policy
from tasks.sources import read_gold_rows
from tasks.store import Store
from tasks.student.certifying import CalibrationSample, first_large_enough, issue_policy
from tasks.student.evaluation_report import RAW, EvaluationReport, evaluation_report
from tasks.student.finetuning import Finetuning
from tasks.student.judged import with_roles
from tasks.student.package import Student
from tasks.student.retrain import Trained, flat_metrics, retrain
from tasks.student.samples import samples
from tasks.student.teacher_on_gold import teacher_metrics, teacher_on_gold
from tasks.student.thresholds import Certificate
from tasks.student.training import ImageTraining
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
        """The winner's, taught the labels as they came."""
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
) -> Challenger:
    """Train the candidates on a cleaned snapshot, certify the winner, evaluate it.

    Args:
        project: names candidates, targets and settings.
        store: has contents, judged items and the teacher's answers.
        cleaned: the snapshot and what its labels were cleaned to.
        encoders_home: where an encoder that is trained further is kept.
        progress: told how many candidates are fitted.

    Raises:
        TrainingError: there is too little to learn from.
    """
    taxonomy, settings, routing = project.taxonomy, project.student, project.routing
    encoder = encoder_settings(project.encoder)
    read = read_gold_rows(project)
    gold = with_roles(read.frame)
    inputs = training_inputs(project, store, cleaned, gold)
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
        ensemble_with=settings.ensemble_with,
        prototypes=settings.prototypes,
        finetuning=Finetuning(encoder, encoders_home, **settings.finetune.model_dump()),
        images=ImageTraining(settings.timm_model, settings.pretrained, settings.epochs, settings.image_size),
        progress=progress,
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
    )
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
    )
