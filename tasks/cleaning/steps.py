"""The Prefect steps of cleaning: propose labels and write them beside the snapshot; ask the teacher again.

Each reads, calls one domain function, writes, and returns a small record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.project import Project
from tasks.records import Cleaned, Snapshot, hash_of
from tasks.sources import read_gold, read_gold_rows
from tasks.store import Store, open_store
from tasks.store.items import read_contents
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy, truncate

if TYPE_CHECKING:
    from tasks.cleaning.noise import Counted

FOLD_SEED = 0
PEOPLE, AGREED = ("human", "adjudicated"), ("consensus",)


@task(name="clean labels", cache_policy=NO_CACHE)
def clean_snapshot(project: Project, snapshot: Snapshot) -> Cleaned:
    """Afterwards the cleaned labels of the snapshot lie beside it; the same snapshot is cleaned once.

    In mode `re-ask` the second answers that the ledger holds have decided.
    """
    snapshot = replace(snapshot, gold_rejected=read_gold_rows(project).rejected)
    proposed = _proposed(project, snapshot)
    return _decided(project, proposed) if _asks_again(project) else proposed


@task(name="ask about suspects again", cache_policy=NO_CACHE)
def ask_suspects_again(project: Project, cleaned: Cleaned, run_id: int) -> Cleaned:
    """Afterwards the most contradicted labels have a second answer, as far as the budget went, which has decided."""
    from tasks.cleaning.asking_again import ask_again, budget_left
    from tasks.cleaning.cleaned_rows import to_ask_again
    from tasks.labeling.asking import asking_teacher, bring_of
    from tasks.monitoring.progress import console_progress

    if not _asks_again(project):
        return cleaned
    store = open_store(project.database_url, project.project)
    proposed = _proposed(project, cleaned.snapshot)
    suspects = to_ask_again(pl.read_parquet(proposed.path), project.cleaning.reask_share)
    asked = ask_again(
        store,
        asking_teacher(project, bring_of(project, store)),
        project.teacher.passes,
        suspects,
        budget_left(store, run_id, project.teacher.budget_usd, project.cleaning.reask_budget_usd),
        run_id,
        progress=console_progress("asking again"),
    )
    decided = _decided(project, proposed)
    spent = {"suspects": suspects.height, "asked": asked.answered + asked.invalid, "failed": asked.failed}
    return replace(
        decided,
        asked_again={**decided.asked_again, **spent, "calls": asked.calls},
        asked_again_usd=asked.cost_usd,
    )


def _proposed(project: Project, snapshot: Snapshot) -> Cleaned:
    """What cleaning makes of the raw labels alone; read back where it has been written before."""
    store = open_store(project.database_url, project.project)
    gold = _counted_on_gold(project, store)
    name = f"cleaned-{project.cleaning.method}-{project.cleaning.mode}-{_short(project, gold)}"
    path = Path(snapshot.path).with_name(f"{name}.parquet")
    said = path.with_suffix(".json")
    if said.exists():
        record = Cleaned(**json.loads(said.read_text(encoding="utf-8")))
        pairs = [(given, new, count) for given, new, count in record.confused_pairs]  # JSON knows no tuples
        sample = _beside(path, record.sample)
        return replace(record, snapshot=snapshot, path=str(path), sample=sample, confused_pairs=pairs)

    from tasks.cleaning.cleaned_rows import cleaned_frame, untouched_frame
    from tasks.cleaning.crossfitted import clean_rows
    from tasks.cleaning.noise import counted_by_passes
    from tasks.cleaning.treatment import treat
    from tasks.student.crossfit import fold_of
    from tasks.student.package import levels_of

    settings = project.cleaning
    every, taxonomy = pl.read_parquet(snapshot.path), project.taxonomy
    rows = every.filter(pl.col("source") != SYNTHETIC)  # real labels are judged, and by real labels only
    levels = levels_of(taxonomy)
    if settings.method == "none":
        counts = {level: {"labels": rows.height, "overwritten": 0, "share": 0.0} for level in levels.names}
        record = Cleaned(counts, str(path), snapshot, 0.0, 1.0, 0, method="none", mode=settings.mode)
        return _write(record, untouched_frame(every), None)
    labels = np.array([taxonomy.leaf_index[label] for label in rows["label"].to_list()], np.int64)
    contents = rows.select("key").join(read_contents(store), on="key", how="left", maintain_order="left")
    candidates = _candidates(rows, taxonomy)
    disputed = np.asarray((candidates >= 0).any(axis=1))
    people = rows["source"].is_in(PEOPLE).to_numpy()
    agreed = rows["source"].is_in(AGREED).to_numpy()
    free = ~(people | agreed | disputed)
    # What was counted about the teacher says nothing about history that somebody else labelled.
    of_teacher = bool((rows["source"] == "single").to_numpy()[free].mean() >= 0.5) if free.any() else False
    result, strength = clean_rows(
        vectors=vectors_of(
            encoder_settings(project.encoder), project.cache_root, contents, project.task.modality
        ),
        labels=labels,
        weight=rows["weight"].to_numpy().astype(np.float32),
        candidates=candidates,
        folds=fold_of(rows["group"].to_list(), project.student.folds, FOLD_SEED),
        people=people,
        agreed=agreed,
        levels=levels,
        cap=settings.cap,
        method=settings.method,
        confidence=settings.confidence,
        gold=gold if of_teacher else (),
        passes=counted_by_passes(labels[agreed], candidates[disputed], levels) if of_teacher else (),
    )
    judged_by_votes = disputed if settings.method != "resubstitution" else np.zeros(len(labels), bool)
    treated = treat(labels, result, judged_by_votes, settings.mode)
    locked = people | judged_by_votes | (agreed & (settings.method != "resubstitution"))
    frame = cleaned_frame(rows["key"], result, treated, locked, taxonomy.leaves)
    noise = {name: asdict(level) | {"margin": min(level.margin, 1.0)} for name, level in result.noise.items()}
    record = Cleaned(
        levels=_counts(rows, frame, taxonomy),
        path=str(path),
        snapshot=snapshot,
        noise_estimate=round(result.noise_estimate, 4),
        margin=min(result.margin, 1.0),
        suspects=len(result.suspects),
        strength=strength,
        confused_pairs=_confused(rows, frame),
        method=settings.method,
        mode=settings.mode,
        noise=noise,
        dropped=int(((treated.share < 1) & (treated.rest < 0)).sum()),
        reweighted=int((treated.rest >= 0).sum()),
    )
    written = untouched_frame(every.filter(pl.col("source") == SYNTHETIC))
    return _write(record, pl.concat([frame, written]), _sample(project, frame, rows, contents, noise))


def _decided(project: Project, proposed: Cleaned) -> Cleaned:
    """The proposal after the second answers of the ledger; the proposal itself where there are none."""
    from tasks.cleaning.asking_again import second_answers
    from tasks.cleaning.cleaned_rows import with_second_answers
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
        levels=_counts(raw.filter(pl.col("source") != SYNTHETIC), frame, taxonomy),
        confused_pairs=_confused(raw, frame),
        suspects=int(frame["suspect"].sum()),
        asked_again=counts,
    )
    if path.with_suffix(".json").exists():
        return replace(record, sample=_beside(path, "there"))
    changed = frame.filter("overwritten").select("key")
    contents = changed.join(read_contents(store, changed), on="key", how="left")
    return _write(record, frame, _sample(project, frame, raw, contents, proposed.noise))


def _write(record: Cleaned, frame: pl.DataFrame, sample: str | None) -> Cleaned:
    """The labels, then a sample of them to read, last the record: what a kill leaves is not taken for a cleaning."""
    path = Path(record.path)
    record = replace(record, sample=_beside(path, sample))
    parts = [
        (path, ".tmp"),
        (path.with_suffix(".sample.csv"), ".csv.tmp"),
        (path.with_suffix(".json"), ".json.tmp"),
    ]
    texts = [None, sample, json.dumps(record.as_dict())]
    for (file, suffix), text in zip(parts, texts, strict=True):
        beside = path.with_suffix(suffix)
        if file == path:
            frame.write_parquet(beside)
        elif text is None:
            continue
        else:
            beside.write_text(text, encoding="utf-8")
        beside.rename(file)
    return record


def _beside(path: Path, sample: str | None) -> str | None:
    return None if sample is None else str(path.with_suffix(".sample.csv"))


def _sample(
    project: Project,
    frame: pl.DataFrame,
    rows: pl.DataFrame,
    contents: pl.DataFrame,
    noise: Mapping[str, Any],
) -> str:
    from tasks.cleaning.sample import as_csv, readable_sample

    levels = project.taxonomy.levels
    return as_csv(readable_sample(frame, rows, contents, levels, noise, project.cleaning.method))


def _counts(rows: pl.DataFrame, frame: pl.DataFrame, taxonomy: Taxonomy) -> dict[str, dict[str, float]]:
    """By level how many labels there are and how many of them are overwritten there."""
    both = rows.select("key", given="label").join(
        frame.select("key", "label"), on="key", maintain_order="left"
    )
    found = {}
    for depth, level in enumerate(taxonomy.levels, start=1):
        cut = {label: truncate(label, depth) for label in taxonomy.leaves}
        before, after = (
            both[name].replace_strict(cut, return_dtype=pl.String) for name in ("given", "label")
        )
        changed = int((before != after).sum())
        found[level] = {
            "labels": both.height,
            "overwritten": changed,
            "share": changed / both.height if both.height else 0.0,
        }
    return found


def _confused(rows: pl.DataFrame, frame: pl.DataFrame) -> list[tuple[str, str, int]]:
    """(given label, new label, how often), the most frequent first."""
    both = (
        frame.filter("overwritten").select("key", "label").join(rows.select("key", given="label"), on="key")
    )
    pairs = (
        both.group_by("given", "label").len().sort("len", "given", "label", descending=[True, False, False])
    )
    return [(given, new, count) for given, new, count in pairs.head(50).iter_rows()]


def _candidates(rows: pl.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Leaf indices int64 [n, passes] of what was said about disputed rows, -1 elsewhere."""
    said = [[taxonomy.leaf_index[label] for label in labels or []] for labels in rows["candidates"].to_list()]
    table = np.full((len(said), max(1, *map(len, said))), -1, np.int64)
    for row, leaves in enumerate(said):
        table[row, : len(leaves)] = leaves
    return table


def _counted_on_gold(project: Project, store: Store) -> list[Counted]:
    """By level the teacher's errors on gold that it was asked about, but for the half that gates."""
    from tasks.cleaning.noise import Counted
    from tasks.store.answers import first_pass_labels
    from tasks.student.judged import with_roles

    gold = read_gold(project)
    if project.cleaning.method != "cross_fitted" or not gold.height:
        return []
    ours = with_roles(gold).filter(pl.col("role") != "evaluation")
    both = ours.join(first_pass_labels(store, ours).rename({"label": "said"}), on="key", how="inner")
    pairs = list(zip(both["label"].to_list(), both["said"].to_list(), strict=True))
    return [
        Counted(sum(truncate(true, depth) != truncate(said, depth) for true, said in pairs), len(pairs))
        for depth in range(1, len(project.taxonomy.levels) + 1)
    ]


def _asks_again(project: Project) -> bool:
    return project.cleaning.mode == "re-ask" and project.cleaning.method != "none"


def _short(project: Project, gold: list[Counted]) -> str:
    from tasks.embedding.encoders import fingerprint

    settings = project.cleaning
    found = f"{fingerprint(encoder_settings(project.encoder))[-12:]}-{project.student.folds}-{settings.cap}"
    if settings.method == "resubstitution":
        found += f"-{settings.confidence}"
    if any(counted.items for counted in gold):
        counts = ",".join(f"{counted.wrong}/{counted.items}" for counted in gold)
        found += "-" + hashlib.blake2b(counts.encode(), digest_size=4).hexdigest()
    return found
