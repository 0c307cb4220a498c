"""What people read of a cleaning: fifty changes, and accuracy before and after by level, in MLflow and as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.cleaning.overview import cleaning_tables, read_sample
from tasks.cleaning.sample import READ
from tasks.cleaning.steps import clean_snapshot
from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.student.steps import take_snapshot, train_and_register
from tests.cleaning.test_suspects_for_review import TEXTS, WRONG
from tests.monitoring.filled import items_of

GOLD = {f"{text} new": label for text, label in list(TEXTS.items())[1::3]}


def noisy(make: Callable[..., Path], **cleaning: Any) -> Project:
    """One label in five is wrong; gold is beside it."""
    file = make(cleaning={"cap": 1.0} | cleaning, encoder={"model": "hash:256"})
    gold = [(str(row), text, *label.split(" > ")) for row, (text, label) in enumerate(GOLD.items())]
    pl.DataFrame(gold, schema=["id", "name", "department", "category"], orient="row").write_parquet(
        file.parent / "gold.parquet"
    )
    project = load_project(file)
    store = open_store(project.database_url, project.project)
    texts = {f"={text}" if row == 0 else text: text for row, text in enumerate(TEXTS)}
    append_items(store, items_of(list(texts)), "source", 1)
    labels = [(text_key(shown), WRONG.get(text, TEXTS[text]), "single") for shown, text in texts.items()]
    append_labels(store, labels, 1)
    store.close()
    return project


def test_a_sample_of_the_changes_can_be_read(tiny_project: Callable[..., Path]) -> None:
    """Each row has the text, both labels, how sure and why; a name that begins with `=` is no formula."""
    project = noisy(tiny_project)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    changed = pl.read_parquet(cleaned.path).filter("overwritten")
    sample = read_sample(cleaned)
    assert sample.height == min(READ, changed.height) > 0
    assert cleaned.sample is not None
    assert Path(cleaned.sample).parent == Path(cleaned.path).parent
    for row in sample.iter_rows(named=True):
        text = row["text"].removeprefix("'=")
        assert row["given_label"] == WRONG.get(text, TEXTS[text]) != row["new_label"]
        assert row["level"] == (
            "department" if row["given_label"].split(" > ")[0] not in row["new_label"] else "category"
        )
        assert row["done"] == "overwritten"
        assert "never saw the given label" in row["why"]
        assert not row["text"].startswith("=")
    assert clean_snapshot.fn(project, cleaned.snapshot) == cleaned


@pytest.mark.parametrize("method", ["cleanlab", "resubstitution", "none"])
def test_every_method_writes_the_same_columns(tiny_project: Callable[..., Path], method: str) -> None:
    project = noisy(tiny_project, method=method, confidence=0.5)
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    usual = noisy(tiny_project)
    assert (
        pl.read_parquet(cleaned.path).schema
        == pl.read_parquet(clean_snapshot.fn(usual, take_snapshot.fn(usual)).path).schema
    )
    assert cleaned.method == method
    assert (cleaned.sample is None) == (method == "none")
    if method == "cleanlab":
        assert "cleanlab holds" in read_sample(cleaned)["why"][0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:For backward compatibility:DeprecationWarning")  # MLflow, of pandas
def test_a_retrain_with_shared_weights_shows_before_and_after(tiny_project: Callable[..., Path]) -> None:
    """Soft labels reach the training; levels by before, after, delta stand in MLflow and in the retrain's facts."""
    from mlflow import MlflowClient

    project = noisy(tiny_project, mode="reweight")
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    assert cleaned.reweighted > 0
    assert cleaned.levels["category"]["overwritten"] == 0
    record = train_and_register.fn(project, cleaned, 1)
    facts = json.loads((project.root / "retrains" / f"{record.model_version}.json").read_text())
    effects = facts["cleaning_effect"]
    assert [effect["level"] for effect in effects] == ["department", "category"]
    for effect in effects:
        before, after, delta = (effect[name] for name in ("before", "after", "delta"))
        assert after[0] == pytest.approx(record.metrics[f"gold.{effect['level']}.top1"], abs=1e-6)
        assert before[0] == pytest.approx(record.before_cleaning[f"gold.{effect['level']}.top1"], abs=1e-6)
        assert delta[0] == pytest.approx(after[0] - before[0])
        for value, low, high in (before, after, delta):
            assert low <= value <= high
    artifacts = {item.path for item in MlflowClient(project.tracking_uri).list_artifacts(record.run_id)}
    assert {"cleaning_before_after.json", "cleaning_overwritten.json", "cleaning_sample.json"} <= artifacts
    assert "both learned" in read_sample(cleaned)["done"][0]
    assert set(cleaning_tables(cleaned, ())) == {"cleaning_overwritten.json", "cleaning_sample.json"}
