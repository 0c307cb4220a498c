"""Which sample may certify a student: adjudicated audits if they are complete, then gold, then the teacher's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.embedding.vectors import encoder_settings, vectors_of
from tasks.labeling.adjudication_queue import WANTED, read_plan
from tasks.project import Project, load_project
from tasks.records import half_of, text_key
from tasks.store import Store, open_store
from tasks.store.items import append_items, read_contents
from tasks.store.labels import append_labels
from tasks.store.traffic import append_traffic
from tasks.student.adjudicating_audits import adjudicate
from tasks.student.certifying import path_as_dict
from tasks.student.linear import LinearHead
from tasks.student.package import Student, decode_answers, levels_of
from tasks.student.retrain import judge_with
from tasks.student.samples import audited_sample, inputs_of, samples, terms_of
from tasks.student.thresholds import fix_path
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.monitoring.filled import items_of, request

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]
NOUNS = list(TINY_LEAVES.values())


def names_of(what: str, count: int) -> list[str]:
    """The noun of leaf n % 6 in the n-th name, of another leaf in one of twenty-three."""
    return [f"{NOUNS[(n + (n % 23 == 5)) % 6][n % 5]} {what}{n}" for n in range(count)]


TRAFFIC = {name: LEAVES[n % 6] for n, name in enumerate(names_of("asked", 1300))}
TEACHER = {
    name: LEAVES[(LEAVES.index(label) + (n % 8 == 3)) % 6] for n, (name, label) in enumerate(TRAFFIC.items())
}
MINE = [name for name in TRAFFIC if half_of(text_key(name)) == "calibration"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = write_tiny_project(
        tmp_path / "conf",
        gold=None,
        task={"other": None},
        encoder={"model": "hash:256"},
        routing={"target_error": 0.15, "confidence": 0.9},
    )
    return load_project(file)


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    """With audited traffic, whose teacher errs in one label of eight."""
    opened = open_store(project.database_url, project.project)
    append_items(opened, items_of(list(TRAFFIC)), "traffic", 1)
    rows = [
        request(name, "teacher", said, audited=True, teacher_label=said) for name, said in TEACHER.items()
    ]
    append_traffic(opened, rows, 1)
    yield opened
    opened.close()


@pytest.fixture
def student(project: Project) -> Student:
    names = names_of("learned", 360)
    settings = encoder_settings(project.encoder)
    X = vectors_of(settings, project.cache_root, items_of(names), "text")
    y, taxonomy = np.arange(360) % 6, project.taxonomy
    head = LinearHead(1.0)
    head.fit(X, y, n_leaves=6, seed=0)
    answers = decode_answers(head.predict_proba(X), taxonomy, levels_of(taxonomy))
    path = fix_path(answers.scores)
    return Student(taxonomy, head, "linear", "text", settings, 1.0, {"path": path_as_dict(path)})


def decide(store: Store, names: list[str], source: str = "human") -> None:
    append_labels(store, [(text_key(name), TRAFFIC[name], source) for name in names], 5)


def against(found: list[Any]) -> list[str]:
    return [sample.against for sample in found]


def wanted_of(project: Project, store: Store, student: Student) -> list[str]:
    """Names that the certificate waits for, the first to be asked about first."""
    audited = audited_sample(project, store, student)
    assert audited is not None
    names = {text_key(name): name for name in TRAFFIC}
    return [names[audited.keys[place]] for place in audited.waiting(terms_of(project, student)).tolist()]


def test_only_what_is_complete_certifies_by_adjudication(
    project: Project, store: Store, student: Student
) -> None:
    """With one decision open the teacher's word is all there is; with the last one the two-stage sample is."""
    assert against(samples(project, store, student, None)) == ["teacher"]
    waiting = wanted_of(project, store, student)
    assert set(waiting) < set(MINE)
    decide(store, waiting[:-1])
    last = wanted_of(project, store, student)
    assert against(samples(project, store, student, None)) == ["teacher"]
    decide(store, last, "adjudicated")
    assert wanted_of(project, store, student) == []
    found = samples(project, store, student, None)
    assert against(found) == ["adjudicated"]
    assert found[0].two_stage is not None
    assert len(found[0].truth) == len(MINE)


def test_audits_that_were_all_decided_need_no_weights(
    project: Project, store: Store, student: Student
) -> None:
    decide(store, MINE)
    found = samples(project, store, student, None)
    assert against(found) == ["adjudicated"]
    assert found[0].two_stage is None
    assert not found[0].wrong.all()


def test_gold_comes_before_the_teacher_and_after_people(
    project: Project, store: Store, student: Student
) -> None:
    rows = items_of(MINE[:60]).with_columns(
        label=pl.Series([TRAFFIC[name] for name in MINE[:60]]), role=pl.lit("calibration")
    )
    gold = judge_with(student, rows, inputs_of(project, student, rows))
    assert against(samples(project, store, student, gold)) == ["gold", "teacher"]
    decide(store, MINE)
    assert against(samples(project, store, student, gold)) == ["adjudicated", "gold"]


def test_what_the_student_was_calibrated_on_certifies_nothing(
    project: Project, store: Store, student: Student
) -> None:
    """An audited item that is gold, and fitted the temperature, is in no sample of audits."""
    rows = items_of(MINE[:90]).with_columns(
        label=pl.Series([TRAFFIC[name] for name in MINE[:90]]), role=pl.lit("temperature")
    )
    gold = judge_with(student, rows, inputs_of(project, student, rows))
    decide(store, MINE)
    found = samples(project, store, student, gold)
    assert len(found[0].truth) == len(MINE) - 90


def test_what_fitted_the_temperature_certifies_nothing_after_gold_has_shrunk(
    project: Project, store: Store, student: Student
) -> None:
    """Too little gold is left to set any aside today, or the item is no gold any more: the student knows it still."""
    fitted = {"temperature_keys": [text_key(name).hex() for name in MINE[:30]]}
    student = replace(student, about={**student.about, **fitted})
    rows = items_of(MINE[20:80]).with_columns(
        label=pl.Series([TRAFFIC[name] for name in MINE[20:80]]), role=pl.lit("calibration")
    )
    gold = judge_with(student, rows, inputs_of(project, student, rows))
    decide(store, MINE)
    adjudicated, of_gold = samples(project, store, student, gold)
    assert len(adjudicated.truth) == len(MINE) - 30
    assert len(of_gold.truth) == 50


def test_without_audits_there_is_gold_or_nothing(project: Project, student: Student, tmp_path: Path) -> None:
    empty = open_store(f"sqlite:///{tmp_path / 'empty.db'}", "tiny")
    assert samples(project, empty, student, None) == []
    assert audited_sample(project, empty, student) is None
    empty.close()


def test_a_share_of_ones_own_is_kept_to(
    tiny_project: Callable[..., Path], store: Store, student: Student
) -> None:
    """`routing.checked_agreements: 1` is one stage: everything in reach is wanted, agreements too."""
    file = tiny_project(
        gold=None,
        task={"other": None},
        encoder={"model": "hash:256"},
        routing={"target_error": 0.15, "confidence": 0.9, "checked_agreements": 1.0},
    )
    whole = audited_sample(load_project(file), store, student)
    assert whole is not None
    assert whole.share == 1.0
    assert whole.drawn.all()


def test_without_an_adjudicator_the_plan_is_written_and_nobody_is_asked(
    project: Project, store: Store, student: Student
) -> None:
    """What waits is named for the review file: differences in reach, and whatever the coin drew."""
    audited = audited_sample(project, store, student)
    assert audited is not None
    done = adjudicate(project, store, "7", audited, terms_of(project, student), 1)
    assert done.calls == 0
    waiting = wanted_of(project, store, student)
    assert done.waiting == done.versions["7"]["waiting"] == len(waiting) > 0
    plan = read_plan(project.root, "7")
    assert plan.height == len(MINE)
    assert {text_key(name) for name in waiting} <= set(plan.filter(WANTED)["key"])
    assert set(read_contents(store, plan)["key"]) == set(plan["key"])
