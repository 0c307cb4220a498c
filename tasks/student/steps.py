"""The Prefect steps of the student: freeze the snapshot, train and register, issue a new policy.

Each reads, calls one domain function, writes, and returns a small record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.project import Project
from tasks.records import Cleaned, Policy, Retrained, Snapshot, hash_of
from tasks.sources import read_gold
from tasks.store import Store, open_store
from tasks.store.items import read_contents
from tasks.store.labels import effective_labels
from tasks.store.policies import append_policy, policy_in_force
from tasks.store.traffic import audits
from tasks.synthetic import SYNTHETIC

if TYPE_CHECKING:
    from tasks.student.snapshot import TrainingRows

FOLD_SEED = 0


@task(name="freeze snapshot", cache_policy=NO_CACHE)
def take_snapshot(project: Project) -> Snapshot:
    """Afterwards the rows that training may use lie under the project's root, named by their content."""
    from tasks.student.snapshot import write_snapshot

    store = open_store(project.database_url, project.project)
    gold = read_gold(project)
    rows = training_view(project, store, gold)
    return write_snapshot(rows, gold.height, project.taxonomy.version, project.root)


def training_view(project: Project, store: Store, gold: pl.DataFrame) -> TrainingRows:
    """What a student may learn from, as the database now stands."""
    from tasks.store.answers import candidates
    from tasks.student.snapshot import training_rows, weighted

    known = list(project.taxonomy.leaves)
    settled = effective_labels(store)
    disputed = candidates(store, settled).with_columns(
        pl.col("candidates").list.eval(pl.element().filter(pl.element().is_in(known)))
    )
    labels = weighted(
        settled.filter(pl.col("label").is_in(known)), disputed.filter(pl.col("candidates").list.len() > 0)
    )
    held_back = audits(store, project.routing.audit_window_days, misses_only=True).select("key")
    share = project.labeling.synthesis.most_share
    return training_rows(labels, read_contents(store), gold, held_back, project.task.modality, share)


@task(name="train and register", cache_policy=NO_CACHE)
def train_and_register(project: Project, cleaned: Cleaned, run_id: int) -> Retrained:
    """Afterwards a calibrated challenger with its policy stands in the registry, its run in MLflow."""
    from tasks.cleaning.overview import cleaning_tables
    from tasks.embedding.vectors import encoder_settings, vectors_of
    from tasks.promotion.exporting import attach_onnx
    from tasks.promotion.tracking import candidate_runs, parent_run, registry_of, retrain_facts, tables
    from tasks.student.certifying import first_large_enough, issue_policy
    from tasks.student.crossfit import fold_of
    from tasks.student.finetuning import Finetuning
    from tasks.student.judged import with_roles
    from tasks.student.onnx_comparison import needs
    from tasks.student.retrain import flat_metrics, retrain
    from tasks.student.shared_rows import shared
    from tasks.student.snapshot import DISPUTED
    from tasks.student.synthetic import folds_beside
    from tasks.student.training import ImageTraining, Rows

    store, taxonomy, modality = (
        open_store(project.database_url, project.project),
        project.taxonomy,
        project.task.modality,
    )
    if project.student.onnx:
        needs("onnx", "onnxruntime")  # told before hours are spent on training
    registry = registry_of(project)
    encoder = encoder_settings(project.encoder)
    rows = pl.read_parquet(cleaned.snapshot.path)
    learned = rows.select("key").join(
        pl.read_parquet(cleaned.path), on="key", how="left", maintain_order="left"
    )
    contents = rows.select("key").join(read_contents(store), on="key", how="left", maintain_order="left")
    gold = with_roles(read_gold(project))
    needs_images = "timm" in project.student.candidates
    needs_texts = "finetuned" in project.student.candidates and modality == "text"
    contents_of_gold = _images(gold) if needs_images else gold["text"].to_list() if needs_texts else None
    unsettled = rows["source"].is_in([DISPUTED, SYNTHETIC]).to_numpy()
    vectors, leaves = (
        vectors_of(encoder, project.cache_root, contents, modality),
        _indices(project, rows["label"]),
    )
    folds = fold_of(rows["group"].to_list(), project.student.folds, FOLD_SEED)
    training = Rows(
        vectors=vectors,
        labels=_indices(project, learned["label"]),
        raw_labels=np.where(unsettled, -1, leaves),
        weight=rows["weight"].to_numpy().astype(np.float32),
        folds=folds_beside(vectors, leaves, folds, (rows["source"] == SYNTHETIC).to_numpy()),
        images=_images(contents) if needs_images else None,
        texts=contents["text"].to_list() if needs_texts else None,
    )
    if "share" in learned.columns:
        other = [-1 if label is None else taxonomy.leaf_index[label] for label in learned["rest"].to_list()]
        training = shared(training, learned["share"].to_numpy(), np.array(other, np.int64))
    trained = retrain(
        training,
        project.student.candidates,
        taxonomy,
        encoder,
        modality,
        gold,
        (vectors_of(encoder, project.cache_root, gold, modality), contents_of_gold),
        starts=project.routing.starts,
        near=cleaned.strength,
        finetuning=Finetuning(encoder, registry.encoders_home, **project.student.finetune.model_dump()),
        images=ImageTraining(
            project.student.timm_model,
            project.student.pretrained,
            project.student.epochs,
            project.student.image_size,
        ),
    )
    samples = _samples(project, store, trained.student, trained.gold)
    sample = first_large_enough([*samples, trained.held_out])
    policy, certificate = issue_policy(
        trained.path,
        sample,
        taxonomy.levels,
        taxonomy.other,
        project.routing.target_error,
        project.routing.confidence,
        "",
    )
    student = replace(trained.student, about={**trained.student.about, "policy": policy.as_dict()})
    metrics = flat_metrics(trained.winner_scores, trained.judged_on)
    teacher = _teacher_metrics(store, project, gold)
    record = Retrained(
        run_id="",
        model_version="",
        student=student.kind,
        metrics=metrics,
        policy=policy,
        snapshot=cleaned.snapshot,
        bottleneck=trained.bottleneck,
        candidates={name: flat_metrics(scores, trained.judged_on) for name, scores in trained.scores.items()},
        teacher=teacher,
        before_cleaning=(
            flat_metrics(trained.scores["raw labels"], trained.judged_on)
            if "raw labels" in trained.scores
            else metrics
        ),
    )
    facts = retrain_facts(trained, sample, certificate, cleaned)
    facts["cleaning_effect"] = [asdict(effect) for effect in trained.cleaning]
    mlflow_run = registry.log_retrain(
        parent_run(project, trained, policy, certificate, sample, record, cleaned),
        candidate_runs(trained, record),
        project.root.joinpath(cleaned.snapshot.path),
        cleaned.snapshot.fingerprint,
        tables(trained) | cleaning_tables(cleaned, trained.cleaning),
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
        attach_onnx(registry, record, student, training.images if student.reads_images else vectors)
    place = project.root / "retrains" / f"{version}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    settled = rows.filter(pl.Series(~unsettled)).select("key")
    _write_held_out(place.with_suffix(".heldout.parquet"), settled, trained.held_out, policy)
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


def _write_held_out(file: Path, keys: pl.DataFrame, sample: Any, policy: Policy) -> None:
    """Keep what the student said out of fold about each settled row: without gold the gate compares by it."""
    from tasks.routing.cascade import cleared

    levels = list(policy.thresholds or {})
    covered = cleared(sample.answers, levels, policy.thresholds, None)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    keys.with_columns(
        pl.Series("label", list(sample.truth), pl.String),
        pl.Series("answered", sample.answers.labels, pl.String),
        pl.Series("covered", covered, pl.Boolean),
        pl.Series("confidence", sample.answers.confidence, pl.Float32),
    ).write_parquet(beside)
    beside.rename(file)


@task(name="recalibrate the champion", cache_policy=NO_CACHE)
def recalibrate_champion(project: Project, run_id: int) -> Policy | None:
    """Afterwards the champion's newest policy is certified on the newest sample; None without a champion.

    A policy that would say the same as the one in force is not written again.
    """
    from tasks.embedding.vectors import vectors_of
    from tasks.promotion.tracking import registry_of
    from tasks.student.certifying import ENOUGH_ROWS, first_large_enough, issue_policy, path_from_dict
    from tasks.student.judged import with_roles
    from tasks.student.retrain import judge_with

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    version = registry.alias("champion")
    if version is None:
        return None
    student, in_force = registry.load(version), policy_in_force(store, version)
    known = student.taxonomy.leaf_index
    gold = with_roles(read_gold(project)).filter(pl.col("label").is_in(list(known)))
    inputs = (
        _images(gold)
        if student.reads_images
        else vectors_of(student.encoder, project.cache_root, gold, student.modality)
    )
    judged = judge_with(student, gold, inputs) if gold.height else None
    sample = first_large_enough(_samples(project, store, student, judged))
    if sample is None or (
        in_force is not None and len(sample.truth) < min(ENOUGH_ROWS, in_force.calibration_items)
    ):
        return in_force  # what is in force rests on more than the few rows there are
    policy, _ = issue_policy(
        path_from_dict(student.about["path"]),
        sample,
        student.taxonomy.levels,
        student.taxonomy.other,
        project.routing.target_error,
        project.routing.confidence,
        version,
    )
    if in_force is not None and _written(replace(in_force, id=None)) == _written(policy):
        return in_force
    return append_policy(store, policy, run_id)


def _written(policy: Policy) -> str:
    """A policy as the database keeps it: there a tuple is a list."""
    return json.dumps(policy.as_dict(), sort_keys=True)


def _samples(project: Project, store: Store, student: Any, gold: Any) -> list[Any]:
    """The samples that may certify, the most trustworthy first: adjudicated audits, gold, audits by the teacher."""
    from tasks.embedding.vectors import vectors_of
    from tasks.student.judged import judged_audits
    from tasks.student.retrain import judge_with

    watched = audits(store, project.routing.audit_window_days, misses_only=True)
    rows = judged_audits(watched, effective_labels(store)).filter(pl.col("role") == "calibration")
    if gold is not None:
        fitted = gold.frame.filter(pl.col("role") == "temperature")
        rows = rows.join(fitted.select("key"), on="key", how="anti", maintain_order="left")
    found = []
    if rows.height:
        contents = rows.join(read_contents(store), on="key", how="left", maintain_order="left")
        inputs = (
            _images(contents)
            if student.reads_images
            else vectors_of(student.encoder, project.cache_root, contents, student.modality)
        )
        audited = judge_with(student, rows, inputs)
        # Only differences are usually adjudicated; a sample of those alone would not be one of the traffic.
        against = "adjudicated" if (rows["against"] == "adjudicated").all() else "teacher"
        found.append(audited.sample(against, np.ones(rows.height, bool)))
    samples = [sample for sample in found if sample.against == "adjudicated"]
    if gold is not None:
        samples.append(gold.sample("gold", gold.role("calibration")))
    return samples + [sample for sample in found if sample.against == "teacher"]


def _indices(project: Project, labels: pl.Series) -> Any:
    return np.array([project.taxonomy.leaf_index[label] for label in labels.to_list()], np.int64)


def _images(items: pl.DataFrame) -> Any:
    from tasks.store.items import content_of

    return content_of(items, "image")


def _teacher_metrics(store: Store, project: Project, gold: pl.DataFrame) -> dict[str, float]:
    """The teacher's own first-pass accuracy by level on the evaluation half of gold, where it was asked."""
    from tasks.store.answers import first_pass_labels
    from tasks.taxonomy import truncate

    said = first_pass_labels(store, gold).rename({"label": "said"})
    both = gold.filter(pl.col("role") == "evaluation").join(said, on="key", how="inner")
    if not both.height:
        return {}
    pairs = list(zip(both["label"].to_list(), both["said"].to_list(), strict=True))
    return {"rows": float(both.height)} | {
        f"gold.{level}.top1": sum(truncate(true, depth) == truncate(given, depth) for true, given in pairs)
        / len(pairs)
        for depth, level in enumerate(project.taxonomy.levels, start=1)
    }
