"""The review queue goes out in the order of its worth and comes back as labels that outrank the teacher."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from tasks.errors import InputError
from tasks.labeling.labelling import Asking, label_items
from tasks.labeling.review import COLUMNS, export_review, import_review
from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.labels import append_labels, effective_labels
from tests.labeling.scripted import (
    HOSES,
    KETTLES,
    KNIVES,
    NO_KEYS,
    Said,
    ScriptedTeacher,
    how,
    put_texts,
    says,
    taxonomy,
)

TEXTS = ["=HYPERLINK(1)", "+1 kettle", "-knife", "@home", "plain", *[f"kettle {i}" for i in range(8)]]
DIFFER, DEAD, RARE = TEXTS[0], TEXTS[1], TEXTS[2]
AUDITED = TEXTS[5]


def _script(item: str, number: int, asked: int) -> Said:
    if item == DIFFER:
        return says(KNIVES if number == 1 else HOSES, reason="=1+1")
    if item == DEAD:
        return says("Toasters")
    return says(KNIVES if item == RARE else KETTLES)


def _audit(store: Store, item: str, student: str, confidences: str) -> None:
    row: dict[str, Any] = {
        "request_id": text_key("request" + item),
        "row_id": text_key("row" + item),
        "key": text_key(item),
        "source_id": "",
        "tier": "student",
        "would_tier": "student",
        "label": student,
        "student_label": student,
        "student_confidences": confidences,
        "teacher_label": KETTLES,
        "audited": True,
        "audit_probability": 0.1,
        "audit_owed": False,
        "latency_seconds": 0.0,
        "cost_usd": 0.0,
        "at": 0.0,
    }
    store.append(schema.traffic, [row])


def _labelled(store: Store) -> Asking:
    put_texts(store, TEXTS)
    with ScriptedTeacher(_script) as teacher:
        asked = how(teacher.base_url)
        label_items(store, asked, 2, None, NO_KEYS, 1)
    _audit(store, AUDITED, HOSES, "[0.99, 0.97]")
    _audit(store, TEXTS[6], HOSES, "[0.99, 0.98]")
    _audit(store, TEXTS[7], KETTLES, "[1.0, 1.0]")
    return asked


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _fill(file: Path, decisions: dict[str, str]) -> None:
    rows = _rows(file)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(row | {"final_label": decisions.get(row["key"], "")} for row in rows)


def test_the_most_valuable_look_comes_first(store: Store, tmp_path: Path) -> None:
    asked = _labelled(store)
    file = tmp_path / "review" / "review_labels.csv"
    exported = export_review(store, file, asked.version, 2, NO_KEYS)
    rows = _rows(file)
    assert tuple(rows[0]) == COLUMNS
    assert exported.rows == len(rows) == 5
    assert [row["why"] for row in rows] == [
        "student and teacher differ",
        "student and teacher differ",
        "passes differ",
        "no valid answer",
        "rare label",
    ]
    assert [row["key"] for row in rows] == [
        text_key(text).hex() for text in (TEXTS[6], AUDITED, DIFFER, DEAD, RARE)
    ]
    assert (rows[0]["student_label"], rows[0]["student_confidence"]) == (HOSES, "0.98")
    assert (rows[0]["current_label"], rows[0]["final_label"]) == (KETTLES, "")
    assert rows[2]["candidates"] == f"{KNIVES} | {HOSES}"
    assert rows[2]["current_label"] == ""
    assert rows[3]["candidates"] == "(unknown_label) | (unknown_label)"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    gold = pl.DataFrame({"key": [text_key(DIFFER)]})
    assert export_review(store, file, asked.version, 2, gold, limit=3).rows == 3
    assert text_key(DIFFER).hex() not in [row["key"] for row in _rows(file)]


def test_no_cell_is_a_formula(sqlite_store: Store, tmp_path: Path) -> None:
    asked = _labelled(sqlite_store)
    file = tmp_path / "review_labels.csv"
    export_review(sqlite_store, file, asked.version, 2, rare_items=100)
    rows = _rows(file)
    assert {row["text"] for row in rows if row["text"].startswith("'")} == {f"'{text}" for text in TEXTS[:4]}
    assert "'=1+1 | =1+1" in [row["reasons"] for row in rows]
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_a_review_outranks_the_teacher_and_a_second_import_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    asked = _labelled(store)
    file = tmp_path / "review_labels.csv"
    export_review(store, file, asked.version, 2, NO_KEYS)
    decisions = {
        text_key(DIFFER).hex(): " kitchen > KNIVES ",
        text_key(AUDITED).hex(): "Hoses",
        text_key(RARE).hex(): KNIVES,
    }
    _fill(file, decisions)
    done = import_review(store, file, taxonomy(), 2)
    assert (done.rows, done.changed, done.confirmed, done.unchanged, done.empty) == (5, 2, 1, 0, 2)
    again = import_review(store, file, taxonomy(), 3)
    assert (again.changed, again.confirmed, again.unchanged, again.empty) == (0, 0, 3, 2)
    assert store.scalar(select(func.count()).select_from(schema.reviews)) == 3
    human = effective_labels(store).filter(pl.col("source") == "human")
    assert dict(human.select("key", "label").iter_rows()) == {
        text_key(DIFFER): KNIVES,
        text_key(AUDITED): HOSES,
        text_key(RARE): KNIVES,
    }
    append_labels(store, [(text_key(DIFFER), KETTLES, "consensus")], 4)
    assert effective_labels(store).filter(pl.col("key") == text_key(DIFFER))["label"].item() == KNIVES
    export_review(store, file, asked.version, 2, NO_KEYS)
    assert {row["key"] for row in _rows(file)} == {text_key(DEAD).hex(), text_key(TEXTS[6]).hex()}


def test_a_reviewer_may_change_their_mind(sqlite_store: Store, tmp_path: Path) -> None:
    keys = put_texts(sqlite_store, ["one"])
    file = tmp_path / "review.csv"
    for label, changed in ((KNIVES, 1), (HOSES, 1), (KNIVES, 1), (KNIVES, 0)):
        file.write_text(f"key;final_label\n{keys[0].hex()};{label}\n", encoding="utf-8-sig")
        assert import_review(sqlite_store, file, taxonomy(), 1).changed == changed
        assert effective_labels(sqlite_store)["label"].to_list() == [label]


@pytest.mark.parametrize(
    ("lines", "row", "words"),
    [
        (["{one},Kettles", "{two},Ketles"], 2, "unknown label 'Ketles'. Did you mean 'Kitchen > Kettles'?"),
        (["{one},Kettles", "00ff,Kettles"], 2, "unknown key '00ff'"),
        (["{one},Kettles", "1.2E+31,Kettles"], 2, "unknown key"),
        (["{one},Kettles", ",Kettles"], 2, "unknown key"),
        (["{one},Kettles", "{two},Hoses", "{one},Hoses"], 3, "already decided as 'Kitchen > Kettles'"),
    ],
)
def test_one_wrong_row_keeps_the_whole_file_out(
    sqlite_store: Store, tmp_path: Path, lines: list[str], row: int, words: str
) -> None:
    one, two = (key.hex() for key in put_texts(sqlite_store, ["one", "two"]))
    file = tmp_path / "review.csv"
    file.write_text("\n".join(["key,final_label", *lines]).format(one=one, two=two))
    with pytest.raises(InputError) as caught:
        import_review(sqlite_store, file, taxonomy(), 1)
    assert caught.value.row == row
    assert words in str(caught.value)
    assert effective_labels(sqlite_store).height == 0


def test_a_file_that_is_no_review_is_named(sqlite_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    file.write_text("key,label\n00,Kettles\n")
    with pytest.raises(InputError, match="column 'final_label' is missing"):
        import_review(sqlite_store, file, taxonomy(), 1)
    with pytest.raises(InputError, match="cannot be read"):
        import_review(sqlite_store, tmp_path / "absent.csv", taxonomy(), 1)
    file.write_text("key,final_label\n")
    assert import_review(sqlite_store, file, taxonomy(), 1).rows == 0
