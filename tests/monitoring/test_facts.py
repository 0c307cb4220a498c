"""What the report says is what stands in the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.monitoring.audited import audited_error, share_of
from tasks.monitoring.facts import report_facts
from tasks.monitoring.inventory import DIFFERING, INVALID, PASSES, take_inventory
from tasks.monitoring.report import render_report
from tasks.monitoring.versions import newest_version
from tasks.project import Project, load_project
from tasks.store import Store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.traffic import append_traffic
from tests.monitoring.filled import (
    DAY,
    HOSES,
    KETTLES,
    KNIVES,
    add_answers,
    add_batch,
    add_run,
    contradict,
    fill,
    items_of,
    key,
    request,
)
from tests.monitoring.report_facts import retrain_file

NOW = 1_790_000_000.0


@pytest.fixture
def project(tiny_project: Callable[..., Path]) -> Project:
    return load_project(tiny_project())


@pytest.fixture
def filled(project: Project, sqlite_store: Store) -> Store:
    fill(project, sqlite_store, time.time())
    return sqlite_store


def test_items_and_labels_are_counted_once_each(project: Project, filled: Store) -> None:
    """The label that counts decides the source; what only traffic brought is not labelling work."""
    inventory = take_inventory(project, filled)
    assert inventory.items == 9 + 2 + 5
    assert inventory.from_traffic == 7
    assert inventory.labelled == {"human": 2, "consensus": 4, "single": 3}
    assert inventory.unlabelled == 3, "e1 and f1, and u1 which the teacher owes"
    assert inventory.awaiting == {DIFFERING: 1, PASSES: 1, INVALID: 1}
    assert inventory.gold_rows == 30


def test_what_a_person_decided_awaits_nobody(project: Project, filled: Store) -> None:
    append_labels(filled, [(key(name), KNIVES, "human") for name in ("d1", "e1", "s2")], 1)
    assert take_inventory(project, filled).awaiting == {}


def test_the_students_error_is_measured_on_its_audited_answers(project: Project, filled: Store) -> None:
    """Of three audited answers one differs from the teacher and one from a person, who outranks the teacher."""
    audited = audited_error(filled, 30.0, time.time())
    assert audited.student is not None
    assert audited.student.wrong == share_of(2, 3)
    assert audited.student.decided == 1
    assert audited.student.against == "teacher"
    assert {tier.tier: tier.wrong.of for tier in audited.tiers} == {"student": 3, "exact_cache": 1}
    assert audited_error(filled, 30.0, time.time() + 40 * DAY).tiers == (), "the window has passed"


def test_an_answer_that_stops_at_an_upper_level_is_right_where_the_truth_lies_below(
    project: Project, filled: Store
) -> None:
    """Whether or not labels are read as the taxonomy has them now: one of two such answers is wrong."""
    said = {"audited": True, "teacher_label": KETTLES}
    upper = KETTLES.split(" > ")[0]
    rows = [request("p1", "student", upper, **said), request("p2", "student", HOSES.split(" > ")[0], **said)]
    append_traffic(filled, rows, 3)
    for taxonomy in (None, project.taxonomy):
        audited = audited_error(filled, 30.0, time.time(), taxonomy)
        assert audited.student is not None
        assert audited.student.wrong == share_of(2 + 1, 3 + 2)


def test_the_teacher_is_not_judged_by_itself(filled: Store) -> None:
    """Its audited answers count only where a person decided."""
    rows = [request(name, "teacher", HOSES, audited=True, teacher_label=HOSES) for name in ("v1", "v2")]
    append_traffic(filled, rows, 3)
    append_labels(filled, [(key("v2"), KETTLES, "human")], 3)
    tiers = {tier.tier: tier for tier in audited_error(filled, 30.0, time.time()).tiers}
    assert tiers["teacher"].wrong == share_of(1, 1)
    assert tiers["teacher"].against == "adjudicated"


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.308497), (5, 10, 0.187086, 0.812914), (10, 10, 0.691503, 1.0)],
)
def test_a_share_has_its_exact_interval(count: int, of: int, low: float, high: float) -> None:
    """Bounds agree with tables of the Clopper-Pearson interval."""
    share = share_of(count, of)
    assert share.low == pytest.approx(low, abs=1e-5)
    assert share.high == pytest.approx(high, abs=1e-5)


def test_turns_agreement_and_policies_are_read_back(project: Project, filled: Store) -> None:
    facts = report_facts(project, filled)
    assert [(turn.job, turn.tiers) for turn in facts.turns] == [
        ("route", {"teacher": 2}),
        ("nightly", {"exact_cache": 1, "fallback": 1, "student": 4}),
    ]
    assert facts.turns[0].cost_usd == pytest.approx(0.004)
    assert facts.requests == 8
    assert facts.audits_owed == 1
    assert facts.agreement.items == 6, "b1 has one pass, e1 no valid answer"
    assert facts.agreement.share == pytest.approx(5 / 6)
    assert facts.agreement.by_level == {"department": 1.0, "category": pytest.approx(5 / 6)}
    assert facts.agreement.kappa == pytest.approx(0.0), "the second pass is no surer than chance"
    [(label, share, items)] = facts.agreement.least
    assert (label, items) == (KETTLES, 6)
    assert share == pytest.approx(5 / 6)
    assert [(line.id, line.against, line.in_force) for line in facts.policies] == [
        (2, "gold", False),
        (1, "teacher", False),
    ]
    assert facts.champion is None
    assert facts.shown is None
    assert [run.job for run in facts.runs] == ["nightly", "route", "label"]
    assert "StoreError: disk full" in render_report(facts)


def test_an_audit_is_no_longer_owed_once_the_teacher_answered(project: Project, filled: Store) -> None:
    add_answers(filled, project, {"u1": (HOSES,)}, NOW)
    assert report_facts(project, filled).audits_owed == 0


def test_the_page_tells_of_open_batches_and_contradicted_labels(project: Project, filled: Store) -> None:
    add_batch(filled, project, ["a1", "a2"], NOW - 2.5 * 3600)
    contradict(project, {"a1": (KETTLES, KNIVES)})
    page = render_report(report_facts(project, filled, NOW))
    assert "2 items wait in 1 open batch at the provider, the oldest for 2.5 hours" in page
    assert '<th scope="row">student contradicts the label</th><td class="n">1</td>' in page


def test_an_empty_project_has_empty_facts(tiny_project: Callable[..., Path], sqlite_store: Store) -> None:
    """No item, no gold, no version, no traffic: a report all the same."""
    facts = report_facts(load_project(tiny_project(gold=None)), sqlite_store, NOW)
    assert facts.inventory.items == facts.inventory.gold_rows == facts.requests == 0
    assert facts.shown is None
    assert facts.spending.ask_once_usd is None
    page = render_report(facts)
    assert "No request has been routed yet" in page
    assert "There is no gold" in page


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    assert newest_version(tmp_path) is None
    (tmp_path / "retrains").mkdir()
    for version in ("2", "10", "9"):
        (tmp_path / "retrains" / f"{version}.json").write_text("{}")
    assert newest_version(tmp_path) == "10"


def test_a_version_is_shown_as_its_retrain_left_it(project: Project, sqlite_store: Store) -> None:
    """Accuracies come with the interval of as many items as were judged."""
    place = project.root / "retrains" / "3.json"
    place.parent.mkdir(parents=True)
    file = retrain_file()
    place.write_text(json.dumps(file))
    shown = report_facts(project, sqlite_store).shown
    assert shown is not None
    assert shown.version == "3"
    deepest = shown.accuracy[-1]
    right = sum(a == b for a, b in zip(file["true"], file["answered"], strict=True))
    assert deepest.after == share_of(right, 800)
    assert deepest.teacher == share_of(round(0.861 * 800), 800)
    assert deepest.before is not None
    assert deepest.before.value < deepest.after.value
    assert shown.confused_pairs[0] == tuple(
        file["confused_pairs"][name][0] for name in ("true", "answered", "count")
    )


def test_without_cleaning_there_is_no_accuracy_before_it(project: Project, sqlite_store: Store) -> None:
    file = retrain_file()
    del file["scores"]["raw labels"]
    place = project.root / "retrains" / "3.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(file))
    shown = report_facts(project, sqlite_store).shown
    assert shown is not None
    assert shown.accuracy[-1].before is None


def test_a_torn_retrain_file_is_no_version(project: Project, sqlite_store: Store) -> None:
    """A kill while it was written costs the details, not the report."""
    place = project.root / "retrains" / "3.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(retrain_file())[:500])
    facts = report_facts(project, sqlite_store)
    assert facts.shown is None
    assert "No version has been trained yet" in render_report(facts)


def test_versions_carry_what_the_gate_said(project: Project, sqlite_store: Store) -> None:
    trained = {"model_version": "1", "student": "linear", "metrics": {"gold.category.top1": 0.9}}
    promote = {"promoted": False, "champion_version": None, "challenger_version": "1", "reasons": ["too bad"]}
    add_run(sqlite_store, "retrain", NOW, result=json.dumps({"retrain": trained}))
    add_run(sqlite_store, "promote", NOW, result=json.dumps({"promote": promote}))
    [line] = report_facts(project, sqlite_store).versions
    assert (line.version, line.top1, line.judged_on, line.gate) == ("1", 0.9, "gold", "refused: too bad")


def test_traffic_without_its_run_is_still_a_turn(project: Project, sqlite_store: Store) -> None:
    append_items(sqlite_store, items_of(["t1"]), "traffic", 99)
    append_traffic(sqlite_store, [request("t1", "teacher", HOSES)], 99)
    [turn] = report_facts(project, sqlite_store).turns
    assert (turn.run_id, turn.job, turn.requests) == (99, "route", 1)
