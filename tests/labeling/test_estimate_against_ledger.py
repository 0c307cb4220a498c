"""The estimate for a prompt that was never asked before, against what the run then took, form by form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from deployments.teacher_sim import TeacherServer
from tasks import project as settings
from tasks.demo.catalogue import LEVELS, generate
from tasks.demo.vocabulary import NONE_OF_THESE, taxonomy_mapping
from tasks.embedding.encoders import EncoderSettings
from tasks.labeling.asking import asking
from tasks.labeling.beside import bringing, examples_there_are
from tasks.labeling.estimate import estimate
from tasks.labeling.labelling import label_items, never_asked
from tasks.labeling.planning import legs_of
from tasks.records import text_key
from tasks.store import Store
from tasks.store.labels import append_labels
from tasks.taxonomy import build_taxonomy
from tests.labeling.scripted import NO_KEYS, put_texts

FORMS: dict[str, dict[str, Any]] = {
    "one item": {},
    "without reasons": {"reasons": False},
    "twenty items": {"items_per_call": 20},
    "two stages": {"stages": 2},
    "two stages, twenty items": {"stages": 2, "items_per_call": 20, "reasons": False},
    "shortlist": {"shortlist": 15, "reasons": False},
    "shortlist, twenty items": {"shortlist": 15, "items_per_call": 20, "reasons": False},
    "examples": {"examples": 5, "reasons": False},
    "examples, twenty items": {"examples": 5, "items_per_call": 20, "reasons": False},
}
ITEMS, DECIDED, MORE = 240, 100, 60
GOLD = pl.DataFrame(schema={"key": pl.Binary, "text": pl.String})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_tokens_of_every_form_are_met_within_a_tenth(
    sqlite_store: Store, tmp_path: Path, form: dict[str, Any]
) -> None:
    """On the embedded catalogue, over HTTP: calls, and tokens of prompts and replies together.

    From the text of the prompts before anything was asked; and from the ledger when a few more items come, where
    chance (a last group that is not full, a label that is not on its shortlist) decides little.
    """
    store, taxonomy = sqlite_store, build_taxonomy(taxonomy_mapping(), LEVELS, other=NONE_OF_THESE)
    truth = generate(items=ITEMS + DECIDED + MORE, gold=0, traffic=0, drifted_traffic=0).items_truth
    answers = dict(zip(truth["name"], truth["label"], strict=True))
    decided, more = list(answers.items())[ITEMS:-MORE], list(answers)[-MORE:]
    put_texts(store, list(answers)[:-MORE])
    append_labels(store, [(text_key(text), label, "human") for text, label in decided], 1)
    prompting = settings.Prompting(**form)
    with TeacherServer(answers) as server:
        model = settings.Model(base_url=server.base_url, model="simulated-teacher", concurrency=8)
        how = asking(taxonomy, "Classify the product by its name.", "text", model, None, prompting)
        shown = examples_there_are(store, taxonomy, GOLD, 30.0) if prompting.examples else []
        if prompting.shortlist or prompting.examples:
            encoder = EncoderSettings("hash:256")
            how = replace(
                how,
                bring=bringing(
                    store, taxonomy, encoder, tmp_path, GOLD, prompting.shortlist, prompting.examples, 30.0
                ),
            )
        for items, basis in ((ITEMS, "bytes a token"), (MORE, "calls of this prompt")):
            legs, found = legs_of(store, how, 1, never_asked(store, NO_KEYS), decided=shown)
            before = server.stats()["requests"]
            said = estimate(store, legs, found)
            assert server.stats()["requests"] == before
            assert basis in said.basis
            done = label_items(store, how, 1, None, NO_KEYS, 1)
            assert said.items == done.items == items
            ratios = {
                "calls": said.calls / done.calls,
                "prompt": said.prompt_tokens / done.tokens["prompt"],
                "completion": said.completion_tokens / done.tokens["completion"],
                "both": (said.prompt_tokens + said.completion_tokens)
                / (done.tokens["prompt"] + done.tokens["completion"]),
            }
            print(basis, {name: round(value, 3) for name, value in ratios.items()})
            assert ratios["both"] == pytest.approx(1.0, abs=0.1)
            if prompting.items_per_call > 1 or prompting.shortlist:
                break
            put_texts(store, more)
