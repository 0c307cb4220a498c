"""The Prefect steps of the student: freeze the snapshot, train and register, issue a new policy.

Each reads, calls one domain function, writes, and returns a small record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.project import Project
from tasks.records import Adjudicated, Cleaned, Policy, Retrained, Snapshot, hash_of
from tasks.sources import read_gold, read_gold_rows
from tasks.store import open_store
from tasks.store.moved import lost_labels, today_or_then
from tasks.store.policies import append_policy, policy_in_force


@task(name="freeze snapshot", cache_policy=NO_CACHE)
def take_snapshot(project: Project) -> Snapshot:
    """Afterwards the rows that training may use lie under the project's root, named by their content."""
    from tasks.student.snapshot import write_snapshot
    from tasks.student.training_view import training_view

    store = open_store(project.database_url, project.project)
    gold = read_gold(project)
    rows = training_view(project, store, gold)
    snapshot = write_snapshot(rows, gold.height, project.taxonomy.version, project.root)
    return replace(snapshot, lost=lost_labels(store, project.taxonomy))


@task(name="train and register", cache_policy=NO_CACHE)
def train_and_register(project: Project, cleaned: Cleaned, run_id: int) -> Retrained:
    """Afterwards a calibrated challenger with its policy stands in the registry, its run in MLflow."""
    from tasks.cleaning.overview import cleaning_tables
    from tasks.embedding.vectors import encoder_settings
    from tasks.promotion.evaluation_tables import evaluation_tables
    from tasks.promotion.exporting import attach_onnx
    from tasks.promotion.tracking import candidate_runs, parent_run, registry_of, retrain_facts, tables
    from tasks.student.certifying import first_large_enough, issue_policy
    from tasks.student.evaluation_report import evaluation_report
    from tasks.student.finetuning import Finetuning
    from tasks.student.held_out import write_held_out
    from tasks.student.judged import with_roles
    from tasks.student.onnx_comparison import needs
    from tasks.student.retrain import flat_metrics, retrain
    from tasks.student.samples import samples
    from tasks.student.teacher_on_gold import teacher_metrics, teacher_on_gold
    from tasks.student.training import ImageTraining
    from tasks.student.training_inputs import training_inputs

    store, taxonomy = open_store(project.database_url, project.project), project.taxonomy
    if project.student.onnx:
        needs("onnx", "onnxruntime")  # told before hours are spent on training
    registry = registry_of(project)
    encoder = encoder_settings(project.encoder)
    read = read_gold_rows(project)
    gold = with_roles(read.frame)
    inputs = training_inputs(project, store, cleaned, gold)
    trained = retrain(
        inputs.training,
        project.student.candidates,
        taxonomy,
        encoder,
        project.task.modality,
        gold,
        (inputs.gold_vectors, inputs.gold_contents),
        starts=project.routing.starts,
        near=cleaned.strength,
        ensemble_with=project.student.ensemble_with,
        prototypes=project.student.prototypes,
        finetuning=Finetuning(encoder, registry.encoders_home, **project.student.finetune.model_dump()),
        images=ImageTraining(
            project.student.timm_model,
            project.student.pretrained,
            project.student.epochs,
            project.student.image_size,
        ),
    )
    sample = first_large_enough([*samples(project, store, trained.student, trained.gold), trained.held_out])
    policy, certificate = issue_policy(
        trained.path,
        sample,
        taxonomy.levels,
        taxonomy.other,
        project.routing.target_error,
        project.routing.confidence,
        "",
        project.routing.partial,
    )
    student = replace(trained.student, about={**trained.student.about, "policy": policy.as_dict()})
    said = teacher_on_gold(store, taxonomy, gold)
    report = evaluation_report(
        trained,
        inputs.training,
        said,
        read.slices,
        cleaned.noise_estimate or None,
        float(cleaned.levels[taxonomy.levels[-1]]["share"]),
    )
    metrics = flat_metrics(trained.winner_scores, trained.judged_on)
    record = Retrained(
        run_id="",
        model_version="",
        student=student.kind,
        metrics=metrics,
        policy=policy,
        snapshot=cleaned.snapshot,
        bottleneck=report.limit.sentence,
        candidates={name: flat_metrics(scores, trained.judged_on) for name, scores in trained.scores.items()},
        teacher=teacher_metrics(said, taxonomy, gold),
        before_cleaning=(
            flat_metrics(trained.scores["raw labels"], trained.judged_on)
            if "raw labels" in trained.scores
            else metrics
        ),
    )
    facts = retrain_facts(trained, report, sample, certificate, cleaned)
    facts["cleaning_effect"] = [asdict(effect) for effect in trained.cleaning]
    version = registry.next_version()
    mlflow_run = registry.log_retrain(
        parent_run(project, trained, report, policy, certificate, sample, record, cleaned, version),
        candidate_runs(trained, record, report, version),
        project.root.joinpath(cleaned.snapshot.path),
        cleaned.snapshot.fingerprint,
        tables(trained) | evaluation_tables(trained, report) | cleaning_tables(cleaned, trained.cleaning),
        facts | record.as_dict(),
    )
    version = registry.register(
        mlflow_run,
        student,
        policy.sentence,
        {"coverage": f"{policy.certified_coverage:.4f}", "against": policy.against, "student": student.kind}
        | ({} if gold.height else {"verified": "unverified"}),
    )
    policy = append_policy(store, replace(policy, model_version=version), run_id)
    record = replace(record, run_id=mlflow_run, model_version=version, policy=policy)
    if project.student.onnx:
        attach_onnx(
            registry,
            record,
            student,
            inputs.training.images if student.reads_images else inputs.training.vectors,
        )
    place = project.root / "retrains" / f"{version}.json"
    settled = inputs.frame.filter(pl.Series(inputs.settled)).select("key")
    write_held_out(place.with_suffix(".heldout.parquet"), settled, trained.held_out, policy)
    beside = place.with_suffix(".tmp")
    trained_with = {"record": record.as_dict(), "trained_with": _training_settings(project)}
    beside.write_text(json.dumps(facts | trained_with), encoding="utf-8")
    beside.rename(place)
    return record


@task(name="is there anything to learn", cache_policy=NO_CACHE)
def already_trained(project: Project, cleaned: Cleaned) -> bool:
    """Whether the newest version was trained on exactly these rows, cleaned so, with exactly these settings."""
    versions = [file for file in (project.root / "retrains").glob("*.json") if file.stem.isdigit()]
    if not versions:
        return False
    facts = json.loads(max(versions, key=lambda file: int(file.stem)).read_text(encoding="utf-8"))
    same_rows = facts["record"]["snapshot"]["fingerprint"] == cleaned.snapshot.fingerprint
    same_labels = Path(facts["cleaning"]["path"]).name == Path(cleaned.path).name
    return same_rows and same_labels and facts.get("trained_with") == _training_settings(project)


def _training_settings(project: Project) -> str:
    sections = (project.encoder, project.student, project.cleaning)
    gold = read_gold(project)
    judged = hash_of(sorted(zip(gold["key"].to_list(), gold["label"].to_list(), strict=True)))
    return "".join(section.model_dump_json() for section in sections) + judged


@task(name="ask the adjudicator", cache_policy=NO_CACHE)
def adjudicate_audits(project: Project, run_id: int) -> Adjudicated:
    """Afterwards the adjudicator has decided what champion and challenger still lack; what waits is written down."""
    from tasks.labeling.adjudication_queue import keep_plans
    from tasks.monitoring.progress import console_progress
    from tasks.promotion.tracking import registry_of
    from tasks.student.adjudicating_audits import adjudicate
    from tasks.student.judged import with_roles
    from tasks.student.samples import audited_sample, terms_of

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    versions = [registry.alias(name) for name in ("champion", "challenger")]
    calibrated_on = with_roles(read_gold(project)).filter(pl.col("role") == "temperature").select("key")
    done = Adjudicated()
    for version in [version for version in dict.fromkeys(versions) if version is not None]:
        student = registry.load(version)
        audited = audited_sample(project, store, student, calibrated_on)
        if audited is not None:
            terms, progress = terms_of(project, student), console_progress("adjudicating")
            done = done.then(adjudicate(project, store, version, audited, terms, run_id, progress))
    keep_plans(project.root, done.versions.keys())
    return done


@task(name="recalibrate the champion", cache_policy=NO_CACHE)
def recalibrate_champion(project: Project, run_id: int) -> Policy | None:
    """Afterwards the champion's newest policy is certified on the newest sample; None without a champion.

    A policy that would say the same as the one in force is not written again.
    """
    return _recalibrated(project, "champion", run_id)


@task(name="recalibrate the challenger", cache_policy=NO_CACHE)
def recalibrate_challenger(project: Project, run_id: int) -> Policy | None:
    """Afterwards a challenger whose audits are adjudicated by now has a policy that rests on them."""
    return _recalibrated(project, "challenger", run_id, only_against="adjudicated")


def _recalibrated(
    project: Project, alias: str, run_id: int, only_against: str | None = None
) -> Policy | None:
    from tasks.promotion.tracking import registry_of
    from tasks.student.certifying import ENOUGH_ROWS, first_large_enough, issue_policy, path_from_dict
    from tasks.student.judged import with_roles
    from tasks.student.samples import judge_today, samples

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    version = registry.alias(alias)
    if version is None:
        return None
    student, in_force = registry.load(version), policy_in_force(store, version)
    known = today_or_then(student.taxonomy.leaves, project.taxonomy)
    gold = with_roles(read_gold(project)).filter(pl.col("label").is_in(known))
    judged = judge_today(project, student, gold, gold) if gold.height else None
    sample = first_large_enough(samples(project, store, student, judged))
    if sample is None or (
        in_force is not None and len(sample.truth) < min(ENOUGH_ROWS, in_force.calibration_items)
    ):
        return in_force  # what is in force rests on more than the few rows there are
    if only_against is not None and sample.against != only_against:
        return in_force
    policy, _ = issue_policy(
        path_from_dict(student.about["path"]),
        sample,
        student.taxonomy.levels,
        student.taxonomy.other,
        project.routing.target_error,
        project.routing.confidence,
        version,
        project.routing.partial,
    )
    if in_force is not None and _written(replace(in_force, id=None)) == _written(policy):
        return in_force
    return append_policy(store, policy, run_id)


def _written(policy: Policy) -> str:
    """A policy as the database keeps it: there a tuple is a list."""
    return json.dumps(policy.as_dict(), sort_keys=True)
