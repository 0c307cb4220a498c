"""Labels that are too few, too alike or nowhere to learn from: what the jobs make of them, and that nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

import polars as pl
import pytest
import yaml

from tasks.errors import TrainingError
from tasks.project import Project, load_project
from tasks.records import Promoted, Retrained
from tasks.store import open_store
from tasks.store.labels import raw_labels
from tests.conftest import write_tiny_project

pytestmark = pytest.mark.slow

SHOES, SHIRTS = "Clothing > Shoes", "Clothing > Shirts"


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store for all tests here: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def items_of(folder: Path) -> pl.DataFrame:
    """name and right label of the tiny project's 60 items."""
    names = pl.read_parquet(folder / "items.parquet")
    return names.join(pl.read_parquet(folder / "answers.parquet"), left_on="name", right_on="text").select(
        "name", label="a"
    )


def imported(folder: Path, name: str, tracking_uri: str, labels: pl.DataFrame, **sections: Any) -> Project:
    """A project whose items were labelled by a file."""
    from tasks.labeling.steps import import_history, take_in_items

    settings = {"project": name, "mlflow": {"tracking_uri": tracking_uri}, **sections}
    project = load_project(write_tiny_project(folder, **settings), folder)
    labels.write_csv(folder / "labels.csv")
    take_in_items.fn(project, 1)
    import_history(project, folder / "labels.csv", 1, "name", ["label"])
    return project


def trained(project: Project) -> tuple[Retrained, Promoted]:
    from tasks.cleaning.steps import clean_snapshot
    from tasks.promotion.steps import promote_challenger
    from tasks.student.steps import take_snapshot, train_and_register

    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    return train_and_register.fn(project, cleaned, 1), promote_challenger.fn(project)


def test_a_label_with_one_example_and_one_that_only_gold_has(tmp_path: Path, tracking_uri: str) -> None:
    """Both train, score and serve; nothing is certified of a student that misses a label, and that is said."""
    write_tiny_project(tmp_path)
    labels = items_of(tmp_path)
    shirts = labels.filter(pl.col("label") == SHIRTS)
    labels = pl.concat([labels.filter(~pl.col("label").is_in([SHOES, SHIRTS])), shirts.head(1)])
    project = imported(tmp_path, "rare", tracking_uri, labels, routing={"target_error": 0.02})
    retrained, promoted = trained(project)
    assert retrained.snapshot.rows == 41
    assert 0.3 < retrained.metrics["gold.category.top1"] < 1.0, "what only gold has is missed, and counted so"
    assert 0 < retrained.metrics["gold.category.macro_f1"] < 1.0
    assert promoted.promoted
    assert retrained.policy.thresholds is None
    assert retrained.policy.certified_coverage == 0
    assert "Nothing can be certified" in retrained.policy.sentence
    store = open_store(project.database_url, project.project)
    assert raw_labels(store).height == 41


def test_gold_too_small_for_a_certificate(tmp_path: Path, tracking_uri: str) -> None:
    """A student that makes no mistake still proves nothing on a dozen rows: how many more it takes is said."""
    rng = Random(0)
    marks = {"Clothing > Shoes": "sandal boot", "Garden > Hoses": "water pipe"}
    rows = [
        {"id": f"{place}", "name": f"{mark} " + "".join(rng.choices(ascii_lowercase, k=24)), "label": label}
        for place, (label, mark) in enumerate(list(marks.items()) * 22)
    ]
    items, gold = pl.DataFrame(rows[:32]), pl.DataFrame(rows[32:])
    write_tiny_project(tmp_path / "data")
    items.select("id", "name").write_parquet(tmp_path / "data" / "items.parquet")
    gold.write_parquet(tmp_path / "data" / "gold.parquet")
    project = imported(
        tmp_path,
        "small-gold",
        tracking_uri,
        items.select("name", "label"),
        source={"items": "data/items.parquet"},
        gold="data/gold.parquet",
        encoder={"model": "hash:512"},
    )
    retrained, promoted = trained(project)
    assert retrained.policy.thresholds is None
    assert retrained.policy.certified_coverage == 0
    assert re.search(r"Nothing can be certified on \d+ items: about \d+ more", retrained.policy.sentence)
    assert promoted.promoted, "coverage 0 may serve: it escalates everything"


def test_a_level_with_one_label(tmp_path: Path, tracking_uri: str) -> None:
    """The level is always right and never in the way of the one below."""
    labels = items_of(write_tiny_project(tmp_path).parent)
    labels = labels.with_columns(label=pl.lit("Shop > ") + pl.col("label").str.split(" > ").list.last())
    leaves = sorted({label.split(" > ")[1] for label in labels["label"]})
    file = write_tiny_project(tmp_path)
    gold = pl.read_parquet(tmp_path / "gold.parquet").with_columns(department=pl.lit("Shop"))
    settings = yaml.safe_load(file.read_text())
    settings |= {"project": "one-level", "mlflow": {"tracking_uri": tracking_uri}}
    settings["task"]["other"] = None
    file.write_text(yaml.safe_dump(settings))
    (tmp_path / "taxonomy.yaml").write_text(yaml.safe_dump({"Shop": dict.fromkeys(leaves)}))
    gold.write_parquet(tmp_path / "gold.parquet")
    labels.write_csv(tmp_path / "labels.csv")
    from tasks.labeling.steps import import_history, take_in_items

    project = load_project(file, tmp_path)
    take_in_items.fn(project, 1)
    import_history(project, tmp_path / "labels.csv", 1, "name", ["label"])
    retrained, promoted = trained(project)
    assert retrained.metrics["gold.department.top1"] == 1.0
    assert retrained.metrics["gold.category.top1"] > 0.5
    assert promoted.promoted


def test_fewer_rows_than_folds(tmp_path: Path, tracking_uri: str) -> None:
    """Four rows, nine folds: most folds are empty, and a student still comes of it, with no certificate."""
    write_tiny_project(tmp_path)
    every = items_of(tmp_path)
    labels = pl.concat([every.filter(pl.col("label") == label).head(2) for label in (SHOES, SHIRTS)])
    student = {"candidates": ["linear"], "folds": 9}
    project = imported(tmp_path, "few", tracking_uri, labels, gold=None, student=student)
    retrained, promoted = trained(project)
    assert retrained.snapshot.rows == 4
    assert retrained.policy.certified_coverage == 0
    assert promoted.promoted
    assert any("unverified" in reason for reason in promoted.reasons)


def test_all_labels_the_same(tmp_path: Path) -> None:
    """There is nothing to tell apart: an error with what to do, and the labels stay where they are."""
    from tasks.student.steps import take_snapshot

    write_tiny_project(tmp_path)
    labels = items_of(tmp_path).filter(pl.col("label") == SHOES)
    project = imported(tmp_path, "same", "sqlite:///unused.db", labels)
    with pytest.raises(TrainingError, match=r"10 labelled items with 1 different labels.*flywheel label"):
        take_snapshot.fn(project)
    assert raw_labels(open_store(project.database_url, project.project)).height == 10
