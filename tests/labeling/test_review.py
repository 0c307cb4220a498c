"""The review queue goes out in the order of its worth and comes back as labels that outrank the teacher."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from deployments.cli import main
from tasks.errors import InputError
from tasks.labeling.asking import Asking
from tasks.labeling.labelling import label_items
from tasks.labeling.review import export_review, import_review
from tasks.labeling.review_csv import COLUMNS
from tasks.labeling.review_queue import TEXTS_AT_ONCE
from tasks.project import load_project
from tasks.records import text_key
from tasks.store import Store, open_store, schema
from tasks.store.labels import append_labels, effective_labels
from tests.labeling.reviewing import fill, put_answers, put_audit, rows_of
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


def _labelled(store: Store) -> Asking:
    put_texts(store, TEXTS)
    with ScriptedTeacher(_script) as teacher:
        asked = how(teacher.base_url)
        label_items(store, asked, 2, None, NO_KEYS, 1)
    put_audit(store, AUDITED, HOSES, KETTLES, 0.97)
    put_audit(store, TEXTS[6], HOSES, KETTLES, 0.98)
    put_audit(store, TEXTS[7], KETTLES, KETTLES, 1.0)
    return asked


def test_what_a_teacher_left_open_is_exported_as_a_form(store: Store, tmp_path: Path) -> None:
    """After a real labelling run: the order, the candidates with their reasons, and an empty final_label."""
    _labelled(store)
    file = tmp_path / "review" / "review_labels.csv"
    exported = export_review(store, file, taxonomy(), 2)
    rows = rows_of(file)
    assert tuple(rows[0]) == COLUMNS
    assert exported.rows == len(rows) == 5
    assert exported.bytes == file.stat().st_size
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
    assert (rows[2]["candidates"], rows[2]["reasons"]) == (f"{KNIVES} | {HOSES}", "'=1+1 | =1+1")
    assert (rows[2]["text"], rows[2]["current_label"]) == ("'=HYPERLINK(1)", "")
    assert rows[3]["candidates"] == "(unknown_label) | (unknown_label)"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    gold = pl.DataFrame({"key": [text_key(DIFFER)]})
    assert export_review(store, file, taxonomy(), 2, gold_keys=gold, limit=3).rows == 3
    assert text_key(DIFFER).hex() not in [row["key"] for row in rows_of(file)]


def test_a_review_outranks_the_teacher_and_a_second_import_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    """Changed, confirmed, unchanged and empty are told apart, and by level what the reviewer overturned."""
    _labelled(store)
    file = tmp_path / "review_labels.csv"
    export_review(store, file, taxonomy(), 2)
    decisions = {
        text_key(DIFFER).hex(): " kitchen > KNIVES ",
        text_key(AUDITED).hex(): "Knives",
        text_key(RARE).hex(): KNIVES,
    }
    fill(file, decisions)
    done = import_review(store, file, taxonomy(), 2)
    assert (done.rows, done.changed, done.confirmed, done.unchanged, done.empty) == (5, 2, 1, 0, 2)
    # Of the two that had a label, one moved within its branch; the third had none that could be overturned.
    l1, l2, l3 = taxonomy().levels
    assert done.overturned == {
        l1: {"reviewed": 2, "overturned": 0},
        l2: {"reviewed": 2, "overturned": 1},
        l3: {"reviewed": 2, "overturned": 1},
    }
    again = import_review(store, file, taxonomy(), 3)
    assert (again.changed, again.confirmed, again.unchanged, again.empty) == (0, 0, 3, 2)
    assert again.overturned[l2] == {"reviewed": 0, "overturned": 0}
    assert store.scalar(select(func.count()).select_from(schema.reviews)) == 3
    human = effective_labels(store).filter(pl.col("source") == "human")
    assert dict(human.select("key", "label").iter_rows()) == {
        text_key(DIFFER): KNIVES,
        text_key(AUDITED): KNIVES,
        text_key(RARE): KNIVES,
    }
    append_labels(store, [(text_key(DIFFER), KETTLES, "consensus")], 4)
    assert effective_labels(store).filter(pl.col("key") == text_key(DIFFER))["label"].item() == KNIVES
    export_review(store, file, taxonomy(), 2)
    assert {row["key"] for row in rows_of(file)} == {text_key(DEAD).hex(), text_key(TEXTS[6]).hex()}


def test_a_reviewer_may_change_their_mind(sqlite_store: Store, tmp_path: Path) -> None:
    """The newest import counts; a person's own earlier label is not counted as a machine's that was overturned."""
    keys = put_texts(sqlite_store, ["one"])
    file = tmp_path / "review.csv"
    for label, changed in ((KNIVES, 1), (HOSES, 1), (KNIVES, 1), (KNIVES, 0)):
        file.write_text(f"key;final_label\n{keys[0].hex()};{label}\n", encoding="utf-8-sig")
        done = import_review(sqlite_store, file, taxonomy(), 1)
        assert done.changed == changed
        assert done.overturned["l1"] == {"reviewed": 0, "overturned": 0}
        assert effective_labels(sqlite_store)["label"].to_list() == [label]


def test_one_wrong_row_keeps_the_whole_file_out(store: Store, tmp_path: Path) -> None:
    """Neither labels nor reviews are written, of a table or of an export of Label Studio."""
    key = put_texts(store, ["one"])[0].hex()
    file = tmp_path / "review.csv"
    task = {"data": {"key": key, "final_label": KNIVES}}
    for content in (
        f"key,final_label\n{key},Kettles\n00ff,Kettles\n",
        json.dumps([task["data"], {"key": key, "final_label": "Kitchen"}]),
    ):
        file.write_text(content)
        with pytest.raises(InputError) as caught:
            import_review(store, file, taxonomy(), 1)
        assert caught.value.row == 2
        assert effective_labels(store).height == 0
        assert store.scalar(select(func.count()).select_from(schema.reviews)) == 0


def test_more_rows_than_one_reading_go_out_and_come_back(store: Store, tmp_path: Path) -> None:
    """None is lost, none is moved, all decisions are kept."""
    texts = [f"kettle {number}" for number in range(2 * TEXTS_AT_ONCE + 1)]
    put_answers(store, {text: [KETTLES, KNIVES] for text in texts})
    file = tmp_path / "review.csv"
    assert export_review(store, file, taxonomy(), 2).rows == len(texts)
    rows = rows_of(file)
    assert [row["text"] for row in rows] == texts
    fill(file, {row["key"]: "Knives" for row in rows})
    assert import_review(store, file, taxonomy(), 1).changed == len(texts)
    assert export_review(store, file, taxonomy(), 2).rows == 0


def _run(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_exports_either_form_and_tells_an_import_by_its_content(
    tiny_project: Callable[..., Path], tmp_path: Path
) -> None:
    """`flywheel review export --format` and `import FILE`: places, counts, what was overturned, and conflicts."""
    project = tiny_project()
    settings = load_project(project)
    store = open_store(settings.database_url, settings.project)
    knives, hoses = "Kitchen > Knives", "Garden > Hoses"
    put_answers(store, {"one": [knives, hoses], "two": [knives, hoses], "three": [hoses, hoses]})
    store.close()
    assert "3 rows to review in" in _run("review", "export", "--project", project)
    form = settings.root / "review" / "review_labels.csv"
    fill(form, {text_key("three").hex(): "knives"})
    said = _run("review", "import", form, "--project", project)
    assert " ".join(said.split()).startswith("rows 3 changed 1 confirmed 0 unchanged 0 empty 2")
    assert "overturned at category" in said
    assert "1 of 1" in said

    tasks = tmp_path / "tasks.json"
    options = ("--format", "label-studio", "--out", tasks, "--project", project)
    said = _run("review", "export", *options)
    assert (
        f"labeling configuration (Settings > Labeling Interface > Code) in {tasks.with_suffix('.xml')}"
        in said
    )
    loaded: list[dict[str, Any]] = json.loads(tasks.read_text(encoding="utf-8"))
    for who, label in enumerate((knives, hoses)):
        value = {"from_name": "final_label", "type": "taxonomy", "value": {"taxonomy": [label.split(" > ")]}}
        loaded[0].setdefault("annotations", []).append({"completed_by": who, "result": [value]})
    loaded[1]["annotations"] = loaded[0]["annotations"][:1]
    tasks.write_text(json.dumps(loaded), encoding="utf-8")
    said = _run("review", "import", tasks, "--project", project)
    assert "not imported, reviewers contradict each other: task ? (id-one): 0 says 'Kitchen > Knives'" in said
    form.write_text("key,final_label\nzz,Knives\nzy,Knives\n")
    said = _run("review", "import", form, "--project", project, code=2)
    assert "2 rows cannot be taken" in said
    assert "row 2: unknown key 'zy'" in said


def test_a_look_needs_no_lease(tiny_project: Callable[..., Path]) -> None:
    """While another run works the queue can be written and a run estimated; what writes to the database waits."""
    project = tiny_project()
    settings = load_project(project)
    store = open_store(settings.database_url, settings.project)
    put_answers(store, {"one": ["Kitchen > Knives", "Garden > Hoses"]})
    now = time.time()
    lease = {"id": 1, "owner": "elsewhere:1:100.00", "acquired_at": now, "heartbeat_at": now}
    store.append(schema.lease, [lease])
    assert "1 rows to review in" in _run("review", "export", "--project", project)
    said = _run("label", "--dry-run", "--project", project)
    assert "of the items taken in so far, beside a run that works now: elsewhere:1:100.00" in said
    assert " ".join(said.split()).startswith("items 1 calls 2")
    form = settings.root / "review" / "review_labels.csv"
    assert "is in use by elsewhere:1:100.00" in _run("review", "import", form, "--project", project, code=1)
    assert store.scalar(select(schema.lease.c.owner)) == "elsewhere:1:100.00"
    store.close()
