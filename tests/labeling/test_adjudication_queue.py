"""What a calibration wants adjudicated stands first in the review queue, and chance is not told from doubt by place."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tasks.labeling.adjudication_queue import (
    PLAN_SCHEMA,
    keep_plans,
    read_plan,
    wanted_for_review,
    write_plan,
)
from tasks.labeling.review_queue import review_queue, with_contents
from tasks.records import text_key
from tasks.store import Store
from tasks.store.labels import append_labels
from tests.labeling.reviewing import put_answers, put_audit
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy


def plan(*rows: tuple[str, str, float, str, bool, bool]) -> pl.DataFrame:
    """Of (text, student, confidence, teacher, drawn, in reach)."""
    shaped = [
        (text_key(text), student, sure, teacher, student != teacher, drawn, 0.3, near)
        for text, student, sure, teacher, drawn, near in rows
    ]
    return pl.DataFrame(shaped, schema=PLAN_SCHEMA, orient="row")


def test_drawn_agreements_stand_among_the_differences(store: Store, tmp_path: Path) -> None:
    """By how sure the student is, before audits that no certificate needs; what is decided is not asked again."""
    names = ("sure", "drawn", "unsure", "far", "drawn far", "undrawn", "decided", "gate")
    put_answers(store, {name: [KETTLES, KETTLES] for name in names})
    put_audit(store, "gate", HOSES, KETTLES, 0.99)
    append_labels(store, [(text_key("decided"), KETTLES, "adjudicated")], 1)
    write_plan(
        tmp_path,
        "3",
        plan(
            ("undrawn", KETTLES, 0.99, KETTLES, False, True),
            ("unsure", HOSES, 0.6, KETTLES, False, True),
            ("drawn", KETTLES, 0.8, KETTLES, True, True),
            ("sure", HOSES, 0.9, KETTLES, True, True),
            ("far", HOSES, 0.3, KETTLES, False, False),
            ("drawn far", KETTLES, 0.2, KETTLES, True, False),
            ("decided", HOSES, 0.95, KETTLES, True, True),
        ),
    )
    queue = review_queue(store, taxonomy(), 2, rare_items=0, wanted=wanted_for_review(tmp_path))
    looks = pl.concat(list(with_contents(store, queue)))
    assert looks.select("text", "why", "student_label").rows() == [
        ("sure", "student and teacher differ", HOSES),
        ("drawn", "drawn for a check", KETTLES),
        ("unsure", "student and teacher differ", HOSES),
        ("drawn far", "drawn for a check", KETTLES),
        ("gate", "student and teacher differ", HOSES),
    ]


def test_a_plan_ends_with_its_version(tmp_path: Path) -> None:
    """Two versions' wishes are one list, a difference of either before an agreement; a damaged file wants nothing."""
    write_plan(tmp_path, "3", plan(("one", KETTLES, 0.9, KETTLES, True, True)))
    write_plan(
        tmp_path,
        "4",
        plan(("one", KNIVES, 0.7, KETTLES, True, True), ("two", HOSES, 0.6, KETTLES, False, True)),
    )
    wanted = wanted_for_review(tmp_path)
    assert wanted.select("student_label", "differs").rows() == [(KNIVES, True), (HOSES, True)]
    keep_plans(tmp_path, ["3"])
    assert read_plan(tmp_path, "4").height == 0
    assert wanted_for_review(tmp_path)["differs"].to_list() == [False]
    (tmp_path / "adjudication" / "3.parquet").write_bytes(b"half a file")
    assert wanted_for_review(tmp_path).height == 0
    assert wanted_for_review(tmp_path / "nowhere").height == 0
