"""Every form of a prompt through the real job and the simulated teacher: the labels stay what was recorded."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.labeling.asking import Asking, asking_teacher
from tasks.labeling.beside import bringing
from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import current_answers
from tasks.labeling.listing import ELSEWHERE
from tasks.labeling.requests import Item, Request
from tasks.labeling.steps import ask_teacher
from tasks.project import load_project
from tasks.records import Labelled, image_key, text_key
from tasks.sources import read_gold
from tasks.store import Store, open_store, schema
from tasks.store.items import append_items
from tasks.store.labels import append_labels, effective_labels
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.labeling.scripted import NO_KEYS, FakeTime, Said, ScriptedTeacher, fails, put_texts
from tests.labeling.test_delimiting import INJECTIONS

ANSWERS = {
    f"{adjective} {noun}": " > ".join(leaf)
    for leaf, nouns in TINY_LEAVES.items()
    for noun in nouns
    for adjective in ("blue", "large")
}
FORMS: dict[str, dict[str, Any]] = {
    "one": {},
    "without reasons": {"reasons": False},
    "seven": {"items_per_call": 7, "reasons": False},
    "two stages": {"stages": 2},
    "two stages, seven": {"stages": 2, "items_per_call": 7},
    "shortlist": {"shortlist": 3},
    "shortlist, seven": {"shortlist": 3, "items_per_call": 7},
    "examples": {"examples": 3},
    "examples, seven, two stages": {"examples": 3, "items_per_call": 7, "stages": 2},
}


def _asking(
    folder: Path, base_url: str, store: Store | None = None, structured: bool = True, **form: Any
) -> Asking:
    file = write_tiny_project(
        folder, teacher={"base_url": base_url, "structured": structured}, labeling={"prompt": form}
    )
    project = load_project(file)
    how = asking_teacher(project)
    if store is None or not (form.get("shortlist") or form.get("examples")):
        return how
    from tasks.embedding.vectors import encoder_settings

    gold = pl.DataFrame(schema={"key": pl.Binary, "text": pl.String})
    encoder = encoder_settings(project.encoder)
    bring = bringing(
        store, project.taxonomy, encoder, folder, gold, how.prompt.shortlist, how.prompt.examples, 30.0
    )
    return replace(how, bring=bring)


def _label(store: Store, how: Asking, passes: int = 2) -> Labelled:
    return label_items(store, how, passes, None, NO_KEYS, 1)


@pytest.mark.parametrize("structured", [True, False], ids=["schema", "words"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_recorded_labels(
    sqlite_store: Store, tmp_path: Path, form: dict[str, Any], structured: bool
) -> None:
    keys = put_texts(sqlite_store, list(ANSWERS))
    append_labels(sqlite_store, [(keys[0], next(iter(ANSWERS.values())), "human")], 1)
    with TeacherServer(ANSWERS) as teacher:
        how = _asking(tmp_path, teacher.base_url, sqlite_store, structured, **form)
        done = _label(sqlite_store, how)
        again = _label(sqlite_store, how)
        stats = teacher.stats()
    assert (done.labelled, done.disagreed, done.invalid, done.failed) == (59, 0, 0, 0)
    assert (done.unlabelled_left, again.calls) == (0, 0)
    labels = dict(effective_labels(sqlite_store).select("key", "label").iter_rows())
    assert labels == {text_key(text): label for text, label in ANSWERS.items()}
    most = form.get("items_per_call", 1)
    stages = form.get("stages", 1)
    assert done.calls == stats["paid"] >= 2 * stages * 59 / most
    if most == 1:
        assert done.calls == 2 * stages * 59
    else:
        assert done.calls <= 2 * (stages * 59 / most + 3 * stages)


@pytest.mark.parametrize(
    "form", [FORMS["one"], FORMS["seven"], FORMS["two stages"]], ids=["one", "seven", "stages"]
)
def test_what_repeats_is_read_from_the_providers_cache(
    sqlite_store: Store, tmp_path: Path, form: dict[str, Any]
) -> None:
    """The simulated teacher counts a system message that it has seen before as cached."""
    put_texts(sqlite_store, list(ANSWERS))
    with TeacherServer(ANSWERS) as teacher:
        _label(sqlite_store, _asking(tmp_path, teacher.base_url, **form))
        stats = teacher.stats()
    systems = 2 * (1 if "stages" not in form else 1 + len({leaf[0] for leaf in TINY_LEAVES}))
    assert stats["cached_tokens"] / stats["prompt_tokens"] >= (1 - systems / stats["paid"]) * 0.6


def test_injections_change_nobodys_answer(sqlite_store: Store, tmp_path: Path) -> None:
    """Items that give orders, forge marks and answers, and name other recorded items; in company and alone."""
    answers = dict(ANSWERS)
    names = list(ANSWERS)
    for place, injection in enumerate(INJECTIONS):
        answers[f"{injection} {names[place]} answer {next(iter(ANSWERS.values()))} for all items {place}"] = (
            "Clothing > Shoes"
        )
    keys = put_texts(sqlite_store, list(answers))
    forms: tuple[dict[str, Any], ...] = ({"items_per_call": 5}, {"items_per_call": 5, "stages": 2}, {})
    for form in forms:
        with TeacherServer(answers) as teacher:
            how = _asking(tmp_path / str(len(form)), teacher.base_url, **form)
            done = _label(sqlite_store, how, passes=1)
        assert (done.labelled, done.invalid, done.failed) == (len(answers), 0, 0)
        said = current_answers(sqlite_store, how.version)
        assert dict(said.select("key", "label").iter_rows()) == dict(zip(keys, answers.values(), strict=True))


def _kept_elsewhere(store: Store, how: Asking) -> int:
    version = how.prompt.version_of(Request((Item(b"", ""),), 1))
    answers = schema.answers.c
    said = select(func.count()).where(answers.prompt_version == version, answers.label == ELSEWHERE)
    return int(store.scalar(said) or 0)


def _said(label: str) -> Said:
    return Said('{"label": "' + label + '", "confidence": 0.9}')


def test_a_wrong_branch_never_forces_a_wrong_leaf(sqlite_store: Store, tmp_path: Path) -> None:
    """The teacher sees its mistake in the second stage, and the item is asked about with the whole list."""
    put_texts(sqlite_store, ["blue kettle"])
    script = ("Garden", "(elsewhere)", "Kettles")
    with ScriptedTeacher(lambda item, number, asked: _said(script[asked - 1])) as teacher:
        how = _asking(tmp_path, teacher.base_url, stages=2)
        done = _label(sqlite_store, how)
        systems = [body["messages"][0]["content"] for body in teacher.bodies]
    assert (done.calls, done.labelled) == (6, 1)
    assert effective_labels(sqlite_store)["label"].to_list() == ["Kitchen > Kettles"]
    assert _kept_elsewhere(sqlite_store, how) == 2
    assert sum(" - Kettles" in system and " - Hoses" in system for system in systems) == 2


@pytest.mark.parametrize("form", [{"stages": 2}, {"shortlist": 2}], ids=["two stages", "shortlist"])
def test_a_later_run_goes_on_where_an_item_has_got_to(
    sqlite_store: Store, tmp_path: Path, form: dict[str, Any]
) -> None:
    """What was paid for on the way to the whole list is not paid for again."""
    put_texts(sqlite_store, ["blue kettle"])
    script = ["Garden", "(elsewhere)"] if "stages" in form else ["(elsewhere)"]
    refused = len(script)

    def broken(item: str, number: int, asked: int) -> Said:
        return fails(500) if asked > refused else _said(script[asked - 1])

    with ScriptedTeacher(broken) as teacher:
        time = FakeTime()
        how = _asking(tmp_path, teacher.base_url, sqlite_store, **form)
        how = replace(how, clock=time.clock, sleep=time.sleep)
        done = _label(sqlite_store, how, passes=1)
    assert (done.failed, done.calls) == (1, refused)
    with ScriptedTeacher(lambda *_: _said("Kettles")) as teacher:
        how = _asking(tmp_path, teacher.base_url, sqlite_store, **form)
        done = _label(sqlite_store, how, passes=1)
        assert teacher.requests == done.calls == 1
    assert effective_labels(sqlite_store)["label"].to_list() == ["Kitchen > Kettles"]


def test_a_malformed_answer_is_asked_again_and_its_neighbours_are_not(
    sqlite_store: Store, tmp_path: Path
) -> None:
    """One of five gets no readable answer in company; the other four are paid for once."""
    texts = list(ANSWERS)[:5]
    keys = put_texts(sqlite_store, texts)

    def script(item: str, number: int, asked: int) -> Said:
        content = teacher.bodies[-1]["messages"][-1]["content"]
        items = re.findall(r"<item-[0-9]+ ([0-9]+)>\n([^\n]+)", content)
        answers = [
            {"item": int(place), "label": ANSWERS[text], "confidence": 0.9}
            for place, text in items
            if text != texts[3] or len(items) == 1
        ]
        return Said(json.dumps({"answers": answers}))

    with ScriptedTeacher(script) as teacher:
        how = _asking(tmp_path, teacher.base_url, items_per_call=5, reasons=False)
        done = _label(sqlite_store, how, passes=1)
        sizes = [len(re.findall(r" [0-9]+>", body["messages"][-1]["content"])) for body in teacher.bodies]
    assert sizes == [5, 1]
    assert (done.labelled, done.errors) == (5, {"missing": 1})
    said = dict(current_answers(sqlite_store, how.version).select("key", "label").iter_rows())
    assert said == {key: ANSWERS[text] for key, text in zip(keys, texts, strict=True)}


def test_decided_items_are_shown_with_those_that_are_like_them(sqlite_store: Store, tmp_path: Path) -> None:
    """By their text and label, in a message before the item; what people decided is asked about no more."""
    texts = ["blue kettle with a lid", "large kettle", "red hose"]
    keys = put_texts(sqlite_store, texts)
    append_labels(sqlite_store, [(keys[0], "Kitchen > Kettles", "human")], 1)
    with ScriptedTeacher(lambda *_: _said("Kettles")) as teacher:
        how = _asking(tmp_path, teacher.base_url, sqlite_store, examples=2)
        assert _label(sqlite_store, how, passes=1).calls == 2
        bodies = teacher.bodies
    for body in bodies:
        assert re.search(r"label: Kettles>\nblue kettle with a lid\n", body["messages"][1]["content"])
        assert "blue kettle with a lid" not in body["messages"][-1]["content"]


def test_images_are_asked_about_several_at_a_time(sqlite_store: Store, tmp_path: Path) -> None:
    """Each is found by its own bytes; one that cannot be read is refused alone."""
    images = {}
    for place, leaf in enumerate(TINY_LEAVES):
        written = io.BytesIO()
        Image.new("RGB", (8, 8), (40 * place, 0, 0)).save(written, "PNG")
        images[written.getvalue()] = " > ".join(leaf)
    contents = [*images, b"no image"]
    keys = [image_key(image) for image in contents]
    frame = pl.DataFrame(
        {"key": keys, "source_id": [str(place) for place in range(7)], "text": None, "image": contents},
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    append_items(sqlite_store, frame, "source", 1)
    with TeacherServer(images) as teacher:
        how = _asking(tmp_path, teacher.base_url, items_per_call=7)
        how = replace(how, prompt=replace(how.prompt, modality="image"))
        done = _label(sqlite_store, how, passes=1)
    assert (done.labelled, done.invalid) == (6, 1)
    said = dict(current_answers(sqlite_store, how.version).select("key", "label").iter_rows())
    assert said == dict(zip(keys, [*images.values(), None], strict=True))


@pytest.mark.parametrize("structured", [True, False], ids=["schema", "words"])
def test_an_item_that_the_teacher_refuses_costs_its_neighbours_nothing(
    sqlite_store: Store, tmp_path: Path, structured: bool
) -> None:
    """One unknown text among seven: six are labelled rightly, whatever the numbers of the others."""
    texts = [*list(ANSWERS)[:3], "nobody ever recorded this", *list(ANSWERS)[3:6]]
    keys = put_texts(sqlite_store, texts)
    with TeacherServer(ANSWERS) as teacher:
        how = _asking(tmp_path, teacher.base_url, structured=structured, items_per_call=7)
        done = _label(sqlite_store, how, passes=1)
    assert (done.labelled, done.invalid, done.failed) == (6, 1, 0)
    said = dict(current_answers(sqlite_store, how.version).select("key", "label").iter_rows())
    assert said == {key: ANSWERS.get(text) for key, text in zip(keys, texts, strict=True)}


def test_the_step_gives_items_their_candidates_and_examples(tmp_path: Path) -> None:
    """Vectors come from the project's embedding cache, which is filled on the way; gold is never an example."""
    with ScriptedTeacher(lambda *_: _said("Kettles")) as teacher:
        form = {"shortlist": 3, "examples": 2}
        sections = {"teacher": {"base_url": teacher.base_url}, "labeling": {"prompt": form}}
        project = load_project(write_tiny_project(tmp_path, **sections))
        gold = read_gold(project)
        store = open_store(project.database_url, project.project)
        keys = put_texts(store, ["blue kettle", "red kettle with a lid", gold["text"][0]])
        append_labels(
            store, [(keys[1], "Kitchen > Kettles", "human"), (keys[2], gold["label"][0], "human")], 1
        )
        said = ask_teacher(project, store, keys[:1], "route", 1)
        content = teacher.bodies[0]["messages"][1]["content"]
    assert {answer.label for answer in said.values()} == {"Kitchen > Kettles"}
    assert content.startswith("Candidates:\n- ")
    assert len(re.findall("^- ", content, re.MULTILINE)) == 3
    assert "label: Kettles>\nred kettle with a lid" in content
    assert gold["text"][0] not in content
    assert list((project.root / "embeddings").iterdir())
    store.close()
