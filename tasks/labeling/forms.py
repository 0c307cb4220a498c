"""The form of a reply: the JSON schema for providers that enforce one, and the same in words for all others.

Knows no items and no messages; labels only as the names that may be written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

# An enum of a strict schema may hold 1,000 values, and beyond 250 of them 15,000 characters
# (platform.openai.com/docs/guides/structured-outputs); others allow fewer. Above these bounds the label is any
# string, and the parser alone keeps it inside the taxonomy.
ENUM_LABELS = 500
ENUM_CHARACTERS = 15_000

# What they mean stands in the prompt, and bounds only there: not every provider knows `minimum` and `maximum`.
_FIELDS = {"item": "integer", "label": "string", "confidence": "number", "reason": "string"}


def answer_form(names: Sequence[str] | None, reasons: bool) -> dict[str, Any]:
    """The `response_format` of an answer about one item.

    Args:
        names: what may be written as the label; None for any string.
        reasons: whether a reason is asked for.
    """
    return _strict("answer", _entry(names, reasons, numbered=False))


def answers_form(names: Sequence[str] | None, reasons: bool, items: int) -> dict[str, Any]:
    """The `response_format` of exactly so many answers, each with the number of its item."""
    entries = {
        "type": "array",
        "items": _entry(names, reasons, numbered=True),
        # Among what strict schemas may hold; where a provider does not enforce them, the parser counts.
        "minItems": items,
        "maxItems": items,
    }
    return _strict("answers", _object({"answers": entries}))


def words(reasons: bool, several: bool) -> str:
    """What the prompt says about the form of the reply."""
    reason = ', "reason": "..."' if reasons else ""
    entry = f'"label": "...", "confidence": 0.0{reason}}}'
    meaning = "confidence from 0 (guess) to 1 (certain)" + (", reason one short sentence" if reasons else "")
    if not several:
        return f"Answer with this JSON only: {{{entry}, {meaning}."
    return (
        "Answer with this JSON only, an entry for each item by its number: "
        f'{{"answers": [{{"item": 1, {entry}, ...]}}, {meaning}. Judge every item by itself.'
    )


def typical(names: Sequence[str], items: int | None, reason_characters: int) -> str:
    """A reply as long as one may be expected: about one item, or so many, with a reason where it has characters."""
    name = sorted(names, key=len)[len(names) // 2]
    answer: dict[str, Any] = {"label": name, "confidence": 0.95}
    if reason_characters:
        answer["reason"] = "." * reason_characters
    if items is None:
        return json.dumps(answer, ensure_ascii=False)
    answers = [{"item": number, **answer} for number in range(1, items + 1)]
    return json.dumps({"answers": answers}, ensure_ascii=False)


def _entry(names: Sequence[str] | None, reasons: bool, numbered: bool) -> dict[str, Any]:
    wanted = {"item": numbered, "label": True, "confidence": True, "reason": reasons}
    properties: dict[str, Any] = {name: {"type": _FIELDS[name]} for name in wanted if wanted[name]}
    if names is not None and len(names) <= ENUM_LABELS and sum(map(len, names)) <= ENUM_CHARACTERS:
        # In file order in every pass: a provider compiles the schema once, and it is no part of the text.
        properties["label"]["enum"] = list(names)
    return _object(properties)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _strict(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
