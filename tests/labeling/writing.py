"""What the synthesis tests share: starved labels over a few real kettles, and a teacher that writes by script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from tasks.embedding.encoders import HashEncoder
from tasks.labeling.asking import Asking
from tasks.labeling.screening import Screen
from tasks.labeling.starved import Starved, starved_labels
from tasks.labeling.synthesis import write_examples
from tasks.records import Synthesized, text_key
from tasks.store import Store
from tests.labeling.scripted import KETTLES, KNIVES, Said, ScriptedTeacher, how, put_texts, taxonomy

REAL = {
    KETTLES: [
        f"{word} kettle for the stove" for word in ("red", "enamel", "tall", "camping", "copper", "tiny")
    ],
    KNIVES: [f"{word} knife of steel" for word in ("bread", "butter", "pocket", "steak", "carving", "fish")],
}
ENCODER = HashEncoder(256)
_SYLLABLES = ("ba", "ko", "mi", "tu", "re", "fla", "sno", "gri", "wem", "zud", "pyx", "qua")


def invented(number: int) -> str:
    """A text that resembles no other: three words of syllables, made of the number."""
    words = []
    for place in range(1, 4):
        drawn = (number * 7919 + 13) * 104_729**place
        words.append("".join(_SYLLABLES[(drawn // 12**n) % 12] for n in range(4)))
    return " ".join(words)


def wish_in(body: dict[str, Any]) -> tuple[str, int]:
    """The label and the number of examples that a request asks for."""
    first = body["messages"][-1]["content"].partition("\n")[0]
    said, _, label = first.partition(" examples of the label: ")
    return label, int(said.rpartition(" ")[2])


def writes(texts: list[str], label: str, **more: Any) -> Said:
    return Said(json.dumps({"label": label, "examples": texts}), **more)


Answering = Callable[[str, int, int], Said]


def writer(answer: Answering | None = None) -> ScriptedTeacher:
    """A teacher that answers `answer(label, count, number of the request)`; by default with all it was asked for."""

    def script(_item: str, _seed: int, _asked: int) -> Said:
        label, count = wish_in(teacher.bodies[-1])
        number = teacher.requests
        if answer is not None:
            return answer(label, count, number)
        return writes([invented(100 * number + n) for n in range(count)], label)

    teacher = ScriptedTeacher(script)
    return teacher


def real_items(store: Store) -> None:
    """The real kettles and knives, in the database."""
    put_texts(store, [text for texts in REAL.values() for text in texts])


def starved(below: int = 12, most_share: float = 0.5, **synthetic: int) -> list[Starved]:
    """Kettles and knives have six real examples each, other leaves none."""
    real = {label: len(texts) for label, texts in REAL.items()}
    written = {KETTLES: synthetic.get("kettles", 0), KNIVES: synthetic.get("knives", 0)}
    found = starved_labels(taxonomy(), real, written, below, most_share)
    return [label for label in found if label.real]


def screen_of(store: Store | None = None) -> Screen:
    """A screen over the real kettles and knives, and what was kept before."""
    from tasks.store.items import read_contents

    rows = [(text, label) for label, texts in REAL.items() for text in texts]
    known = [] if store is None else read_contents(store)["text"].to_list()
    texts = list(dict.fromkeys([*(text for text, _ in rows), *known]))
    labels = [dict(rows).get(text) for text in texts]
    keys = pl.DataFrame({"key": [text_key(text) for text in texts]}, schema={"key": pl.Binary})
    return Screen(keys, texts, ENCODER.encode(texts), labels, ENCODER.encode)


def write(
    store: Store,
    base_url: str,
    *,
    wanted: list[Starved] | None = None,
    asking: Asking | None = None,
    budget_usd: float | None = None,
    run_id: int = 1,
    structured: bool = True,
    **other: Any,
) -> Synthesized:
    """One run of `write_examples` against a server of the tests."""
    asking = asking or replace(how(base_url, **other), max_output_tokens=500)
    return write_examples(
        store,
        asking,
        taxonomy(),
        "Classify the product by its name.",
        structured,
        starved() if wanted is None else wanted,
        REAL,
        screen_of(store),
        budget_usd,
        run_id,
        seed=run_id,
    )
