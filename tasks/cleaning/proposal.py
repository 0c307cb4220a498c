"""What cleaning makes of a snapshot's raw labels: gathers what they are judged by, and keeps what comes of it.

Raw labels are never changed. Second answers, where there are any, decide afterwards.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.cleaning.cleaned_rows import cleaned_frame, untouched_frame
from tasks.cleaning.cleaning_files import (
    changes_by_level_of,
    cleaning_before,
    confused_labels,
    sample_of,
    write_cleaning,
)
from tasks.cleaning.counted import counted_by_passes, counted_on_gold
from tasks.cleaning.crossfitted import clean_rows
from tasks.cleaning.left_out import Lessons, lessons_by_part
from tasks.cleaning.noise import Counted
from tasks.cleaning.relabel import Cleaning
from tasks.cleaning.treatment import Treated, treat
from tasks.embedding.encoders import fingerprint
from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.project import Project
from tasks.records import Cleaned, Snapshot
from tasks.sources import read_gold
from tasks.store import open_store
from tasks.store.items import read_contents
from tasks.student.crossfit import fold_of
from tasks.student.judged import gold_certifies
from tasks.student.linear import LinearHead
from tasks.student.many_rows import fewer_folds
from tasks.student.package import levels_of
from tasks.student.search import (
    JUDGE,
    JUDGE_FILE,
    SEARCH_EVERY_NIGHT_BELOW,
    Search,
    settings_of,
    standing_search,
    write_search,
)
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy

FOLD_SEED, HALF_SEED = 0, 1
RULE = 3  # raise it when the same rows are cleaned otherwise: they are then cleaned anew
PEOPLE, AGREED = ("human", "adjudicated"), ("consensus",)


def propose_labels(project: Project, snapshot: Snapshot) -> Cleaned:
    """What cleaning makes of the raw labels alone; read back where it has been written before."""
    store = open_store(project.database_url, project.project)
    gold, certified_by_gold = counted_on_gold(project, store), gold_certifies(read_gold(project))
    name = f"cleaned-{project.cleaning.method}-{project.cleaning.mode}-{_settings_name(project, gold)}"
    if certified_by_gold:
        name += "-gold"  # no certificate will rest on these rows
    path = Path(snapshot.path).with_name(f"{name}.parquet")
    if (before := cleaning_before(path, snapshot)) is not None:
        return before

    settings = project.cleaning
    every, taxonomy = pl.read_parquet(snapshot.path), project.taxonomy
    rows = every.filter(pl.col("source") != SYNTHETIC)  # real labels are judged, and by real labels only
    levels = levels_of(taxonomy)
    if settings.method == "none":
        counts = {level: {"labels": rows.height, "overwritten": 0, "share": 0.0} for level in levels.names}
        record = Cleaned(counts, str(path), snapshot, 0.0, 1.0, 0, method="none", mode=settings.mode)
        return write_cleaning(record, untouched_frame(every), None)
    labels = np.array([taxonomy.leaf_index[label] for label in rows["label"].to_list()], np.int64)
    contents = rows.select("key").join(read_contents(store), on="key", how="left", maintain_order="left")
    candidates = _candidates(rows, taxonomy)
    disputed = np.asarray((candidates >= 0).any(axis=1))
    people = rows["source"].is_in(PEOPLE).to_numpy()
    agreed = rows["source"].is_in(AGREED).to_numpy()
    free = ~(people | agreed | disputed)
    # What was counted about the teacher says nothing about history that somebody else labelled.
    of_teacher = bool((rows["source"] == "single").to_numpy()[free].mean() >= 0.5) if free.any() else False
    judge_file, made_with, now = project.root / JUDGE_FILE, settings_of(project), time.time()
    search = standing_search(judge_file, rows, made_with, project.student.full_search_days, now)
    head, folds = LinearHead(), fold_of(rows["group"].to_list(), project.student.folds, FOLD_SEED)
    if search is not None:
        folds = search.folds(rows, folds)
        head = LinearHead(search.settings[JUDGE]["strength"], starts=search.starts.get(JUDGE))
    encoder, method = encoder_settings(project.encoder), settings.method
    vectors = vectors_of(encoder, project.cache_root, contents, project.task.modality)
    weight = rows["weight"].to_numpy().astype(np.float32)
    several = of_teacher and bool(agreed.any() or disputed.any())
    passes = counted_by_passes(project, store, rows.select("key")) if several else []

    def cleaned(
        kept: NDArray[np.bool_] | slice, by: NDArray[np.int16], judge: LinearHead
    ) -> tuple[Cleaning, float]:
        return clean_rows(
            vectors=vectors[kept],
            labels=labels[kept],
            weight=weight[kept],
            candidates=candidates[kept],
            folds=by[kept],
            people=people[kept],
            agreed=agreed[kept],
            levels=levels,
            cap=settings.cap,
            method=method,
            confidence=settings.confidence,
            gold=gold if of_teacher else (),
            passes=passes,
            head=judge,
        )

    result, strength = cleaned(slice(None), folds, head)
    if search is None and len(labels) >= SEARCH_EVERY_NIGHT_BELOW:
        learned = rows.select("key", "label").with_columns(pl.Series("fold", folds))
        chosen, ends = {JUDGE: {"strength": strength}}, {JUDGE: head.ends}
        write_search(judge_file, Search(now, made_with, JUDGE, chosen, learned, ends))
    judged_by_votes = disputed if settings.method != "resubstitution" else np.zeros(len(labels), bool)
    treated = treat(labels, result, judged_by_votes, settings.mode)
    locked = people | judged_by_votes | (agreed & (settings.method != "resubstitution"))
    lessons: Lessons | None = None
    if not certified_by_gold:
        halves = fold_of(rows["group"].to_list(), 2, HALF_SEED)

        def again(kept: NDArray[np.bool_]) -> Treated:
            other, _ = cleaned(kept, halves, LinearHead(strength))
            return treat(labels[kept], other, judged_by_votes[kept], settings.mode)

        lessons = lessons_by_part(treated, labels, fewer_folds(folds), halves, again)
    frame = cleaned_frame(rows["key"], result, treated, locked, taxonomy.leaves, lessons)
    noise = {name: asdict(level) | {"margin": min(level.margin, 1.0)} for name, level in result.noise.items()}
    record = Cleaned(
        levels=changes_by_level_of(rows, frame, taxonomy),
        path=str(path),
        snapshot=snapshot,
        noise_estimate=round(result.noise_estimate, 4),
        margin=min(result.margin, 1.0),
        suspects=len(result.suspects),
        strength=strength,
        confused_pairs=confused_labels(rows, frame),
        method=settings.method,
        mode=settings.mode,
        noise=noise,
        dropped=int(((treated.share < 1) & (treated.rest < 0)).sum()),
        reweighted=int((treated.rest >= 0).sum()),
    )
    written = untouched_frame(every.filter(pl.col("source") == SYNTHETIC))
    return write_cleaning(
        record, pl.concat([frame, written]), sample_of(project, frame, rows, contents, noise)
    )


def _candidates(rows: pl.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Leaf indices int64 [n, passes] of what was said about disputed rows, -1 elsewhere."""
    said = [[taxonomy.leaf_index[label] for label in labels or []] for labels in rows["candidates"].to_list()]
    table = np.full((len(said), max(1, *map(len, said))), -1, np.int64)
    for row, leaves in enumerate(said):
        table[row, : len(leaves)] = leaves
    return table


def _settings_name(project: Project, gold: list[Counted]) -> str:
    settings = project.cleaning
    encoder = fingerprint(encoder_settings(project.encoder))[-12:]
    found = f"{encoder}-{project.student.folds}-{settings.cap}-{RULE}"
    if settings.method == "resubstitution":
        found += f"-{settings.confidence}"
    if any(counted.items for counted in gold):
        counts = ",".join(f"{counted.wrong}/{counted.items}" for counted in gold)
        found += "-" + hashlib.blake2b(counts.encode(), digest_size=4).hexdigest()
    return found
