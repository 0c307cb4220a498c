"""The compressed forms of a prompt cost a fifth of listing three levels of labels in every call, or less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.demo.catalogue import LEVELS, generate
from tasks.demo.vocabulary import NONE_OF_THESE, taxonomy_mapping
from tasks.embedding.encoders import EncoderSettings
from tasks.taxonomy import build_taxonomy
from tests.benchmarks.prompt_tokens import FORMS, characters, in_full_paths, used_by

COMPRESSED = ("5 items a call", "two stages", "two stages, 20 items a call", "shortlist of 15")


@pytest.mark.parametrize("form", [FORMS[name] for name in COMPRESSED], ids=COMPRESSED)
def test_a_compressed_form_costs_a_fifth_and_gives_the_same_answers(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    """On the embedded catalogue, tokens of prompts and replies together, as the simulated teacher counts them."""
    taxonomy = build_taxonomy(taxonomy_mapping(), LEVELS, other=NONE_OF_THESE)
    truth = generate(items=200, gold=0, traffic=0, drifted_traffic=0).items_truth
    answers = dict(zip(truth["name"], truth["label"], strict=True))
    folder = tmp_path / "home"
    folder.mkdir()
    used, _, right = used_by(form, taxonomy, answers, {}, EncoderSettings("hash:256"), characters, folder)
    whole = in_full_paths(taxonomy, answers, characters)
    assert right == 1.0
    assert (whole.input + whole.output) / (used.input + used.output) >= 5
