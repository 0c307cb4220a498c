"""What the simulated teacher says: from a chat-completions request to the body of a reply, without any HTTP.

It owns how a reply is put together and counted. How a request is read and which items it is about is the business of
its neighbours; time and status codes it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deployments.teacher_sim.answers import AnswerBook, Recorded
from deployments.teacher_sim.finding import numbered_items
from deployments.teacher_sim.requests import RefusedRequestError as RefusedRequestError
from deployments.teacher_sim.requests import (
    array_items,
    array_property,
    content_of,
    last_user_content,
    messages_of,
    object_schema,
)
from deployments.teacher_sim.synthesis import examples_wanted, write_examples

SEPARATOR = " > "
TOKENS_PER_IMAGE = 85
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Reply:
    """One answered request: the completion's body and the items it was about."""

    body: dict[str, Any]
    items: tuple[str, ...]


class Scribe:
    """Answers chat-completions requests from an answer book; remembers the system messages it has seen."""

    def __init__(self, book: AnswerBook, default_model: str) -> None:
        self._book = book
        self._default_model = default_model
        self._seen: set[int] = set()

    def reply(self, request: Mapping[str, Any], number: int, created: int) -> Reply:
        """The reply to one request.

        Args:
            request: the decoded body of a chat-completions request.
            number: the request's number, which makes its id.
            created: seconds since 1970 to put into the reply.

        Raises:
            RefusedRequestError: 404 for a text or image that was not recorded, 400 for a request that makes
                no sense.
        """
        messages = messages_of(request)
        text, images = last_user_content(messages)
        schema = object_schema(request)
        seed = request.get("seed")
        seed = seed if isinstance(seed, int) else None
        system = "\n".join(content_of(m)[0] for m in messages if m.get("role") == "system")
        wanted = examples_wanted(text, system, schema)
        many = None if wanted else array_property(schema, messages)
        numbered = [] if wanted else numbered_items(self._book, text, images, schema, many)
        found = [item for _, item in numbered]
        if wanted:
            written = {"label": wanted.label, "examples": write_examples(self._book, wanted, seed)}
            content = json.dumps(written, ensure_ascii=False)
        elif many:
            entry = array_items(schema, many)
            answers = [_answer(item, seed, entry, number=i) for i, item in numbered]
            content = json.dumps({many: answers}, ensure_ascii=False)
        else:
            content = json.dumps(_answer(found[0], seed, schema), ensure_ascii=False)
        body = {
            "id": f"chatcmpl-sim-{number:012d}",
            "object": "chat.completion",
            "created": created,
            "model": request.get("model") or self._default_model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": self._usage(messages, schema, content),
        }
        return Reply(body, tuple(item.name for item in found))

    def _usage(
        self, messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any], content: str
    ) -> dict[str, Any]:
        """Token counts; the schema is counted, and cached, as a prefix of the system message.

        That is what OpenAI does (platform.openai.com/docs/guides/prompt-caching, structured outputs).
        """
        prompt = cached = 0
        before = json.dumps(schema, ensure_ascii=False) if schema else ""
        for message in messages:
            text, images = content_of(message)
            if message.get("role") == "system":
                text, before = before + text, ""
            tokens = _tokens(text) + TOKENS_PER_IMAGE * images
            prompt += tokens
            if message.get("role") == "system":
                if hash(text) in self._seen:
                    cached += tokens
                self._seen.add(hash(text))
        prompt += _tokens(before)  # without a system message
        completion = _tokens(content)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _answer(
    item: Recorded, seed: int | None, schema: Mapping[str, Any], number: int | None = None
) -> dict[str, Any]:
    """One answer; where the schema names properties it has only those, as constrained decoding would."""
    properties = schema.get("properties", {})
    label_schema = properties.get("label", {})
    allowed = label_schema.get("enum") if isinstance(label_schema, dict) else None
    label = item.answer(seed)
    if label is not None and isinstance(allowed, list):
        label = as_enumerated(label, tuple(allowed))
    answer: dict[str, Any] = {
        "item": number,
        "label": label,
        "confidence": item.confidence(seed),
        "reason": f"it reads like {(label or 'nothing known').rpartition(SEPARATOR)[2]}",
    }
    if number is None:
        del answer["item"]
    return {key: value for key, value in answer.items() if not properties or key in properties}


def as_enumerated(label: str, allowed: tuple[str, ...]) -> str:
    """The one of the allowed labels that a recorded label means, else the recorded label as it is.

    A bare leaf means the path that ends in it, when only one does. A full path means its own beginning where
    only upper levels are offered, or its own end where only one branch's names are (two-stage prompts).
    """
    whole, by_tail = _tails(allowed)
    if label in whole:
        return label
    if label in by_tail:
        return by_tail[label] or label
    path = label.split(SEPARATOR)
    for cut in range(len(path) - 1, 0, -1):
        for shorter in (SEPARATOR.join(path[:cut]), SEPARATOR.join(path[-cut:])):
            if shorter in whole:
                return shorter
    return label


@lru_cache(maxsize=64)
def _tails(allowed: tuple[str, ...]) -> tuple[frozenset[str], dict[str, str | None]]:
    """The allowed labels, and every proper tail of theirs to its only label (None where several share it)."""
    tails: dict[str, str | None] = {}
    for label in allowed:
        path = str(label).split(SEPARATOR)
        for start in range(1, len(path)):
            tail = SEPARATOR.join(path[start:])
            tails[tail] = None if tail in tails else label
    return frozenset(allowed), tails
