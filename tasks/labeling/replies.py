"""Reads a teacher's reply strictly: a label with its confidence and reason for each item, or a named error.

Never guesses: only letter case and spacing are forgiven, and of several answers each belongs to the item whose
number it bears. Knows nothing of how the reply was obtained.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

MAX_CHARACTERS = 20_000
CHARACTERS_AN_ITEM = 2_000  # more of a reply about several
MAX_REASON = 500
# Another try may well succeed; every other error class is the teacher's answer and is kept as it is.
UNPARSEABLE = frozenset(
    {"empty", "not_json", "html", "truncated", "no_label", "missing", "repeated", "misnumbered"}
)

_FENCE = re.compile(r"\A```[a-zA-Z]*\s*\n(.*?)\n?\s*```\Z", re.DOTALL)
_OPENING = re.compile(r'\A(?:```[a-zA-Z]*\s*)?(?:\{\s*"answers"\s*:\s*)?\[\s*')
_COMMA = re.compile(r"\s*,\s*")
_BETWEEN = re.compile(r"\s*(?:[|;,\n]| or | and )\s*")


@dataclass(frozen=True)
class Answer:
    """What a reply says about one item: either `label` is one of those asked for, or `error_class` says why not."""

    label: str | None
    confidence: float | None = None
    reason: str | None = None
    error_class: str | None = None


class Labels(Protocol):
    """The labels that an answer may name: a taxonomy, or a part of one."""

    @property
    def resolve(self) -> Callable[[str], str | None]:
        """The label that a name means, or None."""


class _Twice(list[Any]):
    """The values of a field that was written more than once."""


def most_characters(items: int) -> int:
    """So long may a reply about so many items be to be read at all."""
    return MAX_CHARACTERS + CHARACTERS_AN_ITEM * items


def parse_reply(text: str | None, labels: Labels, finished: bool = True) -> Answer:
    """The answer in a reply about one item.

    Args:
        text: what the teacher wrote.
        labels: the labels there are.
        finished: False when the provider says that it cut the reply off.

    Returns:
        A label, or one of the error classes empty, html, truncated, not_json, no_label, two_labels,
        unknown_label, too_long.
    """
    stripped, error_class = _bare(text, finished, MAX_CHARACTERS)
    if error_class is not None:
        return Answer(None, error_class=error_class)
    try:
        said = json.loads(stripped, object_pairs_hook=_fields)
    except (ValueError, RecursionError):
        # A reply that is a label and nothing else leaves nothing to guess.
        if finished and (label := labels.resolve(stripped)) is not None:
            return Answer(label)
        return Answer(None, error_class=_broken(stripped, finished))
    return _answer(said, labels)


def parse_replies(text: str | None, labels: Labels, items: int, finished: bool = True) -> tuple[Answer, ...]:
    """The answers in a reply about several items, numbered from 1, in the order of the items.

    An answer belongs to the item whose number it bears, never to one by its place. Of an array that was cut off
    its whole answers count. A number that no item has means that the teacher counted other items than were
    asked about: then no answer can be trusted to be about its item.

    Args:
        text: what the teacher wrote.
        labels: the labels there are.
        items: how many were asked about.
        finished: False when the provider says that it cut the reply off.

    Returns:
        For each item a label, or an error class of `parse_reply`, or missing, repeated (answered twice), misnumbered.
    """
    stripped, error_class = _bare(text, finished, most_characters(items))
    if error_class is not None:
        return _none_of(items, error_class)
    try:
        entries, absent = _entries(json.loads(stripped, object_pairs_hook=_fields)), "missing"
        no_array = "no_label"
    except (ValueError, RecursionError):
        entries = _whole_entries(stripped)
        absent = no_array = _broken(stripped, finished)
    if entries is None:
        return (parse_reply(text, labels, finished),) if items == 1 else _none_of(items, no_array)
    numbered = [(number, entry) for entry in entries if (number := _number(entry)) is not None]
    if any(not 1 <= number <= items for number, _ in numbered):
        return _none_of(items, "misnumbered")
    found: dict[int, Answer] = {}
    for number, entry in numbered:
        known = number in found
        found[number] = Answer(None, error_class="repeated") if known else _answer(entry, labels)
    return tuple(found.get(number, Answer(None, error_class=absent)) for number in range(1, items + 1))


def _bare(text: str | None, finished: bool, most: int) -> tuple[str, str | None]:
    """The text without what stands around it, and an error class where there is nothing to read."""
    stripped = (text or "").strip()
    if not stripped:
        return "", "empty" if finished else "truncated"
    if len(stripped) > most:
        return "", "too_long"
    fenced = _FENCE.match(stripped)
    return (fenced.group(1).strip() if fenced else stripped), None


def _none_of(items: int, error_class: str) -> tuple[Answer, ...]:
    return (Answer(None, error_class=error_class),) * items


def _entries(said: Any) -> list[Any] | None:
    """The array of a reply, also where it stands alone; written twice, both. None where there is none."""
    array = said.get("answers") if isinstance(said, dict) else said
    if isinstance(array, _Twice):
        return list(chain.from_iterable(part for part in array if isinstance(part, list)))
    return array if isinstance(array, list) else None


def _whole_entries(text: str) -> list[Any] | None:
    """The values of an array that breaks off, up to the first that is not whole.

    What comes after a broken value is not looked at: it may be the inside of a string. None where there is no
    array, or where text follows its end: which of the two would be the answer?
    """
    opened = _OPENING.match(text)
    if opened is None:
        return None
    place, entries = opened.end(), []
    while True:
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        entries.append(value)
        if (comma := _COMMA.match(text, place)) is None:
            break
        place = comma.end()
    rest = text[place:].lstrip()
    return entries if not rest.startswith("]") or rest[1:].strip() in ("", "}") else None


def _number(entry: Any) -> int | None:
    number = entry.get("item") if isinstance(entry, dict) else None
    if isinstance(number, str) and number.strip().isascii() and number.strip().isdigit():
        return int(number.strip()[:9])
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _answer(said: Any, labels: Labels) -> Answer:
    if isinstance(said, list):
        return Answer(None, error_class="two_labels" if len(said) > 1 else "no_label")
    if isinstance(said, str):
        said = {"label": said}
    if not isinstance(said, dict):
        return Answer(None, error_class="no_label")
    confidence, reason = _confidence(said.get("confidence")), clean(said.get("reason"), MAX_REASON)
    label, error_class = _label(said.get("label"), labels)
    return Answer(label, confidence, reason, error_class)


def _label(written: Any, labels: Labels) -> tuple[str | None, str | None]:
    if isinstance(written, list):
        return None, "two_labels" if len(written) > 1 else "no_label"
    if not isinstance(written, str) or not written.strip():
        return None, "no_label"
    label = labels.resolve(written)
    if label is not None:
        return label, None
    named = {found for part in _BETWEEN.split(written) if (found := labels.resolve(part)) is not None}
    return None, "two_labels" if len(named) > 1 else "unknown_label"


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose repeated fields become a list, instead of the last one winning silently."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            before = fields[name]
            fields[name] = _Twice([*(before if isinstance(before, _Twice) else [before]), value])
        else:
            fields[name] = value
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_fields)


def _broken(text: str, finished: bool) -> str:
    if not finished:
        return "truncated"
    if text.startswith("<"):
        return "html"
    return "truncated" if text.startswith("{") and not text.endswith("}") else "not_json"


def _confidence(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and 0.0 <= number <= 1.0 else None


def clean(value: Any, most: int) -> str | None:
    """A text that every database can hold: no NUL, no lone surrogate, at most `most` characters."""
    if not isinstance(value, str) or not value:
        return None
    return value[:most].replace("\x00", "�").encode("utf-8", "replace").decode()
