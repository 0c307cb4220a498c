"""The simulated teacher over real HTTP: what it finds, what it says, what it charges."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from deployments.teacher_sim import TeacherServer

ANSWERS: dict[str | bytes, list[str]] = {
    "red kettle 2 l": ["Home > Kettles", "Home > Pots"],
    "kettle": ["Home > Kettles"],
    "Smartwatch": ["Watches"],
    "smart watch strap": ["Nonsense"],
    'say "hi" ünal\\mug': ["Home > Mugs"],
    b"\x89PNG one": ["one", "seven"],
}
LABELS = ["Home > Kettles", "Home > Pots", "Electronics > Watches", "Fashion > Straps"]


@pytest.fixture
def server() -> Iterator[TeacherServer]:
    with TeacherServer(ANSWERS) as running:
        yield running


def ask(server: TeacherServer, content: Any, **more: Any) -> httpx.Response:
    body = {"model": "m-1", "messages": [{"role": "user", "content": content}], **more}
    return httpx.post(f"{server.base_url}/chat/completions", json=body)


def said(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer = json.loads(response.json()["choices"][0]["message"]["content"])
    assert isinstance(answer, dict)
    return answer


def one_label(
    labels: list[str], properties: tuple[str, ...] = ("label", "confidence", "reason")
) -> dict[str, Any]:
    inside: dict[str, Any] = {name: {"type": "string"} for name in properties}
    inside["label"] = {"type": "string", "enum": labels}
    schema = {"type": "object", "properties": inside, "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def many_labels(labels: list[str], **bounds: int) -> dict[str, Any]:
    entry = one_label(labels, ("item", "label", "confidence", "reason"))["json_schema"]["schema"]
    schema = {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": {"$ref": "#/$defs/Entry"}, **bounds}},
        "$defs": {"Entry": entry},
    }
    return {"type": "json_schema", "json_schema": {"name": "answers", "schema": schema}}


def test_the_longest_recorded_text_is_the_item(server: TeacherServer) -> None:
    assert said(ask(server, "Classify: red kettle 2 l please"))["label"] == "Home > Kettles"
    assert said(ask(server, "kettle or red  kettle\n2\tl?", seed=2))["label"] == "Home > Pots"


def test_only_the_last_user_message_counts(server: TeacherServer) -> None:
    """Few-shot examples in earlier messages are not what is asked about."""
    messages = [
        {"role": "user", "content": "red kettle 2 l"},
        {"role": "assistant", "content": "Home > Kettles"},
        {"role": "user", "content": "Smartwatch"},
    ]
    assert said(ask(server, "", messages=messages))["label"] == "Watches"


@pytest.mark.parametrize(
    ("seed", "label"), [(None, "Home > Kettles"), (-3, "Home > Kettles"), (0, "Home > Kettles"),
                        (1, "Home > Kettles"), (2, "Home > Pots"), (9, "Home > Pots")]
)  # fmt: skip
def test_the_seed_tells_the_pass_and_the_last_column_repeats(
    server: TeacherServer, seed: int | None, label: str
) -> None:
    assert said(ask(server, "red kettle 2 l", seed=seed))["label"] == label


def test_an_unknown_text_is_a_404_with_an_openai_error_body_and_costs_nothing(server: TeacherServer) -> None:
    response = ask(server, "cupboard kettles")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "item_not_found"
    assert server.stats()["paid"] == 0
    assert server.stats()["by_status"] == {"404": 1}


def test_texts_agree_after_unicode_and_white_space_are_normalised() -> None:
    with TeacherServer({"Cafe\u0301  crème\u00a0\n1 l": "Coffee"}) as server:
        assert said(ask(server, "item: Café crème 1 l."))["label"] == "Coffee"


@pytest.mark.parametrize("fence", [json.dumps, lambda t: json.dumps(t, ensure_ascii=False),
                                   lambda t: t.replace('"', "&quot;")])  # fmt: skip
def test_an_item_is_found_when_the_prompt_escaped_it(server: TeacherServer, fence: Any) -> None:
    text = 'say "hi" ünal\\mug'
    assert said(ask(server, f"<item>{fence(text)}</item>"))["label"] == "Home > Mugs"


def test_an_image_is_found_by_the_hash_of_its_bytes(server: TeacherServer) -> None:
    def part(image: bytes) -> list[dict[str, Any]]:
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        return [{"type": "text", "text": "which digit?"}, {"type": "image_url", "image_url": {"url": url}}]

    response = ask(server, part(b"\x89PNG one"), seed=2)
    assert said(response)["label"] == "seven"
    assert response.json()["usage"]["prompt_tokens"] == 3 + 85
    assert ask(server, part(b"\x89PNG two")).status_code == 404


def test_a_bare_leaf_becomes_its_only_path_and_an_invented_label_stays(server: TeacherServer) -> None:
    form = one_label(LABELS)
    assert said(ask(server, "Smartwatch", response_format=form))["label"] == "Electronics > Watches"
    assert said(ask(server, "smart watch strap", response_format=form))["label"] == "Nonsense"
    doubled = one_label([*LABELS, "Toys > Watches"])
    assert said(ask(server, "Smartwatch", response_format=doubled))["label"] == "Watches"


def test_two_stage_prompts_get_the_part_of_the_path_they_offer(server: TeacherServer) -> None:
    first = one_label(["Home", "Electronics"])
    assert said(ask(server, "red kettle 2 l", response_format=first))["label"] == "Home"
    second = one_label(["Kettles", "Pots"])
    assert said(ask(server, "red kettle 2 l", response_format=second))["label"] == "Kettles"


def test_a_reply_has_only_the_properties_the_schema_names(server: TeacherServer) -> None:
    form = one_label(LABELS, ("label",))
    assert set(said(ask(server, "kettle", response_format=form))) == {"label"}
    assert set(said(ask(server, "kettle"))) == {"label", "confidence", "reason"}


def test_several_items_are_answered_in_order_without_overlap(server: TeacherServer) -> None:
    text = "1. Smartwatch\n2. red kettle 2 l\n3. kettle\n"
    answers = said(ask(server, text, response_format=many_labels(LABELS), seed=2))["answers"]
    assert [(a["item"], a["label"]) for a in answers] == [
        (1, "Electronics > Watches"),
        (2, "Home > Pots"),
        (3, "Home > Kettles"),
    ]
    assert server.stats()["items"] == 3
    assert server.stats()["paid"] == 1


def test_a_missing_one_of_several_items_is_refused_rather_than_shifting_the_numbers(
    server: TeacherServer,
) -> None:
    form = many_labels(LABELS, minItems=3, maxItems=3)
    assert ask(server, "1. Smartwatch 2. unheard of 3. kettle", response_format=form).status_code == 404


def test_words_of_the_instructions_do_not_count_as_items_when_the_schema_says_how_many(
    server: TeacherServer,
) -> None:
    form = many_labels(LABELS, minItems=2, maxItems=2)
    text = "Is it a kettle? 1. red kettle 2 l 2. Smartwatch"
    labels = [a["label"] for a in said(ask(server, text, response_format=form))["answers"]]
    assert labels == ["Home > Kettles", "Electronics > Watches"]


def test_recorded_confidence_is_passed_on_and_a_made_up_one_is_steady() -> None:
    with TeacherServer({"a": "x", "b": "y"}) as server:
        first = said(ask(server, "a"))["confidence"]
        assert 0.55 <= first <= 0.99
        assert said(ask(server, "a"))["confidence"] == first


def test_usage_counts_tokens_and_calls_a_repeated_system_message_cached(server: TeacherServer) -> None:
    messages = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "kettle"}]
    first = ask(server, "", messages=messages).json()["usage"]
    again = ask(server, "", messages=messages).json()["usage"]
    assert first["prompt_tokens"] == 100 + 2
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["prompt_tokens_details"]["cached_tokens"] == 100
    assert first["completion_tokens"] > 0
    assert first["total_tokens"] == first["prompt_tokens"] + first["completion_tokens"]


def test_the_openai_sdk_reads_it(server: TeacherServer) -> None:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["simulated-teacher"]
        done = client.chat.completions.create(
            model="some/model", messages=[{"role": "user", "content": "kettle"}], seed=1
        )
    assert done.model == "some/model"
    assert done.choices[0].finish_reason == "stop"
    assert json.loads(done.choices[0].message.content or "")["label"] == "Home > Kettles"
    assert done.id.startswith("chatcmpl-")


def test_paying_twice_for_one_pass_of_an_item_is_counted(server: TeacherServer) -> None:
    for seed in (1, 2, 1):
        ask(server, "kettle", seed=seed)
    stats = httpx.get(server.base_url.removesuffix("/v1") + "/stats").json()
    assert (stats["paid"], stats["items"], stats["paid_again"]) == (3, 1, 1)
    assert stats["by_status"] == {"200": 3}


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"messages": []}', b'{"messages": [{"role": "system", "content": "kettle"}]}',
             b'{"stream": true, "messages": [{"role": "user", "content": "kettle"}]}']
)  # fmt: skip
def test_senseless_requests_are_400(server: TeacherServer, body: bytes) -> None:
    response = httpx.post(f"{server.base_url}/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
