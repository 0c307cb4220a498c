"""From a frozen, cleaned snapshot to the arrays that candidates learn from.

Joins labels, contents and cached vectors row by row; knows nothing of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.project import Project
from tasks.records import Cleaned
from tasks.store import Store
from tasks.store.items import content_of, read_contents
from tasks.student.crossfit import fold_of
from tasks.student.search import Search
from tasks.student.shared_rows import Instead, apart, shared
from tasks.student.snapshot import DISPUTED
from tasks.student.synthetic import folds_beside
from tasks.student.training import Rows
from tasks.synthetic import SYNTHETIC

FOLD_SEED = 0


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """What `retrain.retrain` takes, and which rows it is about.

    Attributes:
        frame: the snapshot's rows [n].
        settled: bool [n], somebody real stands behind the label; the others are disputed or synthetic.
        training: the rows as arrays.
        gold_vectors: float32 [gold, d].
        gold_contents: the gold items themselves, where a candidate reads items.
    """

    frame: pl.DataFrame
    settled: NDArray[np.bool_]
    training: Rows
    gold_vectors: NDArray[np.float32]
    gold_contents: Sequence[bytes] | Sequence[str] | None


def training_inputs(
    project: Project, store: Store, cleaned: Cleaned, gold: pl.DataFrame, search: Search | None = None
) -> TrainingInputs:
    """Read what the candidates need; items are encoded where the cache lacks them.

    Args:
        project: names the candidates, the encoder and the folds.
        store: has the contents.
        cleaned: the snapshot and what its labels were cleaned to.
        gold: as `judged.with_roles` gives it.
        search: one that still holds; rows stay in the folds that it had them in.
    """
    taxonomy, modality, encoder = project.taxonomy, project.task.modality, encoder_settings(project.encoder)
    rows = pl.read_parquet(cleaned.snapshot.path)
    learned = rows.select("key").join(
        pl.read_parquet(cleaned.path), on="key", how="left", maintain_order="left"
    )
    contents = rows.select("key").join(read_contents(store), on="key", how="left", maintain_order="left")
    needs_images = "timm" in project.student.candidates
    needs_texts = "finetuned" in project.student.candidates and modality == "text"
    unsettled = rows["source"].is_in([DISPUTED, SYNTHETIC]).to_numpy()
    vectors = vectors_of(encoder, project.cache_root, contents, modality)
    leaves = _indices(taxonomy.leaf_index, rows["label"])
    folds = fold_of(rows["group"].to_list(), project.student.folds, FOLD_SEED)
    if search is not None:
        folds = search.folds(rows, folds)
    images: Any = content_of(contents, "image") if needs_images else None
    training = Rows(
        vectors=vectors,
        labels=_indices(taxonomy.leaf_index, learned["label"]),
        raw_labels=np.where(unsettled, -1, leaves),
        weight=rows["weight"].to_numpy().astype(np.float32),
        folds=folds_beside(vectors, leaves, folds, (rows["source"] == SYNTHETIC).to_numpy()),
        images=images,
        texts=contents["text"].to_list() if needs_texts else None,
    )
    if "share" in learned.columns:
        other = [-1 if label is None else taxonomy.leaf_index[label] for label in learned["rest"].to_list()]
        share, rest = learned["share"].to_numpy(), np.array(other, np.int64)
        if "without" in learned.columns and learned["without"].null_count() < learned.height:
            parts = learned["part"].fill_null(-1).to_numpy().astype(np.int64)
            training = apart(training, share, rest, parts, _instead(learned["without"], taxonomy.leaf_index))
        else:
            training = shared(training, share, rest)
    gold_contents: Any = (
        content_of(gold, "image") if needs_images else gold["text"].to_list() if needs_texts else None
    )
    gold_vectors = vectors_of(encoder, project.cache_root, gold, modality)
    return TrainingInputs(rows, ~unsettled, training, gold_vectors, gold_contents)


def _instead(without: pl.Series, leaf_index: dict[str, int]) -> dict[int, Instead]:
    """By part what is learned otherwise while it is judged, from `cleaned_rows.SCHEMA`."""
    table = pl.DataFrame({"without": without}).with_row_index("row").drop_nulls().explode("without")
    found = {}
    for (part,), of_part in table.unnest("without").group_by("part", maintain_order=True):
        names = (of_part["label"], of_part["rest"])
        labels, rest = ([-1 if name is None else leaf_index[name] for name in column] for column in names)
        share = of_part["share"].to_numpy()
        rows = of_part["row"].to_numpy().astype(np.int64)
        found[int(str(part))] = Instead(rows, np.array(labels, np.int64), share, np.array(rest, np.int64))
    return found


def _indices(leaf_index: dict[str, int], labels: pl.Series) -> NDArray[np.int64]:
    return np.array([leaf_index[label] for label in labels.to_list()], np.int64)
