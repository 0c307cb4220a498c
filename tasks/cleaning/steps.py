"""The Prefect step of cleaning: reads a snapshot, proposes labels, writes them beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.project import Project
from tasks.records import Cleaned, Snapshot
from tasks.store import open_store
from tasks.store.items import read_contents
from tasks.synthetic import SYNTHETIC
from tasks.taxonomy import Taxonomy

FOLD_SEED = 0


@task(name="clean labels", cache_policy=NO_CACHE)
def clean_snapshot(project: Project, snapshot: Snapshot) -> Cleaned:
    """Afterwards the cleaned labels of the snapshot lie beside it; the same snapshot is cleaned once."""
    from tasks.cleaning.crossfitted import clean_rows
    from tasks.student.crossfit import fold_of
    from tasks.student.package import levels_of

    settings = encoder_settings(project.encoder)
    name = f"cleaned-{project.cleaning.method}-{_short(project)}"
    path = Path(snapshot.path).with_name(f"{name}.parquet")
    said = path.with_suffix(".json")
    if said.exists():
        record = Cleaned(**json.loads(said.read_text(encoding="utf-8")))
        return replace(record, snapshot=snapshot, path=str(path))

    every, taxonomy = pl.read_parquet(snapshot.path), project.taxonomy
    rows = every.filter(pl.col("source") != SYNTHETIC)  # real labels are judged, and by real labels only
    levels = levels_of(taxonomy)
    labels = np.array([taxonomy.leaf_index[label] for label in rows["label"].to_list()], np.int64)
    if project.cleaning.method == "none":
        counts = {level: {"labels": rows.height, "overwritten": 0, "share": 0.0} for level in levels.names}
        record = Cleaned(counts, str(path), snapshot, 0.0, 1.0, 0)
        cleaned, overwritten = labels, np.zeros(len(labels), bool)
    else:
        store = open_store(project.database_url, project.project)
        contents = rows.select("key").join(read_contents(store), on="key", how="left", maintain_order="left")
        result, strength = clean_rows(
            vectors=vectors_of(settings, project.root, contents, project.task.modality),
            labels=labels,
            weight=rows["weight"].to_numpy().astype(np.float32),
            candidates=_candidates(rows, taxonomy),
            folds=fold_of(rows["group"].to_list(), project.student.folds, FOLD_SEED),
            locked=rows["source"].is_in(["human", "adjudicated", "consensus"]).to_numpy(),
            levels=levels,
            cap=project.cleaning.cap,
        )
        cleaned, overwritten = result.labels, result.overwritten
        record = Cleaned(
            levels={level: asdict(counts) for level, counts in result.by_level.items()},
            path=str(path),
            snapshot=snapshot,
            noise_estimate=round(result.noise_estimate, 4),
            margin=min(result.margin, 1.0),
            suspects=len(result.suspects),
            strength=strength,
            confused_pairs=[
                (taxonomy.leaves[given], taxonomy.leaves[new], count)
                for given, new, count in result.confused_pairs
            ],
        )
    frame = rows.select("key").with_columns(
        pl.Series("label", [taxonomy.leaves[leaf] for leaf in cleaned.tolist()], pl.String),
        pl.Series("overwritten", overwritten, pl.Boolean),
    )
    written = every.filter(pl.col("source") == SYNTHETIC).select("key", "label", overwritten=pl.lit(False))
    frame = pl.concat([frame, written])
    beside = path.with_suffix(".tmp")
    frame.write_parquet(beside)
    beside.rename(path)
    beside = said.with_suffix(".json.tmp")
    beside.write_text(json.dumps(record.as_dict()), encoding="utf-8")
    beside.rename(said)
    return record


def _candidates(rows: pl.DataFrame, taxonomy: Taxonomy) -> np.ndarray:
    """Leaf indices int64 [n, passes] of what was said about disputed rows, -1 elsewhere."""
    said = [[taxonomy.leaf_index[label] for label in labels or []] for labels in rows["candidates"].to_list()]
    table = np.full((len(said), max(1, *map(len, said))), -1, np.int64)
    for row, leaves in enumerate(said):
        table[row, : len(leaves)] = leaves
    return table


def _short(project: Project) -> str:
    from tasks.embedding.encoders import fingerprint

    return f"{fingerprint(encoder_settings(project.encoder))[-12:]}-{project.student.folds}-{project.cleaning.cap}"
