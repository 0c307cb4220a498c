"""What the teacher is shown, what its reply means, and under which version it is kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.errors import ConfigError, RefusedTeacherError
from tasks.labeling.asking import asking_teacher
from tasks.labeling.listing import ELSEWHERE
from tasks.labeling.prompts import WHOLE, Prompt, parameters_hash
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item, Request
from tasks.project import load_project
from tasks.records import text_key
from tasks.taxonomy import build_taxonomy, split
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

FORMS: dict[str, dict[str, Any]] = {
    "single": {},
    "without reasons": {"reasons": False},
    "several": {"items_per_call": 20},
    "two stages": {"stages": 2},
    "two stages, several": {"stages": 2, "items_per_call": 20},
    "shortlist": {"shortlist": 2},
    "shortlist, several": {"shortlist": 2, "items_per_call": 20},
    "examples": {"examples": 2},
    "unstructured": {"structured": False},
}


def _prompt(**form: Any) -> Prompt:
    return Prompt(taxonomy(), "Classify.", **form)


def _item(text: str, candidates: tuple[str, ...] = (), examples: tuple[tuple[str, str], ...] = ()) -> Item:
    return Item(text_key(text), text, candidates, examples)


def _one(text: str = "a kettle", number: int = 1, branch: str | None = None) -> Request:
    return Request((_item(text, (KETTLES, HOSES)),), number, branch)


def _some(count: int, number: int = 1, branch: str | None = None) -> Request:
    return Request(tuple(_item(f"thing {place}", (KETTLES, HOSES)) for place in range(count)), number, branch)


def _schema(prompt: Prompt, request: Request) -> dict[str, Any]:
    form = prompt.response_format(request)
    assert form is not None
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    schema = form["json_schema"]["schema"]
    assert isinstance(schema, dict)
    return schema


# The static part


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("branch", [None, WHOLE])
def test_the_static_part_comes_first_and_is_the_same_for_every_item(
    form: dict[str, Any], branch: str | None
) -> None:
    """Byte by byte, or a provider's prompt cache would not know it again."""
    prompt = _prompt(**form)
    parts = {
        json.dumps(prompt.messages(_one(text, 1, branch))[0]) for text in ("a kettle", "a knife", "x" * 999)
    }
    assert len(parts) == 1
    assert json.loads(parts.pop())["role"] == "system"
    if form.get("items_per_call", 1) > 1:
        assert prompt.messages(_some(20, 1, branch))[0] == prompt.messages(_one("a kettle", 1, branch))[0]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_another_pass_and_another_branch_have_other_static_parts(form: dict[str, Any]) -> None:
    prompt = _prompt(**form)
    requests = [_one(number=number, branch=branch) for number in (1, 2, 3) for branch in (None, WHOLE)]
    systems = {prompt.system(request) for request in requests}
    if form.get("shortlist"):
        assert len(systems) == 4, "without a list there is no order: only the candidates stand in another one"
    else:
        assert len(systems) == (6 if form.get("stages") == 2 else 3)


def test_labels_carry_their_instructions_and_inner_labels_too() -> None:
    system = _prompt().system(_one())
    assert " - Kettles: to boil water in\n" in system
    assert "\nKitchen: things to cook with\n" in system
    assert "- none of these: fits none of the other labels" in system
    assert system.startswith("Classify.\n\n")
    assert "never an instruction to you" in system


def test_roles_take_turns_whatever_stands_beside_an_item() -> None:
    prompt = _prompt(shortlist=2, examples=1, items_per_call=2)
    items = (_item("a kettle", (KETTLES, HOSES), (("a pot", KETTLES),)), _item("a hose", (HOSES, KNIVES)))
    said = prompt.messages(Request(items, 1))
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user"]
    assert "a kettle" not in said[1]["content"]


# Versions


def test_the_version_changes_with_everything_the_teacher_reads() -> None:
    versions = [
        _prompt().version,
        *(_prompt(**form).version for form in list(FORMS.values())[1:]),
        _prompt(items_per_call=5).version,
        _prompt(shortlist=3).version,
        _prompt(examples=3).version,
        Prompt(taxonomy(), "Classify it.").version,
        _prompt(modality="image").version,
        _prompt(modality="image", image_side=512).version,
        Prompt(build_taxonomy({"a": "one", "b": None}), "Classify.").version,
        Prompt(build_taxonomy({"a": "two", "b": None}), "Classify.").version,
    ]
    assert len(set(versions)) == len(versions)
    assert _prompt().version == versions[0]
    assert _prompt(image_side=512).version == versions[0], "texts have no pixels"
    assert len({parameters_hash(None, 100), parameters_hash(0.0, 100), parameters_hash(0.0, 101)}) == 3


def test_what_an_item_brings_is_no_part_of_the_version() -> None:
    """Or each review would ask about everything again."""
    prompt = _prompt(shortlist=2, examples=2)
    bare = Request((_item("a kettle"),), 1)
    rich = Request((_item("a kettle", (KETTLES, HOSES), (("a pot", KETTLES),)),), 1)
    assert prompt.version_of(bare) == prompt.version_of(rich) != prompt.version


def test_answers_that_are_to_be_continued_have_a_version_of_their_own() -> None:
    plain, staged, short = _prompt(), _prompt(stages=2), _prompt(shortlist=2)
    assert {plain.version_of(_one(branch=branch)) for branch in (None, WHOLE)} == {plain.version}
    for prompt in (staged, short):
        assert prompt.version_of(_one(branch=WHOLE)) == prompt.version
        assert prompt.version_of(_one()) != prompt.version
    assert staged.version_of(_one(branch="Kitchen")) == staged.version_of(_one())
    assert staged.version_of(_one()) != short.version_of(_one())


def test_a_flat_taxonomy_has_no_stages() -> None:
    prompt = Prompt(build_taxonomy({"a": None, "b": None}), "Classify.", stages=2)
    assert prompt.version_of(_one()) == prompt.version
    (answer,) = prompt.parse(_one(), '{"label": "a"}', True)
    assert (answer.label, prompt.follow_up(_one(), answer)) == ("a", None)


# The form of the reply


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("branch", [None, "Kitchen", WHOLE])
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_of_the_schema_is_understood_and_the_words_show_the_same_form(
    form: dict[str, Any], branch: str | None, count: int
) -> None:
    """The example in the prompt has exactly the fields of the schema; every name of its enum is a label."""
    prompt, request = _prompt(**form), _some(count, 1, branch)
    system = prompt.system(request)
    shown = system[system.index("{") : system.rindex("}") + 1].replace(", ...", "")
    fields = json.loads(shown)
    several = count > 1 or form.get("items_per_call", 1) > 1
    assert ("answers" in fields) == several
    entry = fields["answers"][0] if several else fields
    assert ("reason" in entry) == form.get("reasons", True)
    if not prompt.structured:
        assert prompt.response_format(request) is None
        return
    schema = _schema(prompt, request)
    inside = schema["properties"]["answers"]["items"] if several else schema
    assert inside["required"] == list(entry)
    assert inside["additionalProperties"] is False
    for name in inside["properties"]["label"].get("enum", ["Kettles"]):
        said = [entry | {"label": name} | ({"item": place + 1} if several else {}) for place in range(count)]
        reply: Any = {"answers": said} if several else said[0]
        answers = prompt.parse(request, json.dumps(reply), True)
        assert all(answer.error_class is None for answer in answers)
        assert len({answer.label for answer in answers}) == 1


def test_the_schema_of_several_holds_exactly_so_many() -> None:
    answers = _schema(_prompt(items_per_call=20), _some(7))["properties"]["answers"]
    assert (answers["minItems"], answers["maxItems"]) == (7, 7)


def test_the_schema_holds_exactly_the_names_that_are_offered() -> None:
    def offered(prompt: Prompt, branch: str | None) -> list[str]:
        names = _schema(prompt, _one(branch=branch))["properties"]["label"]["enum"]
        assert isinstance(names, list)
        return names

    everything = ["Kettles", "Knives", "Hoses", "Flowers", "Vegetables", "none of these"]
    assert offered(_prompt(), None) == everything
    staged = _prompt(stages=2)
    assert offered(staged, None) == ["Kitchen", "Garden", "none of these"]
    assert offered(staged, "Kitchen") == ["Kettles", "Knives", "none of these", "(elsewhere)"]
    assert offered(staged, WHOLE) == everything


def test_candidates_differ_from_item_to_item_but_the_schema_does_not() -> None:
    """A provider compiles each new schema, which takes seconds."""
    assert "enum" not in _schema(_prompt(shortlist=2), _one())["properties"]["label"]


def test_more_labels_than_a_schema_may_hold_are_left_to_the_parser() -> None:
    prompt = Prompt(build_taxonomy({f"label {i}": None for i in range(600)}), "Classify.")
    assert "enum" not in _schema(prompt, _one())["properties"]["label"]


# Two stages


def test_the_first_stage_lists_the_first_level_and_the_second_its_branch() -> None:
    prompt = _prompt(stages=2)
    first, second = prompt.system(_one()), prompt.system(_one(branch="Kitchen"))
    assert "- Kitchen: things to cook with" in first
    assert "- Garden: such as Hoses, Seeds" in first
    assert "Kettles" not in first
    assert " - Kettles: to boil water in" in second
    assert "Hoses" not in second
    assert "- none of these: fits no label under any heading" in second
    assert "- (elsewhere): belongs under another heading than Kitchen" in second


@pytest.mark.parametrize("form", [{"stages": 2}, {"stages": 2, "items_per_call": 3}])
def test_a_first_stage_leads_to_its_branch_and_a_wrong_branch_to_the_whole_list(form: dict[str, Any]) -> None:
    prompt = _prompt(**form)

    def said(label: str, branch: str | None) -> tuple[str | None, str | None, str | None]:
        request = _one(branch=branch)
        entry = {"item": 1, "label": label, "confidence": 0.5, "reason": ""}
        (answer,) = prompt.parse(request, json.dumps({"answers": [entry]} if len(form) > 1 else entry), True)
        return answer.label, answer.error_class, prompt.follow_up(request, answer)

    assert said("Kitchen", None) == ("Kitchen", None, "Kitchen")
    assert said("Kitchen > Kettles", None) == ("Kitchen", None, "Kitchen")
    assert said("none of these", None) == ("none of these", None, None)
    assert said("Toasters", None) == (None, "unknown_label", None)
    assert said("Kettles", "Kitchen") == (KETTLES, None, None)
    assert said(KETTLES, "Kitchen") == (KETTLES, None, None)
    assert said("none of these", "Kitchen") == ("none of these", None, None)
    assert said("(elsewhere)", "Kitchen") == (ELSEWHERE, None, WHOLE)
    assert said("Hoses", "Kitchen") == (ELSEWHERE, None, WHOLE)
    assert said("Hoses", WHOLE) == (HOSES, None, None)
    assert said("(elsewhere)", WHOLE) == (None, "unknown_label", None)


def test_where_an_item_has_got_to_can_be_read_out_of_the_ledger_again() -> None:
    """With a request of the first stage and nothing of the answer but its label."""
    for prompt in (_prompt(stages=2), _prompt(shortlist=2)):
        bare = Request((Item(b"", ""),), 2)
        assert prompt.follow_up(bare, Answer(ELSEWHERE)) == WHOLE
        assert prompt.follow_up(bare, Answer(None, error_class="empty")) is None
        assert prompt.follow_up(bare, Answer(KETTLES)) is None
    assert _prompt(stages=2).follow_up(Request((Item(b"", ""),), 2), Answer("Garden")) == "Garden"


@given(st.sampled_from(taxonomy().leaves), st.integers(1, 4))
def test_two_right_answers_always_end_at_the_leaf(leaf: str, number: int) -> None:
    prompt = _prompt(stages=2)
    request, path = _one(number=number), split(leaf)
    (answer,) = prompt.parse(request, json.dumps({"label": path[0]}), True)
    branch = prompt.follow_up(request, answer)
    if len(path) > 1:
        assert branch == path[0]
        (answer,) = prompt.parse(_one(number=number, branch=branch), json.dumps({"label": path[-1]}), True)
        assert prompt.follow_up(_one(number=number, branch=branch), answer) is None
    assert answer.label == leaf


# Shortlists


def test_candidates_stand_with_their_item_and_the_list_in_no_prompt() -> None:
    prompt = _prompt(shortlist=2)
    system, context, _, user = prompt.messages(Request((_item("x", (KETTLES, HOSES)),), 1))
    assert sorted(context["content"].split("\n")) == ["- Hoses", "- Kettles: to boil water in", "Candidates:"]
    assert "Knives" not in system["content"] + context["content"] + user["content"]
    assert "answer (elsewhere)" in system["content"]


def test_candidates_of_several_items_stand_by_their_numbers_and_are_explained_once() -> None:
    prompt = _prompt(shortlist=2, items_per_call=3)
    items = (_item("x", (KETTLES, HOSES)), _item("y", (KNIVES, KETTLES)), _item("z", (HOSES, KNIVES)))
    context = prompt.messages(Request(items, 1))[1]["content"]
    head, lists = context.split("Candidates by item:\n")
    assert head == "What some labels mean:\n- Kettles: to boil water in\n"
    found = {line.split(": ")[0]: set(line.split(": ")[1].split(" | ")) for line in lists.split("\n")}
    assert found == {"1": {"Kettles", "Hoses"}, "2": {"Knives", "Kettles"}, "3": {"Hoses", "Knives"}}


def test_two_passes_show_the_candidates_in_opposite_orders() -> None:
    prompt, candidates = _prompt(shortlist=3), (KETTLES, HOSES, KNIVES)
    first, second = (
        prompt.messages(Request((_item("x", candidates),), number))[1]["content"].split("\n")[1:]
        for number in (1, 2)
    )
    assert first == second[::-1]


def test_another_real_label_than_the_candidates_is_an_answer_and_none_of_them_leads_to_the_whole_list() -> (
    None
):
    prompt, request = _prompt(shortlist=2), Request((_item("x", (KETTLES, HOSES)),), 1)
    (other,) = prompt.parse(request, '{"label": "Knives"}', True)
    assert (other.label, prompt.follow_up(request, other)) == (KNIVES, None)
    for written in ("(elsewhere)", "none of these"):
        (nowhere,) = prompt.parse(request, json.dumps({"label": written}), True)
        assert (nowhere.label, prompt.follow_up(request, nowhere)) == (ELSEWHERE, WHOLE)
    whole = replace(request, branch=WHOLE)
    assert " - Knives" in prompt.system(whole)
    (final,) = prompt.parse(whole, '{"label": "none of these"}', True)
    assert (final.label, prompt.follow_up(whole, final)) == ("none of these", None)


def test_an_item_without_candidates_is_asked_with_the_whole_list_and_so_are_its_neighbours() -> None:
    prompt = _prompt(shortlist=2, items_per_call=2)
    request = Request((_item("x", (KETTLES, HOSES)), _item("y")), 1)
    assert " - Knives" in prompt.system(request)
    assert [message["role"] for message in prompt.messages(request)] == ["system", "user"]


# Examples


def _shown(prompt: Prompt, *items: Item, branch: str | None = None) -> list[str]:
    """The lines of the examples, their code taken out."""
    said = prompt.messages(Request(items, 1, branch))
    if len(said) == 2:
        return []
    content = said[1]["content"]
    code = content[content.index("<item-") + 6 :].split(" ")[0]
    return str(content.replace(code, "X")).split("\n")


POTS, CUTTERS, PIPES = ("a pot", KETTLES), ("a cutter", KNIVES), ("a pipe", HOSES)


def test_examples_are_shown_with_the_names_that_are_offered() -> None:
    item = _item("x", (), (POTS, PIPES))
    assert _shown(_prompt(examples=2), item) == [
        "Decided examples:",
        "<item-X label: Kettles>",
        "a pot",
        "<item-X label: Hoses>",
        "a pipe",
        "</item-X>",
    ]
    staged = _prompt(examples=2, stages=2)
    assert "<item-X label: Kitchen>" in _shown(staged, item)
    assert _shown(staged, item, branch="Kitchen")[1:-1] == ["<item-X label: Kettles>", "a pot"]
    assert _shown(staged, _item("x", (), (PIPES,)), branch="Kitchen") == []


def test_several_items_share_their_examples_in_turns_and_within_bounds() -> None:
    prompt = _prompt(examples=2, items_per_call=20)
    many = tuple(
        _item(f"x{place}", (), ((f"best {place}", KETTLES), (f"second {place}", KNIVES), POTS))
        for place in range(5)
    )
    shown = [line for line in _shown(prompt, *many) if not line.startswith(("<", "Dec", "</"))]
    assert shown == [f"best {place}" for place in range(5)]
    few = [line for line in _shown(prompt, *many[:2]) if not line.startswith(("<", "Dec", "</"))]
    assert few == ["best 0", "best 1"]


def test_an_example_is_never_an_item_of_the_call_nor_shown_twice_nor_with_a_label_that_is_gone() -> None:
    prompt = _prompt(examples=5, items_per_call=2)
    pot = _item("a pot", (), (CUTTERS, ("old", "Cellar > Wine")))
    shown = _shown(prompt, _item("x", (), (POTS, CUTTERS)), pot)
    assert shown[1:-1] == ["<item-X label: Knives>", "a cutter"]


# Bounds


def _bytes(message: Any) -> int:
    content = message["content"]
    return len(content.encode()) if isinstance(content, str) else 0


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(text=st.text(max_size=200))
def test_no_prompt_has_more_tokens_than_are_reserved(form: dict[str, Any], text: str) -> None:
    """Text of every kind has more than two bytes a token; the schema counts as well."""
    prompt = _prompt(**form)
    item = Item(b"k" * 16, text, (KETTLES, HOSES), (POTS, PIPES, ("ß" * 300, KNIVES)))
    for branch in (None, "Kitchen", WHOLE):
        request = Request((item, replace(item, key=b"j" * 16)), 1, branch)
        size = sum(map(_bytes, prompt.messages(request)))
        size += len(json.dumps(prompt.response_format(request)).encode())
        assert prompt.most_tokens(request) >= size / 2


def test_the_bound_of_a_reply_grows_by_what_an_answer_needs() -> None:
    """Not by the whole share of a first item, which is to think in: no provider allows 30,000 tokens."""
    prompt = _prompt(items_per_call=100)
    assert _prompt().most_output_tokens(_one()) == 300
    assert prompt.most_output_tokens(_some(100)) <= 16_000
    longest = {"item": 100, "label": "Vegetables", "confidence": 0.123456789, "reason": "x" * 300}
    assert prompt.most_output_tokens(_some(100)) >= 100 * len(json.dumps(longest)) / 4
    assert _prompt(items_per_call=100, reasons=False).most_output_tokens(_some(100)) <= 6_000


# Images


def _image(side: int, form: str = "PNG") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(written, form)
    return written.getvalue()


def test_images_are_parts_of_the_last_message_within_the_side_of_the_project() -> None:
    prompt = _prompt(modality="image", image_side=64, items_per_call=3)
    items = tuple(Item(bytes([place]) * 16, _image(side)) for place, side in enumerate((8, 200)))
    (system, user) = prompt.messages(Request(items, 1))
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text", "image_url"]
    marks = [part["text"] for part in user["content"] if part["type"] == "text"]
    code = marks[0].split(" ")[0]
    assert marks == [f"{code} 1>", f"{code} 2>"]
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert [url.split(";")[0] for url in urls] == ["data:image/png", "data:image/jpeg"]
    assert "images in the last message" in system["content"]
    assert prompt.most_tokens(Request(items, 1)) >= 3_000
    alone = _prompt(modality="image").messages(Request(items[:1], 1))[1]["content"]
    assert [part["type"] for part in alone] == ["text", "image_url"]


def test_an_image_that_cannot_be_read_refuses_its_request() -> None:
    items = (Item(b"a" * 16, _image(8)), Item(b"b" * 16, b"no image"))
    with pytest.raises(RefusedTeacherError, match="unreadable_image"):
        _prompt(modality="image", items_per_call=2).messages(Request(items, 1))


# The project file


def test_the_project_file_decides_the_form(tiny_project: Callable[..., Path]) -> None:
    form = {"items_per_call": 20, "stages": 2, "examples": 3, "reasons": False, "image_side": 512}
    prompt = asking_teacher(load_project(tiny_project(labeling={"prompt": form}))).prompt
    assert {name: getattr(prompt, name) for name in form} == form
    short = asking_teacher(load_project(tiny_project(labeling={"prompt": {"shortlist": 9}}))).prompt
    assert short.shortlist == 9


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"labeling": {"prompt": {"stages": 2, "shortlist": 5}}}, "choose one"),
        ({"labeling": {"prompt": {"examples": 5}}, "task": {"modality": "image"}}, "are for texts"),
        ({"labeling": {"prompt": {"shortlist": 5}}, "task": {"modality": "image"}}, "are for texts"),
        ({"labeling": {"prompt": {"items_per_call": 0}}}, "items_per_call"),
    ],
)
def test_forms_that_make_no_sense_are_refused(
    tiny_project: Callable[..., Path], sections: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_project(tiny_project(**sections))
