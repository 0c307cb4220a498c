"""The review queue out of the database into a file, and the decisions of a file back into it.

Puts the room's parts together; which form a file has is told by what stands in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.labeling.decisions import LabelReader, Reviewed, keep_decisions
from tasks.labeling.label_studio import labeling_config, review_tasks, write_tasks
from tasks.labeling.label_studio_annotations import read_annotations
from tasks.labeling.review_csv import read_review_csv, write_review_csv
from tasks.labeling.review_files import kind_of
from tasks.labeling.review_queue import RARE_ITEMS, review_queue, with_contents
from tasks.memory import hand_back
from tasks.records import Record
from tasks.store import Store
from tasks.store.items import known_keys
from tasks.taxonomy import Taxonomy

Form = Literal["csv", "label-studio"]


@dataclass(frozen=True)
class Exported(Record):
    """A written review file: rows, how many of them why, and its size.

    `config` is the labelling configuration written beside tasks for Label Studio; `left_out` counts items whose
    image is gone.
    """

    file: str
    rows: int
    why: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    config: str | None = None
    left_out: int = 0


def export_review(
    store: Store,
    file: Path,
    taxonomy: Taxonomy,
    passes: int,
    contradicted: pl.DataFrame | None = None,
    gold_keys: pl.DataFrame | None = None,
    limit: int | None = None,
    rare_items: int = RARE_ITEMS,
    form: Form = "csv",
    modality: str = "text",
    instructions: str = "",
    image_root: Path | None = None,
    wanted: pl.DataFrame | None = None,
) -> Exported:
    """Write the review queue (beside, then renamed), ordered by what a look is worth.

    Args:
        store: the open database.
        file: the CSV, or the JSON of the tasks; their configuration gets the same name with .xml.
        taxonomy: what may be chosen.
        passes: how many answers an item wants.
        contradicted: labelled items that a student contradicts: key, student_label, student_confidence.
        gold_keys: a column `key`; gold is not shown.
        limit: at most so many rows.
        rare_items: a label that fewer items bear is rare.
        form: csv or label-studio.
        modality: text or image.
        instructions: shown above each item in Label Studio.
        image_root: images below it are named by their path there instead of embedded (Label Studio only).
        wanted: audited items that have to be adjudicated, see `review_queue`.

    Raises:
        TaxonomyError: a label cannot be written as XML.
    """
    hand_back()
    queue = review_queue(store, taxonomy, passes, contradicted, gold_keys, limit, rare_items, wanted)
    why = dict(queue.group_by("why", maintain_order=True).len().iter_rows())
    if form == "csv":
        size = write_review_csv(file, with_contents(store, queue))
        return Exported(str(file), queue.height, why, size)
    config = labeling_config(taxonomy, instructions, modality)
    contents = with_contents(store, queue, images=modality == "image")
    rows, size = write_tasks(file, review_tasks(contents, taxonomy, modality, image_root))
    place = file.with_suffix(".xml")
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    beside.write_text(config, encoding="utf-8")
    beside.replace(place)
    return Exported(str(file), rows, why, size, str(place), queue.height - rows)


def import_review(store: Store, file: Path, taxonomy: Taxonomy, run_id: int) -> Reviewed:
    """Read decisions back from a CSV or from Label Studio; every row is checked before any is kept.

    Importing the same file again changes nothing.

    Raises:
        InputError: the file cannot be read or holds wrong rows, which are listed; nothing of it is kept.
    """
    read = read_annotations if kind_of(file) == "json" else read_review_csv
    known = set(known_keys(store)["key"])
    decisions = read(file, LabelReader(taxonomy), known)
    return keep_decisions(store, decisions, file, taxonomy.levels, run_id)
