"""Reads a teacher's reply strictly: a leaf of the taxonomy with its confidence and reason, or a named error.

Never guesses: only letter case and spacing are forgiven. Knows nothing of how the reply was obtained.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from tasks.taxonomy import Taxonomy

MAX_CHARACTERS = 20_000
MAX_REASON = 500
# Another try may well succeed; every other error class is the teacher's answer and is kept as it is.
UNPARSEABLE = frozenset({"empty", "not_json", "html", "truncated", "no_label"})

_FENCE = re.compile(r"\A```[a-zA-Z]*\s*\n(.*?)\n?\s*```\Z", re.DOTALL)
_BETWEEN = re.compile(r"\s*(?:[|;,\n]| or | and )\s*")


@dataclass(frozen=True)
class Answer:
    """What a reply says about one item: either `label` is a leaf, or `error_class` says why there is none."""

    label: str | None
    confidence: float | None = None
    reason: str | None = None
    error_class: str | None = None


class _Twice(list[Any]):
    """The values of a field that was written more than once."""


def parse_reply(text: str | None, taxonomy: Taxonomy, finished: bool = True) -> Answer:
    """The answer in a reply.

    Args:
        text: what the teacher wrote.
        taxonomy: the labels there are.
        finished: False when the provider says that it cut the reply off.

    Returns:
        A label, or one of the error classes empty, html, truncated, not_json, no_label, two_labels,
        unknown_label, too_long.
    """
    stripped = (text or "").strip()
    if not stripped:
        return Answer(None, error_class="empty" if finished else "truncated")
    if len(stripped) > MAX_CHARACTERS:
        return Answer(None, error_class="too_long")
    if fenced := _FENCE.match(stripped):
        stripped = fenced.group(1).strip()
    try:
        said = json.loads(stripped, object_pairs_hook=_fields)
    except (ValueError, RecursionError):
        # A reply that is a label and nothing else leaves nothing to guess.
        if finished and (label := taxonomy.resolve(stripped)) is not None:
            return Answer(label)
        return Answer(None, error_class=_broken(stripped, finished))
    return _answer(said, taxonomy)


def _answer(said: Any, taxonomy: Taxonomy) -> Answer:
    if isinstance(said, list):
        return Answer(None, error_class="two_labels" if len(said) > 1 else "no_label")
    if isinstance(said, str):
        said = {"label": said}
    if not isinstance(said, dict):
        return Answer(None, error_class="no_label")
    confidence, reason = _confidence(said.get("confidence")), clean(said.get("reason"), MAX_REASON)
    label, error_class = _label(said.get("label"), taxonomy)
    return Answer(label, confidence, reason, error_class)


def _label(written: Any, taxonomy: Taxonomy) -> tuple[str | None, str | None]:
    if isinstance(written, list):
        return None, "two_labels" if len(written) > 1 else "no_label"
    if not isinstance(written, str) or not written.strip():
        return None, "no_label"
    label = taxonomy.resolve(written)
    if label is not None:
        return label, None
    named = {found for part in _BETWEEN.split(written) if (found := taxonomy.resolve(part)) is not None}
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
