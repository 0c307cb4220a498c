"""A challenger put into MLflow: its run with the candidates below, its version, its policy, the facts beside it.

Shapes are tracking's, the talk with MLflow is the registry's; what training found is not looked into here.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tasks.cleaning.overview import cleaning_tables
from tasks.project import Project
from tasks.promotion.evaluation_tables import evaluation_tables
from tasks.promotion.exporting import attach_onnx
from tasks.promotion.registry import Registry
from tasks.promotion.tracking import candidate_runs, parent_run, retrain_facts, tables
from tasks.records import Retrained
from tasks.store import Store
from tasks.store.policies import append_policy
from tasks.student.challenger import Challenger
from tasks.student.held_out import write_held_out
from tasks.whole_files import written_whole


def register_challenger(
    project: Project, store: Store, registry: Registry, made: Challenger, run_id: int, trained_with: str
) -> Retrained:
    """Afterwards the student is the registry's challenger, its policy in the store, its facts under the root.

    Args:
        project: its settings.
        store: keeps the policy.
        registry: takes run and version.
        made: what a retrain made.
        run_id: the job's row.
        trained_with: the settings it rests on, as `already_trained` will compare them.

    Raises:
        ConfigError: a graph was wanted and its extra is not installed.
    """
    trained, cleaned, student = made.trained, made.cleaned, made.student
    version = registry.next_version()
    record = Retrained(
        run_id="",
        model_version="",
        student=student.kind,
        metrics=made.metrics,
        policy=made.policy,
        snapshot=cleaned.snapshot,
        bottleneck=made.report.limit.sentence,
        candidates=made.candidate_metrics,
        teacher=made.teacher,
        before_cleaning=made.before_cleaning,
    )
    facts = retrain_facts(made)
    run = registry.log_retrain(
        parent_run(project, made, version),
        candidate_runs(made, version),
        project.root.joinpath(cleaned.snapshot.path),
        cleaned.snapshot.fingerprint,
        tables(trained)
        | evaluation_tables(trained, made.report)
        | cleaning_tables(cleaned, trained.cleaning),
        facts | record.as_dict(),
    )
    tags = {
        "coverage": f"{made.policy.certified_coverage:.4f}",
        "against": made.policy.against,
        "student": student.kind,
    }
    verified = {} if made.has_gold else {"verified": "unverified"}
    version = registry.register(run, student, made.policy.sentence, tags | verified)
    policy = append_policy(store, replace(made.policy, model_version=version), run_id)
    record = replace(record, run_id=run, model_version=version, policy=policy)
    if project.student.onnx:
        training = made.inputs.training
        attach_onnx(registry, record, student, training.images if student.reads_images else training.vectors)
    place = project.root / "retrains" / f"{version}.json"
    write_held_out(place.with_suffix(".heldout.parquet"), made.settled_keys, trained.held_out, policy)
    said = json.dumps(facts | {"record": record.as_dict(), "trained_with": trained_with})
    with written_whole(place) as beside:
        beside.write_text(said, encoding="utf-8")
    return record
