"""The report reads what a real retrain writes: no double of the file between the two rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.monitoring.facts import report_facts
from tasks.monitoring.report import render_report
from tasks.monitoring.status import render_status, status
from tasks.project import load_project
from tasks.records import text_key
from tasks.store import open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tests.monitoring.filled import items_of


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:For backward compatibility:DeprecationWarning")  # MLflow, of pandas
def test_a_retrained_champion_is_reported(tiny_project: Callable[..., Path]) -> None:
    """Snapshot, cleaning and training run as in a night; gold's evaluation half is what the page judges by."""
    from tasks.cleaning.steps import clean_snapshot
    from tasks.promotion.tracking import registry_of
    from tasks.student.steps import take_snapshot, train_and_register

    project = load_project(tiny_project())
    store = open_store(project.database_url, project.project)
    answers = pl.read_parquet(project.file.parent / "answers.parquet").head(60)
    append_items(store, items_of(answers["text"].to_list()), "source", 1)
    append_labels(store, [(text_key(text), b, "single") for text, _, b in answers.iter_rows()], 1)
    record = train_and_register.fn(project, clean_snapshot.fn(project, take_snapshot.fn(project)), 1)
    registry_of(project).set_alias("champion", record.model_version)

    facts = report_facts(project, store)
    shown = facts.shown
    assert shown is not None
    assert (facts.champion, shown.version, shown.student) == ("1", "1", "linear")
    assert shown.levels == ("department", "category")
    assert shown.judged_on == "gold"
    assert 0 < shown.judged_items < 30
    for level in shown.accuracy:
        assert level.after is not None
        assert level.after.value == pytest.approx(record.metrics[f"gold.{level.level}.top1"], abs=1e-5)
        assert level.after.of == shown.judged_items
    assert shown.policy is not None
    assert (shown.policy.id, shown.policy.sentence) == (record.policy.id, record.policy.sentence)
    assert facts.policies[0].in_force
    page = render_report(facts)
    assert "Version 1 serves (linear)" in page
    assert record.policy.sentence.split(":")[0] in page
    assert page.count('src="data:image/') >= 3
    assert "version 1" in render_status(status(project, store))
    store.close()
