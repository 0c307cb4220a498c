"""Asked for examples of a label, the simulated teacher recombines what it has recorded: no evidence of quality."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from deployments.teacher_sim import AnswerBook, TeacherServer
from deployments.teacher_sim.synthesis import EXACT_EVERY, Wanted, examples_wanted, write_examples
from tasks.labeling.synthesis_prompts import Wish, messages, response_format
from tests.labeling.scripted import KETTLES, KNIVES, taxonomy

TEXTS = {
    f"{word} kettle of {stuff}": KETTLES for word in ("red", "tall") for stuff in ("steel", "glass", "tin")
}
BOOK = AnswerBook(TEXTS | {"bread knife of steel": KNIVES})


def asked(label: str, count: int, *, structured: bool = True, seed: int = 1) -> dict[str, Any]:
    """A request as the flywheel sends it, over HTTP; gives the decoded content of the reply."""
    body = {
        "model": "any",
        "messages": messages(taxonomy(), "Classify.", Wish(label, count, ("red kettle of tin",), 1)),
        "seed": seed,
    }
    if structured:
        body["response_format"] = response_format(label, structured=True)
    with TeacherServer(BOOK) as teacher:
        reply = httpx.post(f"{teacher.base_url}/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert teacher.stats()["paid"] == 1
    found: dict[str, Any] = json.loads(reply.json()["choices"][0]["message"]["content"])
    return found


@pytest.mark.parametrize("structured", [True, False])
def test_it_writes_as_many_examples_as_it_is_asked_for(structured: bool) -> None:
    """With a schema and without one; the example shown is not mistaken for an item to classify."""
    said = asked(KETTLES, 7, structured=structured)
    assert said["label"] == KETTLES
    assert len(said["examples"]) == 7


def test_some_are_copies_and_most_are_new() -> None:
    """So that whoever asks has duplicates to catch, made of texts of the label only."""
    written = write_examples(BOOK, Wanted(KETTLES, 40), seed=3)
    copies = [text for text in written if text in TEXTS]
    assert 40 // EXACT_EVERY <= len(copies) < 30
    assert not any("bread" in text for text in written)
    assert len({len(text.split()) for text in written}) > 3


def test_the_seed_decides_what_is_written() -> None:
    again = [write_examples(BOOK, Wanted(KETTLES, 10), seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_of_a_label_it_never_recorded_it_still_writes_something() -> None:
    written = write_examples(BOOK, Wanted("Garden > Hoses", 6), seed=1)
    assert len(written) == 6
    assert all(written)


def test_a_request_for_labels_is_not_taken_for_one_for_examples() -> None:
    """Only a list of texts under `examples`, or the words for it, asks for examples."""
    label = {"properties": {"label": {"type": "string", "enum": [KETTLES]}}}
    several = {"properties": {"answers": {"type": "array", "items": {"type": "object"}}}}
    for schema in (
        label,
        several,
        {"properties": {"examples": {"type": "array", "items": {"type": "object"}}}},
    ):
        assert examples_wanted("Write 3 examples of the label: x", '"examples": [', schema) is None
    assert examples_wanted("red kettle of tin", "Choose a label.", {}) is None
    assert examples_wanted("Write 3 examples of the label: x\n", '{"examples": ["..."]}', {}) == Wanted(
        "x", 3
    )
