"""Files of any size: routed piece by piece, no more held than a few of them, and a kill at any moment costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks import pieces
from tasks.errors import InputError
from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.routing import steps
from tasks.routing.answer_file import AnswerFile
from tasks.routing.lookup import logged_answers, routed_before
from tasks.routing.steps import route_file, route_new_traffic
from tasks.store import Store, open_store, schema
from tasks.store.labels import append_labels
from tasks.store.traffic import append_traffic, newest_traffic_id
from tests.conftest import ROOT, write_tiny_project
from tests.flows.conftest import recorded


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[TeacherServer]:
    write_tiny_project(tmp_path / "conf")
    with TeacherServer(recorded(tmp_path / "conf")) as server:
        yield server


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store without a model for all tests here: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def project(tmp_path: Path, teacher: TeacherServer, tracking_uri: str) -> Project:
    """A tiny project without a champion."""
    return load_project(project_file(tmp_path, teacher, tracking_uri))


def project_file(tmp_path: Path, teacher: TeacherServer, tracking_uri: str) -> Path:
    terms = {"base_url": teacher.base_url, "max_attempts": 1}
    return write_tiny_project(
        tmp_path / "conf",
        teacher=terms,
        mlflow={"tracking_uri": tracking_uri},
        source={"traffic": "traffic/*.parquet"},
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of seven rows, shards of three."""
    monkeypatch.setattr(pieces, "PIECE_ROWS", 7)
    monkeypatch.setattr(steps, "SHARD_ROWS", 3)


def table(project: Project, rows: int) -> pl.DataFrame:
    return pl.read_parquet(project.file.parent / "items.parquet")[:rows]


def log(project: Project) -> pl.DataFrame:
    store = open_store(project.database_url, project.project)
    return store.read(select(schema.traffic).order_by(schema.traffic.c.id))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_pieces_do_not_show(
    project: Project, teacher: TeacherServer, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in many pieces gives the answers and the log that it gives in one; rejections keep their count."""
    rows = table(project, 24).with_columns(
        name=pl.when(pl.int_range(pl.len()) % 9 == 4).then(pl.lit(" ")).otherwise("name")
    )
    file = project.file.parent / f"in{suffix}"
    write = {".parquet": rows.write_parquet, ".csv": rows.write_csv, ".jsonl": rows.write_ndjson}
    write[suffix](file)  # type: ignore[operator]
    out = file.with_name("out.parquet")
    whole = route_file.fn(project, str(file), str(out), 1)
    expected = pl.read_parquet(out)
    monkeypatch.setattr(pieces, "PIECE_ROWS", 7)
    monkeypatch.setattr(steps, "SHARD_ROWS", 3)
    piecewise = route_file.fn(project, str(file), str(out), 2)
    assert pl.read_parquet(out).equals(expected)
    assert (piecewise.items, piecewise.rejected, piecewise.tiers) == (21, {"empty text": 3}, whole.tiers)
    assert piecewise.cost_usd == 0
    assert log(project).height == 21


@pytest.mark.usefixtures("small")
def test_a_row_that_comes_back_in_a_later_piece_is_answered_once(
    project: Project, teacher: TeacherServer
) -> None:
    """The same id and content pieces apart: one request, one call, one answer; both rows in the output."""
    rows = table(project, 12)
    file = project.file.parent / "in.parquet"
    pl.concat([rows, rows.reverse(), rows]).write_parquet(file)
    out = file.with_name("out.parquet")
    record = route_file.fn(project, str(file), str(out), 1)
    answered = pl.read_parquet(out)
    assert (record.items, record.tiers, answered.height) == (36, {"teacher": 36}, 36)
    assert answered["id"].to_list() == pl.read_parquet(file)["id"].to_list()
    assert answered.unique().height == log(project).height == teacher.stats()["paid"] == 12


@pytest.mark.usefixtures("small")
def test_a_request_that_the_teacher_failed_is_not_asked_again_in_the_run(
    project: Project, tmp_path: Path, tracking_uri: str
) -> None:
    """Rows that come back pieces later fall back like the first ones, and are tried once; the next run tries anew."""
    rows = table(project, 8)
    file = tmp_path / "in.parquet"
    pl.concat([rows, rows]).write_parquet(file)
    out = tmp_path / "out.parquet"
    terms = {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1}
    down = load_project(
        write_tiny_project(tmp_path / "conf", teacher=terms, mlflow={"tracking_uri": tracking_uri})
    )
    for run in (1, 2):
        record = route_file.fn(down, str(file), str(out), run)
        answered = pl.read_parquet(out)
        assert (record.tiers, record.unanswered) == ({"fallback": 16}, 16)
        assert sum(record.errors.values()) == 8
        assert answered[:8].equals(answered[8:])
    up = route_file.fn(project, str(file), str(out), 3)
    assert (up.tiers, up.unanswered) == ({"teacher": 16}, 0)
    assert log(project).height == 8


@pytest.mark.usefixtures("small")
def test_one_id_for_two_items_pieces_apart_is_refused_before_anything_is_paid(
    project: Project, teacher: TeacherServer
) -> None:
    """What makes the whole file doubtful is found before its first row is routed."""
    rows = table(project, 20)
    clash = rows[:1].with_columns(name=pl.lit("another thing"))
    file = project.file.parent / "in.parquet"
    pl.concat([rows, clash]).write_parquet(file)
    with pytest.raises(InputError, match=r"1 duplicate ids with different content.*rows 1, 21"):
        route_file.fn(project, str(file), str(file.with_name("out.parquet")), 1)
    assert teacher.stats()["paid"] == 0
    assert not file.with_name("out.parquet").exists()


@pytest.mark.usefixtures("small")
def test_no_more_than_a_few_pieces_are_held(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what was routed and written is let go, and the file of answers grows meanwhile."""
    names = [f"thing number {row}" for row in range(210)]
    store = open_store(project.database_url, project.project)
    append_labels(store, [(text_key(name), "Garden > Hoses", "human") for name in names], 1)
    file = project.file.parent / "in.parquet"
    pl.DataFrame({"id": [str(row) for row in range(210)], "name": names}).write_parquet(file)
    alive: list[int] = []
    given: list[weakref.ref[pl.DataFrame]] = []
    in_pieces = steps.items_in_pieces

    def watched(*arguments: Any) -> Iterator[Any]:
        for items in in_pieces(*arguments):
            given.append(weakref.ref(items.frame))
            alive.append(sum(frame() is not None for frame in given))
            yield items

    monkeypatch.setattr(steps, "items_in_pieces", watched)
    record = route_file.fn(project, str(file), str(file.with_name("out.parquet")), 1)
    assert (record.tiers, len(given)) == ({"exact_cache": 210}, 30)
    assert max(alive) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 4, 7])
def test_killed_within_a_piece_it_pays_and_logs_nothing_twice(
    tmp_path: Path, teacher: TeacherServer, tracking_uri: str, shards: int
) -> None:
    """SIGKILL before a shard's log is committed; the rerun gives every answer, in order, and no half file was left."""
    conf = project_file(tmp_path, teacher, tracking_uri)
    project = load_project(conf)
    file, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table(project, 20).write_parquet(file)
    home = os.environ["FLYWHEEL_HOME"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.routing.killed_routing", conf, home, file, out, str(shards)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not out.exists()
    before = log(project)
    assert before.height < 20
    record = route_file.fn(project, str(file), str(out), 2)
    after = log(project)
    assert after[: before.height].equals(before)
    assert after.height == after["request_id"].n_unique() == 20
    assert teacher.stats()["paid"] == 20
    answered = pl.read_parquet(out)
    assert answered["id"].to_list() == table(project, 20)["id"].to_list()
    assert answered["category"].null_count() == record.unanswered == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_a_file_that_was_routed_is_not_read_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traffic file as it was is passed over; one that was written anew, or read by other columns, is looked at."""
    inbox = project.file.parent / "traffic"
    inbox.mkdir()
    table(project, 4).write_parquet(inbox / "1.parquet")
    read: list[str] = []
    in_pieces = steps.items_in_pieces

    def watched(project: Project, file: Path) -> Iterator[Any]:
        read.append(file.name)
        return in_pieces(project, file)

    monkeypatch.setattr(steps, "items_in_pieces", watched)
    assert route_new_traffic.fn(project, 1).items == 4
    table(project, 6).write_parquet(inbox / "2.parquet")
    assert route_new_traffic.fn(project, 2).items == 2
    assert route_new_traffic.fn(project, 3).items == 0
    assert read == ["1.parquet", "2.parquet"]
    table(project, 8).write_parquet(inbox / "1.parquet")
    assert route_new_traffic.fn(project, 4).items == 2
    assert read == ["1.parquet", "2.parquet", "1.parquet"]
    assert log(project).height == 8


@pytest.mark.usefixtures("small")
def test_a_traffic_file_that_was_left_half_routed_is_read_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in its second piece: the next run routes what is left of it and nothing else."""
    inbox = project.file.parent / "traffic"
    inbox.mkdir()
    table(project, 12).write_parquet(inbox / "1.parquet")
    append, shards = steps.append_traffic, []

    def append_or_fail(*arguments: Any) -> int:
        shards.append(1)
        if len(shards) == 4:
            raise KeyboardInterrupt
        return append(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "append_traffic", append_or_fail)
        with pytest.raises(KeyboardInterrupt):
            route_new_traffic.fn(project, 1)
    assert log(project).height == 7
    assert route_new_traffic.fn(project, 2).items == 5
    assert log(project).height == log(project)["row_id"].n_unique() == 12


def traffic_row(number: int) -> dict[str, Any]:
    name = number.to_bytes(16, "big")
    return {
        "request_id": name, "row_id": bytes(reversed(name)), "key": name, "source_id": str(number),
        "tier": "teacher", "would_tier": "teacher", "label": "Garden > Hoses", "confidence": None,
        "student_label": None, "student_confidences": None, "cheap_label": None, "teacher_label": None,
        "audited": False, "audit_probability": 0.0, "audit_owed": False, "policy_id": None,
        "model_version": None, "latency_seconds": 0.0, "cost_usd": 0.0,
    }  # fmt: skip


def test_the_log_is_asked_about_the_rows_in_hand(store: Store) -> None:
    """Requests and rows that were logged are found, others are not, nor those logged since; in either database."""
    append_traffic(store, [traffic_row(number) for number in range(300)], 1)
    newest = newest_traffic_id(store)
    append_traffic(store, [traffic_row(number) for number in range(300, 310)], 1)
    asked = [number.to_bytes(16, "big") for number in range(295, 5000)]
    found = logged_answers(store, asked)
    assert found == dict.fromkeys(asked[:15], ("teacher", "Garden > Hoses", None))
    assert logged_answers(store, []) == {}
    rows = pl.Series([bytes(reversed(name)) for name in asked[:20]])
    assert routed_before(store, rows, newest).to_list() == [True] * 5 + [False] * 15
    assert not routed_before(store, rows, 0).any()


SCHEMA: dict[str, Any] = {"id": pl.String, "kind": pl.String, "confidence": pl.Float64}


def answers(*ids: str) -> pl.DataFrame:
    kinds = ["a", None, None][: len(ids)]
    return pl.DataFrame({"id": ids, "kind": kinds, "confidence": [0.5] * len(ids)}, schema=SCHEMA)


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out"])
def test_the_file_of_answers_stands_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    """What was there stays until all is written; an error leaves it and nothing beside it."""
    out = tmp_path / "deep" / name
    with AnswerFile(out, SCHEMA) as file:
        file.append(answers("1", "2"))
        file.append(answers())
        assert not out.exists()
        file.append(answers("3"))
    read = pl.read_csv if name.endswith(".csv") else pl.read_parquet
    assert read(out)["id"].cast(pl.String).to_list() == ["1", "2", "3"]

    def fail() -> None:
        with AnswerFile(out, SCHEMA) as file:
            file.append(answers("4"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read(out).height == 3
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_an_empty_file_of_answers_has_its_columns(tmp_path: Path) -> None:
    """Where every row was rejected."""
    with AnswerFile(tmp_path / "out.parquet", SCHEMA):
        pass
    assert pl.read_parquet(tmp_path / "out.parquet").schema == SCHEMA


def test_csv_cells_run_no_formula(tmp_path: Path) -> None:
    """An id that a spreadsheet would calculate is written as text; numbers stay numbers."""
    with AnswerFile(tmp_path / "out.csv", SCHEMA) as file:
        file.append(answers("=1+1", "7"))
    assert (tmp_path / "out.csv").read_text() == "id,kind,confidence\n'=1+1,a,0.5\n7,,0.5\n"
