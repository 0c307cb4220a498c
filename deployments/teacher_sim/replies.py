"""What the simulated teacher says: from a chat-completions request to the body of a reply, without any HTTP.

It owns how a request is read (last user message, seed, reply schema) and how a reply is put together. It does
not know status codes' causes other than its own refusals, nor time.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from deployments.teacher_sim.answers import AnswerBook, Recorded
from deployments.teacher_sim.synthesis import examples_wanted, write_examples

SEPARATOR = " > "
TOKENS_PER_IMAGE = 85
CHARACTERS_PER_TOKEN = 4
# Neighbouring \u escapes are read together: two of them may be one character.
_JSON_ESCAPES = re.compile(r'(?:\\u[0-9a-fA-F]{4})+|\\["\\/bfnrt]')

# What stands before the first of several numbered items: <NAME 1>, on a line of its own.
_FIRST_MARK = re.compile(r"^<(\S+) 1>$", re.MULTILINE)


class RefusedRequestError(Exception):
    """The request cannot be answered: `status` and an OpenAI-style `code` and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


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
        messages = _messages(request)
        text, images = _last_user_content(messages)
        schema = _object_schema(request)
        seed = request.get("seed")
        seed = seed if isinstance(seed, int) else None
        system = "\n".join(_content(m)[0] for m in messages if m.get("role") == "system")
        wanted = examples_wanted(text, system, schema)
        many = None if wanted else _array_property(schema, messages)
        numbered = [] if wanted else self._numbered(text, images, schema, many)
        found = [item for _, item in numbered]
        if wanted:
            written = {"label": wanted.label, "examples": write_examples(self._book, wanted, seed)}
            content = json.dumps(written, ensure_ascii=False)
        elif many:
            entry = _array_items(schema, many)
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
            "usage": self._usage(messages, content),
        }
        return Reply(body, tuple(item.name for item in found))

    def _numbered(
        self, text: str, images: Sequence[bytes], schema: Mapping[str, Any], many: str | None
    ) -> list[tuple[int, Recorded]]:
        """The items with their numbers: those of their marks where the message has such, else 1, 2, ...

        With marks an unknown item among several shifts nobody's number.
        """
        first = _FIRST_MARK.search(text) if many and not images else None
        if first is None:
            return list(enumerate(self._find(text, images, schema, many), start=1))
        pieces = re.split(rf"^<{re.escape(first[1])} (\d+)>$", text, flags=re.MULTILINE)
        each = (
            (int(n), self._longest_in(piece)) for n, piece in zip(pieces[1::2], pieces[2::2], strict=True)
        )
        found = [(number, item) for number, item in each if item is not None]
        if not found or len(found) < schema.get("properties", {}).get(many, {}).get("minItems", 0):
            raise _not_found(len(found))
        return found

    def _longest_in(self, text: str) -> Recorded | None:
        each = [self._book.find_longest(written) for written in _spellings(text)]
        return max((item for item in each if item), key=lambda item: len(item.name), default=None)

    def _find(
        self, text: str, images: Sequence[bytes], schema: Mapping[str, Any], many: str | None
    ) -> list[Recorded]:
        if images:
            recorded = [self._book.find_image(image) for image in images]
            found = [item for item in recorded if item is not None]
            if len(found) < len(recorded):
                raise RefusedRequestError(404, "item_not_found", "an image of this request was not recorded")
            return found
        if not many:
            best = self._longest_in(text)
            if best is None:
                raise RefusedRequestError(
                    404, "item_not_found", "no recorded text stands in the last user message"
                )
            return [best]
        found = max((self._book.find_texts(written) for written in _spellings(text)), key=len)
        asked = schema.get("properties", {}).get(many, {})
        # Numbering answers by place is only right when no item is missing.
        if not found or len(found) < asked.get("minItems", 0):
            raise _not_found(len(found))
        return _longest(found, asked["maxItems"]) if "maxItems" in asked else found

    def _usage(self, messages: Sequence[Mapping[str, Any]], content: str) -> dict[str, Any]:
        prompt = cached = 0
        for message in messages:
            text, images = _content(message)
            tokens = _tokens(text) + TOKENS_PER_IMAGE * images
            prompt += tokens
            if message.get("role") == "system":
                if hash(text) in self._seen:
                    cached += tokens
                self._seen.add(hash(text))
        completion = _tokens(content)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def _not_found(found: int) -> RefusedRequestError:
    message = f"only {found} recorded texts stand in the last message"
    return RefusedRequestError(404, "item_not_found", message)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _messages(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages) or not messages:
        raise RefusedRequestError(
            400, "invalid_request_error", "messages must be a list of at least one message"
        )
    if request.get("stream"):
        raise RefusedRequestError(400, "unsupported_parameter", "the simulated teacher does not stream")
    return messages


def _parts(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        yield from (part for part in content if isinstance(part, dict))


def _content(message: Mapping[str, Any]) -> tuple[str, int]:
    """The text of a message and how many images it has."""
    parts = list(_parts(message))
    texts = [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
    return "\n".join(texts), sum(part.get("type") == "image_url" for part in parts)


def _last_user_content(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[bytes]]:
    last = next((m for m in reversed(messages) if m.get("role") == "user"), None)
    if last is None:
        raise RefusedRequestError(400, "invalid_request_error", "there is no user message")
    images = []
    for part in _parts(last):
        if part.get("type") == "image_url":
            given = part.get("image_url")
            url = str(given.get("url", "") if isinstance(given, dict) else given)
            head, _, payload = url.partition(",")
            if not (head.startswith("data:") and head.endswith(";base64")):
                raise RefusedRequestError(400, "invalid_image_url", "images must be base64 data: URLs")
            try:
                images.append(base64.b64decode(payload, validate=True))
            except binascii.Error as error:
                raise RefusedRequestError(
                    400, "invalid_image_url", f"the image is not base64 ({error})"
                ) from error
    return _content(last)[0], images


def _spellings(text: str) -> Iterator[str]:
    """The message as it is, and as it reads when its items were escaped for JSON or for a markup fence."""
    yield text
    if "\\" in text:
        yield _JSON_ESCAPES.sub(lambda match: str(json.loads(f'"{match.group()}"')), text)
    if "&" in text:
        yield html.unescape(text)


def _longest(found: Sequence[Recorded], count: int) -> list[Recorded]:
    """At most `count`, the longest, in their order: short ones may be words of the instructions."""
    kept = sorted(range(len(found)), key=lambda i: (-len(found[i].name), -i))[:count]
    return [found[i] for i in sorted(kept)]


def _object_schema(request: Mapping[str, Any]) -> Mapping[str, Any]:
    form = request.get("response_format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return {}
    wrapped = form.get("json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if not isinstance(schema, dict):
        raise RefusedRequestError(
            400, "invalid_request_error", "response_format.json_schema.schema is missing"
        )
    return schema


def _array_property(schema: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The property to answer several items under, or None for a request about one item.

    Without a schema the wish for several answers can only be read off the prompt: it names `"answers"`.
    """
    for name, inside in schema.get("properties", {}).items():
        if isinstance(inside, dict) and inside.get("type") == "array":
            return str(name)
    if not schema and any('"answers"' in _content(message)[0] for message in messages):
        return "answers"
    return None


def _array_items(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entry = schema.get("properties", {}).get(name, {}).get("items", {})
    if isinstance(entry, dict) and "$ref" in entry:
        entry = schema.get("$defs", {}).get(str(entry["$ref"]).rpartition("/")[2], {})
    return entry if isinstance(entry, dict) else {}


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
