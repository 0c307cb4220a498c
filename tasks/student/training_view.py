"""What a student may learn from, as the database now stands.

Reads labels, what passes said of disputed items, contents and audits; which of them are fit for training is
`snapshot`'s business.
"""

from __future__ import annotations

from functools import partial

import polars as pl

from tasks.kept_signatures import kept_signatures
from tasks.project import Project
from tasks.store import Store
from tasks.store.answers import candidates
from tasks.store.items import read_contents
from tasks.store.labels import raw_labels, resolve
from tasks.store.moved import as_of_today, today
from tasks.store.traffic import audits
from tasks.student.snapshot import TrainingRows, training_rows, weighted


def training_view(project: Project, store: Store, gold: pl.DataFrame) -> TrainingRows:
    """The rows of `snapshot.training_rows`: labels as they are today, without gold and audits in their window."""
    rows = raw_labels(store)
    settled = resolve(as_of_today(rows, project.taxonomy)).drop_nulls("label")
    decided = pl.concat([settled.select("key"), resolve(rows).drop_nulls("label").select("key")])
    disputed = candidates(store, decided).explode("candidates")
    disputed = disputed.with_columns(today(disputed["candidates"], project.taxonomy)).drop_nulls("candidates")
    labels = weighted(settled, disputed.group_by("key", maintain_order=True).agg("candidates"))
    held_back = audits(store, project.routing.audit_window_days, misses_only=True).select("key")
    share = project.labeling.synthesis.most_share
    signed = partial(kept_signatures, project.root / "signatures")
    return training_rows(labels, read_contents(store), gold, held_back, project.task.modality, share, signed)
