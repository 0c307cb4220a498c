"""The Prefect steps of the student: freeze the snapshot, train and register, issue a new policy.

Each reads, calls one domain function, writes, and returns a small record.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import RegistryError
from tasks.project import Project
from tasks.records import Adjudicated, Cleaned, Policy, Retrained, Snapshot
from tasks.retries import AGAIN
from tasks.sources import read_gold
from tasks.store import open_store
from tasks.store.moved import lost_labels, today_or_then
from tasks.store.policies import append_policy, policy_in_force


@task(name="freeze snapshot", cache_policy=NO_CACHE, **AGAIN)
def take_snapshot(project: Project) -> Snapshot:
    """Afterwards the rows that training may use lie under the project's root, named by their content."""
    from tasks.student.snapshot import write_snapshot
    from tasks.student.standing_snapshot import keep_snapshot, standing_snapshot, state_of
    from tasks.student.training_view import training_view

    store = open_store(project.database_url, project.project)
    gold = read_gold(project)
    state = state_of(project, store, gold)
    snapshot = standing_snapshot(project.root, state)
    if snapshot is None:
        rows = training_view(project, store, gold)
        snapshot = write_snapshot(rows, gold.height, project.taxonomy.version, project.root)
        keep_snapshot(project.root, state, snapshot)
    return replace(snapshot, lost=lost_labels(store, project.taxonomy))


@task(name="train and register", cache_policy=NO_CACHE, **AGAIN)
def train_and_register(project: Project, cleaned: Cleaned, run_id: int, full: bool = False) -> Retrained:
    """Afterwards a calibrated challenger with its policy stands in the registry, its run in MLflow.

    What is trained is kept until it stands there: while MLflow is away, or after a kill, the next attempt, or the next
    retrain of the same rows, registers it without training again. With `full` all candidates are compared, however
    few rows are new.
    """
    from tasks.monitoring.progress import progress_of
    from tasks.promotion.registering import register_challenger
    from tasks.promotion.tracking import registry_of
    from tasks.promotion.unregistered import keep, kept
    from tasks.student.challenger import make_challenger
    from tasks.student.onnx_comparison import needs
    from tasks.student.search import SEARCH_FILE, write_search

    store = open_store(project.database_url, project.project)
    if project.student.onnx:
        needs("onnx", "onnxruntime")  # told before hours are spent on training
    registry = registry_of(project)
    progress, steps = progress_of("retraining"), len(project.student.candidates) + 2  # judged, registered

    def told(done: int) -> None:
        if progress is not None:
            progress(done, steps)

    told(0)
    settings = _training_settings(project)
    asked_for = " ".join(
        [cleaned.snapshot.fingerprint, Path(cleaned.path).name, settings, project.routing.model_dump_json()]
    )
    waiting = kept(project, asked_for)
    if waiting is None:
        made = make_challenger(project, store, cleaned, registry.encoders_home, told, full)
        waiting = keep(project, made, asked_for, settings)
        if made.search is not None:
            write_search(project.root / SEARCH_FILE, made.search)
    told(steps - 1)
    try:
        record = register_challenger(project, store, registry, waiting, run_id)
    except RegistryError as error:
        raise RegistryError(error.address, error.problem, waiting.folder) from error
    told(steps)
    return record


@task(name="is there anything to learn", cache_policy=NO_CACHE, **AGAIN)
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
    from tasks.student.seen_rows import name_of

    sections = (project.encoder, project.student, project.cleaning)
    return "".join(section.model_dump_json() for section in sections) + name_of(read_gold(project))


@task(name="ask the adjudicator", cache_policy=NO_CACHE, **AGAIN)
def adjudicate_audits(project: Project, run_id: int) -> Adjudicated:
    """Afterwards the adjudicator has decided what champion and challenger still lack; what waits is written down."""
    from tasks.labeling.adjudication_queue import keep_plans
    from tasks.monitoring.progress import progress_of
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
            terms, progress = terms_of(project, student), progress_of("adjudicating")
            done = done.then(adjudicate(project, store, version, audited, terms, run_id, progress))
    keep_plans(project.root, done.versions.keys())
    return done


@task(name="recalibrate the champion", cache_policy=NO_CACHE, **AGAIN)
def recalibrate_champion(project: Project, run_id: int) -> Policy | None:
    """Afterwards the champion's newest policy is certified on the newest sample; None without a champion.

    A policy that would say the same as the one in force is not written again.
    """
    return _recalibrated(project, "champion", run_id)


@task(name="recalibrate the challenger", cache_policy=NO_CACHE, **AGAIN)
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
    from tasks.student.seen_rows import not_learned

    registry, store = registry_of(project), open_store(project.database_url, project.project)
    version = registry.alias(alias)
    if version is None:
        return None
    student, in_force = registry.load(version), policy_in_force(store, version)
    known = today_or_then(student.taxonomy.leaves, project.taxonomy)
    gold = not_learned(project, store, version, with_roles(read_gold(project)))
    gold = gold.filter(pl.col("label").is_in(known))
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
    if in_force is not None and _written(replace(in_force, id=None, after_request=0)) == _written(policy):
        return in_force
    return append_policy(store, policy, run_id)


def _written(policy: Policy) -> str:
    """A policy as the database keeps it: there a tuple is a list."""
    return json.dumps(policy.as_dict(), sort_keys=True)
