"""Synthetic examples in the wheel: learned from, and kept from everything that answers, asks, judges or counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.cleaning.steps import clean_snapshot
from tasks.embedding.encoders import load_encoder
from tasks.errors import ConfigError
from tasks.labeling.selection import item_keys
from tasks.labeling.steps import (
    export_review_queue,
    label_with_teacher,
    take_in_items,
    wants_synthesis,
    write_synthetic_examples,
)
from tasks.monitoring.cost import spending
from tasks.monitoring.inventory import take_inventory
from tasks.monitoring.status import render_status, status
from tasks.project import Project, load_project
from tasks.promotion.tracking import registry_of
from tasks.records import Synthesized, text_key
from tasks.routing.steps import route_file
from tasks.sources import read_gold
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items, count_items, read_contents
from tasks.store.labels import append_labels, effective_labels
from tasks.store.traffic import append_traffic
from tasks.student.snapshot import SYNTHETIC_WEIGHT
from tasks.student.steps import take_snapshot, train_and_register
from tasks.synthetic import SYNTHETIC
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.flows.conftest import recorded
from tests.labeling.scripted import ScriptedTeacher
from tests.labeling.writing import wish_in, writer, writes
from tests.monitoring.filled import items_of, request

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]
KETTLES, SHOES = LEAVES[0], LEAVES[-1]
NOBODY = "http://127.0.0.1:9/v1"
Make = Callable[..., Project]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A tiny project whose labels are starved below twelve real items, asking a teacher at a URL."""

    def make(base_url: str = NOBODY, **sections: Any) -> Project:
        terms = {"base_url": base_url, "max_attempts": 1} | sections.pop("teacher", {})
        labeling = sections.pop("labeling", {"synthesis": {"below": 12}})
        return load_project(
            write_tiny_project(tmp_path / "conf", teacher=terms, labeling=labeling, **sections)
        )

    return make


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    """Writes as many new texts as it is asked for; whatever else it is asked is an error of the test."""
    with writer() as server:
        yield server


def store_of(project: Project) -> Store:
    return open_store(project.database_url, project.project)


def labelled(project: Project, unseen: str = SHOES) -> Store:
    """The project's items taken in and, but for those of one leaf, labelled as by two passes that agree."""
    take_in_items.fn(project, 1)
    store = store_of(project)
    answers = pl.read_parquet(project.file.parent / "answers.parquet")
    items = read_contents(store)["text"].to_list()
    told = {text: label for text, label in answers.select("text", "a").iter_rows() if text in items}
    append_labels(
        store, [(text_key(text), label, "consensus") for text, label in told.items() if label != unseen], 1
    )
    return store


def synthetic_texts(store: Store) -> dict[str, str]:
    texts = read_contents(store).filter(pl.col("origin") == SYNTHETIC)
    return dict(texts.join(effective_labels(store), on="key").select("text", "label").iter_rows())


@pytest.mark.parametrize(
    ("below", "asked", "limit", "expected"),
    [
        (None, None, None, False),
        (None, False, None, False),
        (12, None, None, True),
        (12, None, 10, False),
        (12, True, 10, True),
        (12, False, None, False),
    ],
)
def test_whether_a_run_writes_examples(
    make: Make, below: int | None, asked: bool | None, limit: int | None, expected: bool
) -> None:
    """Where the project says which labels are starved, but not over a slice, in which most would seem to be."""
    project = make(labeling={"synthesis": {"below": below}})
    assert wants_synthesis(project, asked, limit) is expected


def test_asking_for_examples_without_saying_for_which_labels_is_a_mistake(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"labeling\.synthesis\.below"):
        wants_synthesis(make(labeling={}), True, None)


def test_images_are_refused_before_anything_is_paid_for(make: Make) -> None:
    project = make(task={"modality": "image"}, source={"text": None, "image": "name"})
    for asked in (None, True):
        with pytest.raises(ConfigError, match="only texts can be written"):
            wants_synthesis(project, asked, None)


def test_starved_labels_get_their_share_and_a_label_never_seen_a_few(
    make: Make, teacher: ScriptedTeacher
) -> None:
    """Ten of each leaf known and two wanted; of the unseen leaf, five; "none of these" is left alone."""
    project = make(teacher.base_url)
    store = labelled(project)
    done = write_synthetic_examples.fn(project, 2)
    assert done.unseen == [SHOES]
    assert set(done.by_label) == set(LEAVES)
    assert done.by_label[KETTLES]["missing"] == 0
    assert done.by_label[KETTLES]["synthetic"] + done.by_label[KETTLES]["real"] >= 12
    assert done.by_label[SHOES] == {"real": 0, "synthetic": 5, "missing": 0}
    assert len(synthetic_texts(store)) == done.kept
    assert done.stopped is None
    store.close()


def test_a_second_run_asks_nothing_until_a_label_is_new(make: Make, teacher: ScriptedTeacher) -> None:
    """Not even for what the teacher failed to write; asked for by hand it tries again."""
    project = make(teacher.base_url)
    store = labelled(project)
    first = write_synthetic_examples.fn(project, 2)
    requests = teacher.requests
    assert first.missing == 0
    assert write_synthetic_examples.fn(project, 3) == Synthesized()
    again = write_synthetic_examples.fn(project, 4, again=True)
    assert (again.written, again.missing, teacher.requests) == (0, 0, requests)
    assert again.by_label == first.by_label
    shoe = read_contents(store).filter(pl.col("text").str.starts_with("shoes "))["key"][0]
    append_labels(store, [(shoe, SHOES, "human")], 5)
    after = write_synthetic_examples.fn(project, 5)
    assert after.by_label[SHOES]["real"] == 1
    assert after.by_label[SHOES]["synthetic"] == 1, "five gave way to the one that its share allows"
    assert teacher.requests == requests
    store.close()


def test_no_request_shows_gold_or_what_judges(make: Make, teacher: ScriptedTeacher) -> None:
    """Neither gold nor nearly gold, nor an audit in its window, nor a disputed item: only what is learned from."""
    project = make(teacher.base_url, labeling={"synthesis": {"below": 40, "most_share": 0.7}})
    store = labelled(project)
    gold = read_gold(project)["text"].to_list()
    near, audited, disputed = gold[0] + "s", "kettle audited and nothing else", "kettle that nobody agrees on"
    append_items(store, items_of([near, disputed]), "source", 1)
    append_items(store, items_of([audited]), "traffic", 1)
    append_labels(
        store,
        [(text_key(near), KETTLES, "consensus"), (text_key(audited), KETTLES, "single"),
         (text_key(disputed), None, "disagreed")],
        1,
    )  # fmt: skip
    append_traffic(store, [request(audited, "student", KETTLES, audited=True, teacher_label=KETTLES)], 1)
    done = write_synthetic_examples.fn(project, 2)
    said = "\n".join(body["messages"][-1]["content"] for body in teacher.bodies)
    shown = [text for text in read_contents(store)["text"].to_list() if f"\n{text}\n" in said]
    assert len(shown) > 20
    assert not {*gold, near, audited, disputed} & set(shown)
    assert done.kept > 30
    store.close()


def test_what_copies_gold_or_an_audit_is_dropped(make: Make) -> None:
    project: Project
    stolen: list[str] = []
    with writer(lambda label, count, number: writes(stolen, label)) as teacher:
        project = make(teacher.base_url)
        store = labelled(project)
        append_items(store, items_of(["loafers that are watched"]), "traffic", 1)
        append_traffic(
            store,
            [request("loafers that are watched", "student", SHOES, audited=True, teacher_label=SHOES)],
            1,
        )
        gold = read_gold(project)["text"][0]
        stolen += [gold, gold.upper() + "!", "Loafers that are watched"]
        done = write_synthetic_examples.fn(project, 2)
    assert done.written > 0
    assert (done.kept, done.duplicates) == (0, done.written)
    assert synthetic_texts(store) == {}
    store.close()


@pytest.fixture
def written(make: Make, teacher: ScriptedTeacher) -> Iterator[tuple[Project, Store, dict[str, str]]]:
    """A project with synthetic examples of every leaf."""
    project = make(teacher.base_url, routing={"audit_rate": 0.0, "fallback": "refuse"})
    store = labelled(project)
    write_synthetic_examples.fn(project, 2)
    texts = synthetic_texts(store)
    assert len(texts) > 10
    yield project, store, texts
    store.close()


Written = tuple[Project, Store, dict[str, str]]


def test_the_training_view_has_them_with_a_modest_weight(written: Written) -> None:
    """All of them, last, marked; cleaning leaves them as they are and out of its numbers."""
    project, _, texts = written
    snapshot = take_snapshot.fn(project)
    rows = pl.read_parquet(snapshot.path)
    synthetic = rows.tail(len(texts))
    assert snapshot.synthetic == len(texts) == rows.filter(pl.col("source") == SYNTHETIC).height
    assert set(synthetic["source"]) == {SYNTHETIC}
    assert set(synthetic["weight"]) == {SYNTHETIC_WEIGHT}
    assert dict(synthetic.select("key", "label").iter_rows()) == {
        text_key(text): label for text, label in texts.items()
    }
    cleaned = clean_snapshot.fn(project, snapshot)
    learned = pl.read_parquet(cleaned.path)
    assert learned["key"].to_list() == rows["key"].to_list()
    kept = learned.tail(len(texts))
    assert kept["label"].to_list() == synthetic["label"].to_list()
    assert not kept["overwritten"].any()
    assert {level["labels"] for level in cleaned.levels.values()} == {rows.height - len(texts)}


@pytest.mark.slow
def test_a_retrain_learns_from_them_and_certifies_without_them(written: Written) -> None:
    """The leaf known from examples only can be answered; every held-out number is of the fifty real rows."""
    project, _, texts = written
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    retrained = train_and_register.fn(project, cleaned, 3)
    assert retrained.snapshot.synthetic == len(texts)
    place = project.root / "retrains" / f"{retrained.model_version}.heldout.parquet"
    held_out = pl.read_parquet(place)
    real = pl.read_parquet(cleaned.snapshot.path).filter(pl.col("source") != SYNTHETIC)
    assert held_out["key"].to_list() == real["key"].to_list()
    assert held_out["label"].to_list() == real["label"].to_list()
    assert (retrained.policy.against, retrained.policy.calibration_items) == ("teacher", real.height)
    gold = set(read_gold(project)["key"].to_list())
    assert not gold & {text_key(text) for text in texts}
    student = registry_of(project).load(retrained.model_version)
    vectors = load_encoder(student.encoder).encode([text for text, label in texts.items() if label == SHOES])
    assert (student.probabilities(vectors)[:, student.taxonomy.leaf_index[SHOES]] > 0).all()


def test_a_lower_share_needs_no_new_labels_to_hold(written: Written) -> None:
    """The share is kept where training rows are taken, whatever was written under another one."""
    project, _, _ = written
    labeling = project.labeling.model_copy(
        update={"synthesis": project.labeling.synthesis.model_copy(update={"most_share": 0.09})}
    )
    rows = pl.read_parquet(take_snapshot.fn(project.model_copy(update={"labeling": labeling})).path)
    counts = rows.group_by("label").agg(
        real=(pl.col("source") != SYNTHETIC).sum(), synthetic=(pl.col("source") == SYNTHETIC).sum()
    )
    seen = counts.filter(pl.col("real") > 0)
    assert (seen["synthetic"] <= 0.09 * (seen["synthetic"] + seen["real"])).all()


def test_no_cache_answers_with_them(written: Written, tmp_path: Path) -> None:
    """Traffic that is word for word a synthetic example goes to the teacher, who is down here."""
    project, store, texts = written
    real = effective_labels(store).filter(pl.col("source") == "consensus")["key"][0]
    known = read_contents(store).filter(pl.col("key") == real)["text"][0]
    file = tmp_path / "traffic.parquet"
    asked = [next(iter(texts)), known]
    pl.DataFrame({"id": ["written", "known"], "name": asked}).write_parquet(file)
    down = project.model_copy(update={"teacher": project.teacher.model_copy(update={"base_url": NOBODY})})
    record = route_file.fn(down, str(file), str(tmp_path / "out.parquet"), 3)
    tiers = dict(pl.read_parquet(tmp_path / "out.parquet").select("id", "tier").iter_rows())
    assert tiers == {"written": "fallback", "known": "exact_cache"}
    assert record.unanswered == 1


def test_nobody_is_asked_about_them_until_they_are_met_for_real(written: Written) -> None:
    """In traffic or in a source an example becomes an item like any other, and counts as new."""
    project, store, texts = written
    text, label = next(iter(texts.items()))
    assert not set(item_keys(store)["key"]) & {text_key(text) for text in texts}
    items, unlabelled = count_items(store), take_inventory(project, store).unlabelled
    assert append_items(store, items_of([text, "something else"]), "source", 3) == 2
    assert append_items(store, items_of([text]), "source", 4) == 0
    assert text_key(text) in set(item_keys(store)["key"])
    assert count_items(store) == items + 2
    assert take_inventory(project, store).unlabelled == unlabelled + 2
    (row,) = read_contents(store).filter(pl.col("text") == text).rows(named=True)
    assert (row["origin"], row["source_id"]) == ("source", text)
    append_labels(store, [(text_key(text), SHOES if label != SHOES else KETTLES, "single")], 5)
    assert text not in synthetic_texts(store)
    rows = pl.read_parquet(take_snapshot.fn(project).path)
    assert rows.filter(pl.col("key") == text_key(text))["source"].to_list() == ["single"]


def test_counts_and_the_review_queue_leave_them_out(written: Written) -> None:
    """Sixty items are sixty items; the examples are counted by themselves."""
    project, store, texts = written
    inventory = take_inventory(project, store)
    assert (inventory.items, inventory.synthetic) == (60, len(texts))
    assert SYNTHETIC not in inventory.labelled
    assert inventory.unlabelled == 10
    told = status(project, store, now=1e9)
    assert (told["items"], told["synthetic"]) == (60, len(texts))
    assert f"{len(texts)} examples" in render_status(told)
    file, _ = export_review_queue(project)
    queue = Path(file).read_text(encoding="utf-8")
    assert not any(text in queue for text in texts)


def test_what_writing_cost_is_no_price_of_an_answer(written: Written) -> None:
    """It stands under a stage of its own."""
    project, store, _ = written
    spent = spending(store, project.teacher.model, 2, now=1e12)
    assert [line.name for line in spent.by_stage] == ["synthesis"]
    assert spent.total.cost_usd > 0
    assert spent.per_answer_usd is None


def test_labelling_goes_on_as_if_there_were_none(make: Make, tmp_path: Path) -> None:
    """The teacher is asked about the sixty items and no example, before and after they are written."""
    write_tiny_project(tmp_path / "conf")
    with TeacherServer(recorded(tmp_path / "conf")) as teacher:
        project = make(teacher.base_url)
        take_in_items.fn(project, 1)
        first = label_with_teacher.fn(project, 1)
        assert (first.items, first.failed, first.invalid) == (60, 0, 0)
        done = write_synthetic_examples.fn(project, 1)
        assert done.kept > 0
        again = label_with_teacher.fn(project, 2)
        assert (again.items, again.calls, again.unlabelled_left) == (0, 0, 0)
    store = store_of(project)
    labels = schema.labels.c
    assert store.scalar(select(func.count()).where(labels.source == SYNTHETIC)) == done.kept
    store.close()


def test_the_run_shares_one_budget(make: Make, teacher: ScriptedTeacher) -> None:
    """What labelling spent before is not spent again on examples; the run is then incomplete."""
    project = make(teacher.base_url, teacher={"budget_usd": 0.0062})
    store = labelled(project)
    done = write_synthetic_examples.fn(project, 2)
    assert done.stopped == "budget"
    assert 0 < done.cost_usd <= 0.0062
    asked = teacher.requests
    assert write_synthetic_examples.fn(project, 2).calls == 0, "too little is left of this run's money"
    assert write_synthetic_examples.fn(project, 3).calls >= 1, "nothing was remembered as complete"
    assert teacher.requests > asked
    assert {wish_in(body)[0] for body in teacher.bodies} <= set(LEAVES)
    store.close()
