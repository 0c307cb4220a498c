"""The training view: what a student may learn from, and what is kept from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import TrainingError
from tasks.records import Snapshot, text_key
from tasks.student.snapshot import DISPUTED, TrainingRows, training_rows, weighted, write_snapshot

NAMES = [
    "stainless steel electric kettle",
    "forged carbon steel bread knife",
    "twenty metre green garden hose",
    "assorted wild flower seeds pack",
    "long sleeved cotton flannel shirt",
    "lightweight trail running shoes",
]
LABELS = ["Kettles", "Knives", "Hoses", "Seeds", "Shirts", "Shoes"]
KEYS = pl.DataFrame(schema={"key": pl.Binary})


def contents(names: list[str] = NAMES) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [text_key(name) for name in names], "text": names},
        schema={"key": pl.Binary, "text": pl.String},
    )


def labels(source: str = "consensus", names: list[str] = NAMES) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [text_key(name) for name in names],
            "label": [LABELS[place % len(LABELS)] for place in range(len(names))],
            "source": [source] * len(names),
        },
        schema={"key": pl.Binary, "label": pl.String, "source": pl.String},
    )


def disputed(said: dict[str, list[str]]) -> pl.DataFrame:
    return pl.DataFrame(
        {"key": [text_key(name) for name in said], "candidates": list(said.values())},
        schema={"key": pl.Binary, "candidates": pl.List(pl.String)},
    )


NOBODY = disputed({})


def view(
    names: list[str] = NAMES, gold: list[str] | None = None, held: list[str] | None = None, **other: Any
) -> TrainingRows:
    return training_rows(
        weighted(labels(names=names), NOBODY),
        contents(names),
        contents(gold or []),
        contents(held or []).select("key"),
        other.get("modality", "text"),
    )


def texts(rows: TrainingRows, names: list[str] = NAMES) -> list[str]:
    by_key = {text_key(name): name for name in names}
    return [by_key[key] for key in rows.frame["key"]]


def test_gold_is_taken_out_and_counted() -> None:
    """Two gold items that also stand among the labelled ones: no error, not trained on, counted."""
    rows = view(gold=[NAMES[1], NAMES[4], "a gold item that nobody labelled"])
    assert texts(rows) == [NAMES[0], NAMES[2], NAMES[3], NAMES[5]]
    assert (rows.removed_gold, rows.removed_near_gold) == (2, 0)


def test_near_duplicates_of_gold_are_taken_out_and_counted() -> None:
    """A gold item with another ending takes its look-alike out of training; a far relative stays."""
    rows = view(gold=["stainless steel electric kettles", "bread knife"])
    assert texts(rows) == NAMES[1:]
    assert (rows.removed_gold, rows.removed_near_gold) == (0, 1)


def test_audits_in_their_window_are_held_back_with_their_near_duplicates() -> None:
    """What will judge is not learned from, nor what nearly is it."""
    names = [*NAMES, "lightweight trail running shoe"]
    rows = view(names, held=[NAMES[5], NAMES[0]])
    assert texts(rows, names) == NAMES[1:5]
    assert (rows.removed_gold, rows.removed_near_gold) == (0, 0)


def test_near_duplicates_share_a_group_and_others_do_not() -> None:
    """Folds split by group: two spellings of one product are never on both sides."""
    names = [*NAMES, "Stainless steel  electric kettle.", "lightweight trail running shoe"]
    groups = view(names).frame["group"].to_list()
    assert groups[6] == groups[0] == text_key(names[0])
    assert groups[7] == groups[5]
    assert len(set(groups)) == len(NAMES)


def test_images_are_their_own_groups() -> None:
    """Without texts nothing is nearly equal; equal keys are still taken out."""
    rows = view(gold=[NAMES[1]], held=[NAMES[2]], modality="image")
    assert rows.removed_gold == 1
    assert rows.frame["group"].to_list() == rows.frame["key"].to_list()
    assert rows.frame.height == 4


def test_no_labelled_item_at_all_is_an_empty_view() -> None:
    """Before the first label there is a view without rows, not a failure."""
    rows = training_rows(weighted(labels(names=[]), NOBODY), contents(), contents([NAMES[0]]), KEYS, "text")
    assert rows.frame.height == rows.removed_gold == rows.removed_near_gold == 0


def test_disputed_rows_carry_candidates_and_half_weight() -> None:
    """Their label is what the first pass said until the student votes; settled rows carry none."""
    frame = weighted(labels(names=NAMES[:2]), disputed({NAMES[2]: ["Hoses", "Seeds"]}))
    rows = training_rows(frame, contents(), contents([]), KEYS, "text").frame
    assert rows.select("label", "source", "weight").rows() == [
        ("Kettles", "consensus", 1.0),
        ("Knives", "consensus", 1.0),
        ("Hoses", DISPUTED, 0.5),
    ]
    assert rows["candidates"].to_list() == [None, None, ["Hoses", "Seeds"]]


@pytest.mark.parametrize(
    ("source", "alone", "beside"), [("single", 1.0, 0.5), ("imported", 1.0, 0.5), ("human", 1.0, 1.0)]
)
def test_one_source_counts_half_only_beside_agreements(source: str, alone: float, beside: float) -> None:
    """A single pass weighs half where others agree; where there is nothing better it weighs all; people always do."""
    assert weighted(labels(source), NOBODY)["weight"].to_list() == [alone] * len(NAMES)
    mixed = weighted(pl.concat([labels(source, NAMES[:3]), labels("consensus", NAMES[3:])]), NOBODY)
    assert mixed["weight"].to_list() == [beside] * 3 + [1.0] * 3


def freeze(rows: TrainingRows, root: Path, taxonomy: str = "t1") -> Snapshot:
    return write_snapshot(rows, 7, taxonomy, root)


def test_the_same_rows_have_the_same_fingerprint_in_any_order(tmp_path: Path) -> None:
    """Frozen twice, or in another order, it is one file; the record counts what was taken out."""
    rows = view(gold=[NAMES[1]])
    first = freeze(rows, tmp_path)
    upside_down = TrainingRows(rows.frame.reverse(), rows.removed_gold, rows.removed_near_gold)
    assert freeze(upside_down, tmp_path).fingerprint == first.fingerprint
    assert (first.rows, first.gold_rows, first.removed_gold) == (5, 7, 1)
    assert [path.name for path in (tmp_path / "snapshots").rglob("*") if path.is_file()] == ["rows.parquet"]
    assert pl.read_parquet(first.path).equals(rows.frame)


def test_whatever_changes_training_changes_the_fingerprint(tmp_path: Path) -> None:
    """A label, a source, a weight, a candidate, a row more or another taxonomy: another snapshot."""
    frame = view().frame
    first = pl.int_range(pl.len()) == 0
    others = [
        frame.with_columns(label=pl.when(first).then(pl.lit("Shoes")).otherwise("label")),
        frame.with_columns(source=pl.when(first).then(pl.lit("human")).otherwise("source")),
        frame.with_columns(weight=pl.when(first).then(0.5).otherwise("weight")),
        frame.with_columns(
            candidates=pl.when(first).then(pl.lit(["Kettles", "Shoes"])).otherwise("candidates")
        ),
        frame.with_columns(group=pl.when(first).then(pl.col("key").last()).otherwise("group")),
        frame[1:],
    ]
    found = [freeze(TrainingRows(other, 0, 0), tmp_path).fingerprint for other in [frame, *others]]
    found.append(freeze(TrainingRows(frame, 0, 0), tmp_path, "t2").fingerprint)
    assert len(set(found)) == len(others) + 2


@pytest.mark.parametrize("names", [[], NAMES[:3]])
def test_too_little_to_train_on_says_what_to_do(tmp_path: Path, names: list[str]) -> None:
    """Three labelled items are no training set; neither are many of one label."""
    with pytest.raises(TrainingError, match=rf"{len(names)} labelled items .*flywheel label.*import-labels"):
        freeze(view(names), tmp_path)
    one = view().frame.with_columns(label=pl.lit("Kettles"))
    with pytest.raises(TrainingError, match="1 different labels"):
        freeze(TrainingRows(one, 0, 0), tmp_path)
    assert not (tmp_path / "snapshots").exists()
