"""What a retrain leaves in MLflow: runs that can be compared at a glance, and tables and figures of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from tasks.monitoring.evaluation_shown import evaluation_shown, figures_of
from tasks.project import Project, load_project
from tasks.records import Retrained, text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.monitoring.filled import add_answers, items_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:For backward compatibility:DeprecationWarning"),  # MLflow, of pandas
]


class Left(NamedTuple):
    """Two retrains of one project: their records, and the newest one's parent run with those below it."""

    project: Project
    records: list[Retrained]
    parent: Any
    below: dict[str, Any]
    artifacts: Path


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """Three hundred rows, some mislabelled; gold with languages, about which the teacher was asked."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    from tasks.cleaning.steps import clean_snapshot
    from tasks.student.steps import take_snapshot, train_and_register

    folder = tmp_path_factory.mktemp("tracked")
    project = load_project(
        write_tiny_project(folder / "conf", student={"candidates": ["linear", "ensemble"]}), folder
    )
    nouns, paths = list(TINY_LEAVES.values()), [" > ".join(leaf) for leaf in TINY_LEAVES]
    names = [f"gold{n} {nouns[n % 6][n % 5]}" for n in range(120)]
    gold = {
        "id": names,
        "name": names,
        "department": [list(TINY_LEAVES)[n % 6][0] for n in range(120)],
        "category": [list(TINY_LEAVES)[n % 6][1] for n in range(120)],
        "language": ["en" if n % 3 else "de" for n in range(120)],
    }
    pl.DataFrame(gold).write_parquet(project.resolve("gold.parquet"))
    store = open_store(project.database_url, project.project)
    rows = [f"item{n} {nouns[n % 6][n % 5]}" for n in range(300)]
    append_items(store, items_of(rows), "source", 1)
    wrong = [(n + (n % 7 == 0)) % 6 for n in range(300)]
    append_labels(
        store, [(text_key(row), paths[leaf], "single") for row, leaf in zip(rows, wrong, strict=True)], 1
    )
    add_answers(store, project, {name: (paths[(n + (n % 5 == 0)) % 6],) for n, name in enumerate(names)}, 1.0)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    records = [train_and_register.fn(project, cleaned, run) for run in (1, 2)]
    client = MlflowClient(project.tracking_uri)
    parent = client.get_run(records[-1].run_id)
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    artifacts = download_artifacts(
        run_id=parent.info.run_id, dst_path=str(folder / "seen"), tracking_uri=project.tracking_uri
    )
    yield Left(project, records, parent, {run.info.run_name: run for run in found}, Path(artifacts))
    store.close()


def test_runs_are_named_by_the_version_they_became(left: Left) -> None:
    """Two retrains can be told apart in a list, and so can their candidates."""
    assert [record.model_version for record in left.records] == ["1", "2"]
    winner = left.records[-1].student
    loser = {"linear": "ensemble", "ensemble": "linear"}[winner]
    assert left.parent.info.run_name == f"v2 {winner}"
    assert {f"v2 {winner}, the winner", f"v2 {loser}"} <= left.below.keys()
    assert left.below.keys() <= {f"v2 {winner}, the winner", f"v2 {loser}", f"v2 {winner}, before cleaning"}
    assert left.parent.data.tags["stage"] == "retrain"
    assert {run.data.tags["stage"] for run in left.below.values()} <= {"candidate", "before cleaning"}
    assert [name for name, run in left.below.items() if run.data.tags["winner"] == "true"] == [
        f"v2 {winner}, the winner"
    ]


def test_metrics_bear_the_same_names_above_and_below(left: Left) -> None:
    """So that ticking any runs compares them; the winner's own run says what the retrain says."""
    [won] = [run for run in left.below.values() if run.data.tags["winner"] == "true"]
    for run in left.below.values():
        names = {name for name in run.data.metrics if not name.startswith("to_winner")}
        assert names <= left.parent.data.metrics.keys()
        assert names == {name for name in won.data.metrics if not name.startswith("to_winner")}
    assert {f"gold.category.{name}" for name in ("top1", "top3", "top5", "macro_f1", "ece")} <= names
    for name in names:
        assert won.data.metrics[name] == pytest.approx(left.parent.data.metrics[name])
    assert won.data.metrics["to_winner"] == 0


def test_what_limits_quality_stands_under_the_name(left: Left) -> None:
    """The description holds the sentences and the candidates; the cause is a tag to filter by."""
    record, tags = left.records[-1], left.parent.data.tags
    note = tags["mlflow.note.content"]
    assert record.bottleneck in note
    assert record.policy.sentence in note
    assert "the teacher, one pass" in note
    assert tags["limited_by"] in {"labels", "data", "head", "encoder", "nothing"}
    limits = [left.parent.data.metrics[f"limit.{cause}"] for cause in ("labels", "data", "head", "encoder")]
    assert all(0 <= share <= 1 for share in limits)


def test_the_evaluation_is_kept_as_tables(left: Left) -> None:
    """Every table is rectangular, and its counts are those of gold's evaluation half."""

    def table(name: str) -> pl.DataFrame:
        found = json.loads((left.artifacts / name).read_text(encoding="utf-8"))
        return pl.DataFrame(found["data"], schema=found["columns"], orient="row")

    labels = table("labels.json")
    items = int(labels.filter(pl.col("level") == "category")["items"].sum())
    assert items == int(labels.filter(pl.col("level") == "department")["items"].sum()) > 20
    right = labels.filter(pl.col("level") == "category")["right"].sum()
    assert right / items == pytest.approx(left.records[-1].metrics["gold.category.top1"], abs=1e-5)
    slices = table("slices.json")
    assert set(slices["by"]) >= {"language"}
    assert slices.filter(pl.col("by") == "language")["items"].sum() == items
    beside = table("beside_teacher.json")
    assert beside["level"].to_list() == ["department", "category"]
    assert beside["items"].to_list() == [items, items]
    wrong = table("confusion.json").filter(pl.col("level") == "category")["count"].sum()
    assert wrong == items - right
    assert table("calibration.json").filter(pl.col("level") == "category")["items"].sum() == items
    assert table("learning_curve.json").height == 3
    assert table("limits.json")["cause"].to_list() == ["labels", "data", "head", "encoder"]
    assert set(table("candidates.json")["candidate"]) >= {"linear", "ensemble"}


def test_figures_are_kept_and_the_report_draws_the_same_from_the_facts(left: Left) -> None:
    figures = {path.name for path in left.artifacts.glob("*.png")}
    wanted = {"calibration", "candidates", "labels-weakest", "slices", "beside_teacher", "learning_curve"}
    assert {f"{name}.png" for name in wanted} | {
        "confusion-department.png",
        "confusion-category.png",
    } <= figures
    facts = json.loads((left.project.root / "retrains" / "2.json").read_text(encoding="utf-8"))
    drawn = figures_of(evaluation_shown(facts), left.project.taxonomy.levels)
    assert drawn.keys() == {"calibration", "slices", "labels", "teacher", "curve"}


def test_candidates_can_be_looked_at_side_by_side(left: Left) -> None:
    """Each has its confusion under the name of the winner's own, and the same rows as its input."""
    from mlflow import MlflowClient

    client = MlflowClient(left.project.tracking_uri)
    for run in left.below.values():
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["confusion-category.png"]
    inputs = [run.inputs.dataset_inputs for run in (left.parent, *left.below.values())]
    assert {(one.dataset.name, one.dataset.digest) for [one] in inputs} == {
        ("training snapshot", left.records[-1].snapshot.fingerprint[:36])
    }


def test_the_version_says_what_it_is_and_what_it_is_worth(left: Left) -> None:
    """Its description is the retrain's, numbers included; its tags can be filtered by."""
    from mlflow import MlflowClient

    version = MlflowClient(left.project.tracking_uri).get_model_version("tiny", "2")
    assert version.description == left.parent.data.tags["mlflow.note.content"]
    assert f"{left.records[-1].metrics['gold.category.top1']:.1%}" in version.description
    assert {"student", "coverage", "against"} <= version.tags.keys()
    assert version.run_id == left.parent.info.run_id


def test_the_experiment_says_what_it_holds(left: Left) -> None:
    """Its kind, and in words how its runs are to be read."""
    from mlflow import MlflowClient

    tags = MlflowClient(left.project.tracking_uri).get_experiment(left.parent.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "compare" in tags["mlflow.note.content"]
