"""Which recorded items a request is about, and under which numbers.

The longest recorded text in a message is its item, however the message is escaped. It knows nothing of replies.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployments.teacher_sim.answers import AnswerBook, Recorded
from deployments.teacher_sim.requests import RefusedRequestError

# Neighbouring \u escapes are read together: two of them may be one character.
_JSON_ESCAPES = re.compile(r'(?:\\u[0-9a-fA-F]{4})+|\\["\\/bfnrt]')

# What stands before the first of several numbered items: <NAME 1>, on a line of its own.
_FIRST_MARK = re.compile(r"^<(\S+) 1>$", re.MULTILINE)


def numbered_items(
    book: AnswerBook, text: str, images: Sequence[bytes], schema: Mapping[str, Any], many: str | None
) -> list[tuple[int, Recorded]]:
    """The items with their numbers: those of their marks where the message has such, else 1, 2, ...

    With marks an unknown item among several shifts nobody's number.
    """
    first = _FIRST_MARK.search(text) if many and not images else None
    if first is None:
        return list(enumerate(_find(book, text, images, schema, many), start=1))
    pieces = re.split(rf"^<{re.escape(first[1])} (\d+)>$", text, flags=re.MULTILINE)
    each = ((int(n), _longest_in(book, piece)) for n, piece in zip(pieces[1::2], pieces[2::2], strict=True))
    found = [(number, item) for number, item in each if item is not None]
    if not found or len(found) < schema.get("properties", {}).get(many, {}).get("minItems", 0):
        raise _not_found(len(found))
    return found


def _longest_in(book: AnswerBook, text: str) -> Recorded | None:
    each = [book.find_longest(written) for written in _spellings(text)]
    return max((item for item in each if item), key=lambda item: len(item.name), default=None)


def _find(
    book: AnswerBook, text: str, images: Sequence[bytes], schema: Mapping[str, Any], many: str | None
) -> list[Recorded]:
    if images:
        recorded = [book.find_image(image) for image in images]
        found = [item for item in recorded if item is not None]
        if len(found) < len(recorded):
            raise RefusedRequestError(404, "item_not_found", "an image of this request was not recorded")
        return found
    if not many:
        best = _longest_in(book, text)
        if best is None:
            raise RefusedRequestError(
                404, "item_not_found", "no recorded text stands in the last user message"
            )
        return [best]
    found = max((book.find_texts(written) for written in _spellings(text)), key=len)
    asked = schema.get("properties", {}).get(many, {})
    # Numbering answers by place is only right when no item is missing.
    if not found or len(found) < asked.get("minItems", 0):
        raise _not_found(len(found))
    return _longest(found, asked["maxItems"]) if "maxItems" in asked else found


def _not_found(found: int) -> RefusedRequestError:
    message = f"only {found} recorded texts stand in the last message"
    return RefusedRequestError(404, "item_not_found", message)


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
