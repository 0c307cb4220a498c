"""How a chat-completions request is read: its messages, its images, and the form that it wants its reply in.

It refuses what makes no sense. It knows nothing of answers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class RefusedRequestError(Exception):
    """The request cannot be answered: `status` and an OpenAI-style `code` and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


def messages_of(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a request, at least one.

    Raises:
        RefusedRequestError: there are none, or it wants a stream.
    """
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


def content_of(message: Mapping[str, Any]) -> tuple[str, int]:
    """The text of a message and how many images it has."""
    parts = list(_parts(message))
    texts = [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
    return "\n".join(texts), sum(part.get("type") == "image_url" for part in parts)


def last_user_content(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[bytes]]:
    """The text and the images of the last message of a user.

    Raises:
        RefusedRequestError: there is none, or an image is no base64 data: URL.
    """
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
    return content_of(last)[0], images


def object_schema(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON schema that the reply shall keep to; empty where none is asked for.

    Raises:
        RefusedRequestError: the request speaks of a schema and has none.
    """
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


def array_property(schema: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The property to answer several items under, or None for a request about one item.

    Without a schema the wish for several answers can only be read off the prompt: it names `"answers"`.
    """
    for name, inside in schema.get("properties", {}).items():
        if isinstance(inside, dict) and inside.get("type") == "array":
            return str(name)
    if not schema and any('"answers"' in content_of(message)[0] for message in messages):
        return "answers"
    return None


def array_items(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The schema of what stands in the array of a property."""
    entry = schema.get("properties", {}).get(name, {}).get("items", {})
    if isinstance(entry, dict) and "$ref" in entry:
        entry = schema.get("$defs", {}).get(str(entry["$ref"]).rpartition("/")[2], {})
    return entry if isinstance(entry, dict) else {}
