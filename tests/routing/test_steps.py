"""Routing files: each request logged once and paid once, whatever was killed, repeated or down in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import select

from deployments.teacher_sim import TeacherServer
from tasks.errors import ConfigError
from tasks.project import Project, load_project
from tasks.records import Routed, text_key
from tasks.routing import steps
from tasks.routing.steps import route_file, route_new_traffic
from tasks.store import open_store, schema
from tasks.store.labels import append_labels
from tests.conftest import write_tiny_project
from tests.flows.conftest import recorded

Make = Callable[..., Project]


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store without a model for all tests here: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[TeacherServer]:
    write_tiny_project(tmp_path / "conf")
    with TeacherServer(recorded(tmp_path / "conf")) as server:
        yield server


@pytest.fixture
def make(tmp_path: Path, tracking_uri: str) -> Make:
    """A tiny project without a champion, asking a teacher at a URL."""

    def make(base_url: str, **sections: Any) -> Project:
        terms = {"base_url": base_url, "max_attempts": 1} | sections.pop("teacher", {})
        file = write_tiny_project(
            tmp_path / "conf", teacher=terms, mlflow={"tracking_uri": tracking_uri}, **sections
        )
        return load_project(file)

    return make


NOBODY = "http://127.0.0.1:9/v1"


def names(conf: Path, rows: int) -> list[str]:
    return pl.read_parquet(conf / "items.parquet")["name"].to_list()[:rows]


def write_traffic(project: Project, rows: int, file: str = "traffic.parquet", first: int = 0) -> Path:
    items = pl.read_parquet(project.file.parent / "items.parquet")
    path = project.file.parent / file
    path.parent.mkdir(exist_ok=True)
    items[first : first + rows].write_parquet(path)
    return path


def route(project: Project, file: Path, run_id: int = 1) -> tuple[Routed, pl.DataFrame]:
    out = file.with_suffix(".out")
    record = route_file.fn(project, str(file), str(out), run_id)
    return record, pl.read_parquet(out)


def log(project: Project) -> pl.DataFrame:
    return open_store(project.database_url, project.project).read(
        select(schema.traffic).order_by(schema.traffic.c.id)
    )


def right(project: Project, answered: pl.DataFrame) -> Mapping[str, str]:
    said = recorded(project.file.parent)
    items = dict(pl.read_parquet(project.file.parent / "items.parquet").select("id", "name").iter_rows())
    return {id: said[items[id]][0] for id in answered["id"]}


def test_without_a_champion_the_teacher_answers_and_a_repeat_pays_nothing(
    make: Make, teacher: TeacherServer
) -> None:
    """Every row answered in its order; the same file again gives the same answers from the log."""
    project = make(teacher.base_url)
    file = write_traffic(project, 12)
    record, answered = route(project, file)
    assert answered.columns == ["id", "department", "category", "tier", "confidence"]
    assert answered["id"].to_list() == pl.read_parquet(file)["id"].to_list()
    said = answered.select("id", pl.concat_str("department", "category", separator=" > ")).rows()
    assert dict(said) == right(project, answered)
    assert record.tiers == {"teacher": 12}
    paid = teacher.stats()["paid"]
    again, same = route(project, file, 2)
    assert same.equals(answered)
    assert (again.tiers, again.cost_usd) == (record.tiers, 0.0)
    assert teacher.stats()["paid"] == paid == 12
    assert log(project).height == 12


def test_a_repeated_item_is_asked_once_and_charged_once(make: Make, teacher: TeacherServer) -> None:
    """Ten requests for one product are ten answers, ten rows of the log, and one call."""
    project = make(teacher.base_url)
    file = write_traffic(project, 1)
    pl.concat([pl.read_parquet(file)] * 10).with_columns(
        id=pl.format("r{}", pl.int_range(pl.len()))
    ).write_parquet(file)
    record, answered = route(project, file)
    assert answered["category"].n_unique() == 1
    assert answered.height == log(project).height == 10
    assert teacher.stats()["paid"] == 1
    costs = log(project)["cost_usd"]
    assert (costs > 0).sum() == 1
    assert record.cost_usd == pytest.approx(costs.sum(), abs=1e-6)


def test_a_row_given_twice_is_one_request(make: Make, teacher: TeacherServer) -> None:
    """The same id with the same content is the same request; the output has both rows."""
    project = make(teacher.base_url)
    file = write_traffic(project, 2)
    pl.concat([pl.read_parquet(file)] * 2).write_parquet(file)
    record, answered = route(project, file)
    assert answered.height == record.items == 4
    assert answered[:2].equals(answered[2:])
    assert log(project).height == 2


class Killed(BaseException):
    """The end of a process."""


def test_a_killed_run_goes_on_where_it_stopped(
    make: Make, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the log of the third shard: the rerun pays for nothing twice and logs no request twice."""
    project = make(teacher.base_url, routing={"audit_rate": 0.5})
    file = write_traffic(project, 10)
    monkeypatch.setattr(steps, "SHARD_ROWS", 3)
    append, shards = steps.append_traffic, []

    def append_or_die(*arguments: Any) -> int:
        shards.append(1)
        if len(shards) == 3:
            raise Killed
        return append(*arguments)

    monkeypatch.setattr(steps, "append_traffic", append_or_die)
    with pytest.raises(Killed):
        route(project, file)
    assert log(project).height == 6
    assert not file.with_suffix(".out").exists(), "no half output"
    audited = dict(log(project).select("request_id", "audited").iter_rows())
    record, answered = route(project, file, 2)
    assert teacher.stats()["paid"] == 10, "the third shard's calls were in the ledger"
    logged = log(project)
    assert logged.height == logged["request_id"].n_unique() == 10
    assert audited.items() <= dict(logged.select("request_id", "audited").iter_rows()).items(), (
        "no second toss"
    )
    assert answered["category"].null_count() == 0
    # What the lost shard had paid for are labels by now, so the cache knows them.
    assert record.tiers == {"teacher": 7, "exact_cache": 3}


@pytest.mark.parametrize("fallback", ["student", "refuse"])
def test_what_fell_back_is_answered_when_the_teacher_is_up_again(
    make: Make, teacher: TeacherServer, fallback: str
) -> None:
    """Down: unanswered, marked, audits owed. Up: the same command answers all of it, in the same rows of the log."""
    routing = {"fallback": fallback, "audit_rate": 1.0}
    project = make(NOBODY, routing=routing)
    file = write_traffic(project, 5)
    down, answered = route(project, file)
    assert (down.tiers, down.unanswered, down.audits_owed) == ({"fallback": 5}, 5, 5)
    assert down.errors
    assert answered["category"].null_count() == 5
    assert log(project)["audit_owed"].all()

    still_down, same = route(project, file, 2)
    assert same.equals(answered)
    assert still_down.unanswered == 5

    project = make(teacher.base_url, routing=routing)
    up, answered = route(project, file, 3)
    assert (up.tiers, up.unanswered) == ({"teacher": 5}, 0)
    assert up.cost_usd > 0
    assert answered["category"].null_count() == 0
    logged = log(project)
    assert logged["tier"].to_list() == ["teacher"] * 5
    assert not logged["audit_owed"].any()
    assert logged["teacher_label"].to_list() == logged["label"].to_list()
    assert logged["cost_usd"].sum() == pytest.approx(up.cost_usd, abs=1e-6)


def test_a_known_label_is_answered_by_the_cache(make: Make, teacher: TeacherServer) -> None:
    """A person's label answers; one that the taxonomy no longer has does not."""
    project = make(teacher.base_url)
    file = write_traffic(project, 2)
    first, second = (text_key(name) for name in names(project.file.parent, 2))
    store = open_store(project.database_url, project.project)
    append_labels(store, [(first, "Garden > Hoses", "human"), (second, "Garden > Gnomes", "human")], 1)
    _, answered = route(project, file)
    assert answered["tier"].to_list() == ["exact_cache", "teacher"]
    assert answered["category"][0] == "Hoses"
    assert answered["confidence"].null_count() == 2


def test_the_budget_is_of_the_run_not_of_the_shard(
    make: Make, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many shards a file has, one run spends no more than the budget, and says what it left."""
    project = make(teacher.base_url, teacher={"budget_usd": 0.002})
    file = write_traffic(project, 60)
    monkeypatch.setattr(steps, "SHARD_ROWS", 5)
    record, _ = route(project, file)
    assert 0 < record.cost_usd <= 0.002
    assert record.unanswered > 0
    assert record.errors.keys() == {"budget"}
    again, _ = route(project, file, 2)  # another run, another budget
    assert again.unanswered < record.unanswered


def test_only_traffic_that_was_never_routed_is(make: Make, teacher: TeacherServer) -> None:
    """Two files, one row in both: a second night has nothing left; a third routes the new file only."""
    project = make(teacher.base_url, source={"traffic": "traffic/*.parquet"})
    assert route_new_traffic.fn(project, 1).items == 0, "an empty inbox is no mistake"
    write_traffic(project, 4, "traffic/1.parquet")
    write_traffic(project, 4, "traffic/2.parquet", first=3)
    assert route_new_traffic.fn(project, 1).items == 8
    assert log(project).height == 7
    assert route_new_traffic.fn(project, 2).items == 0
    write_traffic(project, 3, "traffic/3.parquet", first=7)
    assert route_new_traffic.fn(project, 3).items == 3
    assert log(project).height == 10


def test_traffic_that_cannot_be_read_is_no_empty_inbox(make: Make) -> None:
    """A traffic file of the wrong kind is named, not taken for nothing new."""
    project = make(NOBODY, source={"traffic": "traffic/*"})
    write_traffic(project, 1, "traffic/1.parquet").rename(project.file.parent / "traffic" / "1.xlsx")
    with pytest.raises(ConfigError, match=r"1\.xlsx.*\.parquet, \.csv or \.jsonl"):
        route_new_traffic.fn(project, 1)


def test_rows_without_content_are_counted_and_the_others_answered(make: Make, teacher: TeacherServer) -> None:
    """An empty text stops nobody."""
    project = make(teacher.base_url)
    file = write_traffic(project, 3)
    frame = pl.read_parquet(file)
    frame.with_columns(
        name=pl.when(pl.int_range(pl.len()) == 1).then(pl.lit("  ")).otherwise("name")
    ).write_parquet(file)
    record, answered = route(project, file)
    assert (record.items, record.rejected) == (2, {"empty text": 1})
    assert answered["id"].to_list() == [frame["id"][0], frame["id"][2]]
