"""The Prefect steps of cleaning: propose labels and write them beside the snapshot; ask the teacher again.

Each reads, calls one domain function, writes, and returns a small record.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.project import Project
from tasks.records import Cleaned, Snapshot, hash_of
from tasks.retries import AGAIN
from tasks.sources import read_gold_rows
from tasks.store import open_store
from tasks.store.items import read_contents
from tasks.synthetic import SYNTHETIC


@task(name="clean labels", cache_policy=NO_CACHE, **AGAIN)
def clean_snapshot(project: Project, snapshot: Snapshot) -> Cleaned:
    """Afterwards the cleaned labels of the snapshot lie beside it; the same snapshot is cleaned once.

    In mode `re-ask` the second answers that the ledger holds have decided.
    """
    from tasks.cleaning.proposal import propose_labels

    snapshot = replace(snapshot, gold_rejected=read_gold_rows(project).rejected)
    proposed = propose_labels(project, snapshot)
    return _decided(project, proposed) if _asks_again(project) else proposed


@task(name="ask about suspects again", cache_policy=NO_CACHE, **AGAIN)
def ask_suspects_again(project: Project, cleaned: Cleaned, run_id: int) -> Cleaned:
    """Afterwards the most contradicted labels have a second answer, as far as the budget went, which has decided."""
    from tasks.cleaning.asking_again import ask_again, budget_left
    from tasks.cleaning.cleaned_rows import to_ask_again
    from tasks.cleaning.proposal import propose_labels
    from tasks.labeling.asking import asking_teacher, bring_of
    from tasks.monitoring.progress import progress_of

    if not _asks_again(project):
        return cleaned
    store = open_store(project.database_url, project.project)
    proposed = propose_labels(project, cleaned.snapshot)
    suspects = to_ask_again(pl.read_parquet(proposed.path), project.cleaning.reask_share)
    asked = ask_again(
        store,
        asking_teacher(project, bring_of(project, store)),
        project.teacher.passes,
        suspects,
        budget_left(store, run_id, project.teacher.budget_usd, project.cleaning.reask_budget_usd),
        run_id,
        progress=progress_of("asking again"),
    )
    decided = _decided(project, proposed)
    spent = {"suspects": suspects.height, "asked": asked.answered + asked.invalid, "failed": asked.failed}
    return replace(
        decided,
        asked_again={**decided.asked_again, **spent, "calls": asked.calls},
        asked_again_usd=asked.cost_usd,
    )


def _decided(project: Project, proposed: Cleaned) -> Cleaned:
    """The proposal after the second answers of the ledger; the proposal itself where there are none."""
    from tasks.cleaning.asking_again import second_answers
    from tasks.cleaning.cleaned_rows import with_second_answers
    from tasks.cleaning.cleaning_files import (
        changes_by_level_of,
        confused_labels,
        sample_beside,
        sample_of,
        write_cleaning,
    )
    from tasks.labeling.asking import asking_teacher, bring_of

    store, taxonomy = open_store(project.database_url, project.project), project.taxonomy
    frame = pl.read_parquet(proposed.path)
    how = asking_teacher(project, bring_of(project, store))
    answers = second_answers(store, how, project.teacher.passes, frame.select("key"))
    if not answers.height:
        return proposed
    said = hash_of(sorted((key, label or "") for key, label in answers.iter_rows()))
    path = Path(proposed.path).with_name(f"{Path(proposed.path).stem}-{said}.parquet")
    frame, counts = with_second_answers(frame, answers, taxonomy.leaves, project.cleaning.cap)
    raw = pl.read_parquet(proposed.snapshot.path)
    record = replace(
        proposed,
        path=str(path),
        levels=changes_by_level_of(raw.filter(pl.col("source") != SYNTHETIC), frame, taxonomy),
        confused_pairs=confused_labels(raw, frame),
        suspects=int(frame["suspect"].sum()),
        asked_again=counts,
    )
    if path.with_suffix(".json").exists():
        return replace(record, sample=sample_beside(path, "there"))
    changed = frame.filter("overwritten").select("key")
    contents = changed.join(read_contents(store, changed), on="key", how="left")
    return write_cleaning(record, frame, sample_of(project, frame, raw, contents, proposed.noise))


def _asks_again(project: Project) -> bool:
    return project.cleaning.mode == "re-ask" and project.cleaning.method != "none"
