"""What the simulated teacher writes when it is asked for examples of a label instead of for a label.

It recombines recorded texts of that label, some of which come back as they are. That exercises whoever asks; it says
nothing of how well a real LLM writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from deployments.teacher_sim.answers import AnswerBook

EXACT_EVERY = 4
"""The first example of so many is a recorded text as it is."""

USUAL_COUNT = 5

_COUNT = re.compile(r"\bwrite (\d+)", re.IGNORECASE)
_LABEL = re.compile(r"\blabel: (.+)")
_BEFORE = ("", "please: ", "i am looking for ", "URGENT ", "as discussed, ", "thx for ")
_AFTER = ("", "", " asap", ", if possible", " (see above)", " pls", " - many thanks in advance")


@dataclass(frozen=True)
class Wanted:
    """So many examples of a label."""

    label: str
    count: int


def examples_wanted(user_text: str, system_text: str, schema: Mapping[str, Any]) -> Wanted | None:
    """What a request for examples asks for; None for every other request.

    Such a request has a reply with a list of texts under `examples`, by its schema or, without one, by its words;
    the label is the only one that the schema allows, or what follows `label:` in the user's message.
    """
    properties = schema.get("properties", {})
    listed = properties.get("examples", {})
    by_schema = listed.get("type") == "array" and listed.get("items", {}).get("type") == "string"
    if not by_schema and (schema or '"examples": [' not in system_text):
        return None
    allowed = properties.get("label", {}).get("enum") or []
    told = _LABEL.search(user_text)
    if len(allowed) != 1 and told is None:
        return None
    count = _COUNT.search(user_text)
    label = str(allowed[0]) if len(allowed) == 1 else told.group(1).strip() if told else ""
    return Wanted(label, int(count.group(1)) if count else USUAL_COUNT)


def write_examples(book: AnswerBook, wanted: Wanted, seed: int | None) -> list[str]:
    """Examples made of the recorded texts of the label; the same seed writes the same, another one others."""
    rng = Random(f"{seed or 0}:{wanted.label}")
    texts = [item.name for item in book if _means(item.answers[0], wanted.label)]
    if not texts:
        name = wanted.label.rpartition(" > ")[2].lower()
        texts = [f"{name} of the plain kind", f"{name} for every day", f"one more of the {name}"]
    return [
        rng.choice(texts) if number % EXACT_EVERY == 0 else _recombined(texts, rng)
        for number in range(wanted.count)
    ]


def _means(answer: str | None, label: str) -> bool:
    return answer is not None and (answer == label or label.endswith(f" > {answer}"))


def _recombined(texts: Sequence[str], rng: Random) -> str:
    """The beginning of one text and the end of another, sometimes short, sometimes with words around it."""
    first, last = rng.choice(texts).split(), rng.choice(texts).split()
    words = first[: max(1, len(first) // 2 + rng.randint(0, 1))] + last[len(last) // 2 :]
    if rng.random() < 0.25:
        words = words[: max(1, len(words) - 1)]
    if rng.random() < 0.5:
        words = [word.lower() for word in words]
    return f"{rng.choice(_BEFORE)}{' '.join(words)}{rng.choice(_AFTER)}"
