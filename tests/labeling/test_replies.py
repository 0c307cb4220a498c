"""A reply is a leaf of the taxonomy or a named error, whatever the teacher writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.replies import MAX_CHARACTERS, parse_reply
from tests.labeling.scripted import KETTLES, taxonomy

TAXONOMY = taxonomy()


@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        ("", "empty"),
        (None, "empty"),
        ("  \n", "empty"),
        ("<!DOCTYPE html><p>busy</p>", "html"),
        ("I think it is a kettle.", "not_json"),
        ('{"label": "Kitchen > Ket', "truncated"),
        ('{"confidence": 1}', "no_label"),
        ('{"label": ""}', "no_label"),
        ('{"label": null}', "no_label"),
        ('{"label": 7}', "no_label"),
        ('{"label": {"name": "Kettles"}}', "no_label"),
        ("[]", "no_label"),
        ("3", "no_label"),
        ('{"label": ["Kettles", "Knives"]}', "two_labels"),
        ('[{"label": "Kettles"}, {"label": "Knives"}]', "two_labels"),
        ('{"label": "Kettles", "label": "Knives"}', "two_labels"),
        ('{"label": "Kettles or Knives"}', "two_labels"),
        ('{"label": "Kitchen > Kettles | Garden > Hoses"}', "two_labels"),
        ('{"label": "Toasters"}', "unknown_label"),
        ('{"label": "Kitchen"}', "unknown_label"),
        ('{"label": "Garden > Kettles"}', "unknown_label"),
        ('{"label": "Ketles"}', "unknown_label"),
        ("[" * 10_000, "not_json"),
        ('{"label": "' + "x" * MAX_CHARACTERS + '"}', "too_long"),
    ],
)
def test_every_fault_has_its_name(text: str | None, error_class: str) -> None:
    answer = parse_reply(text, TAXONOMY)
    assert (answer.label, answer.error_class) == (None, error_class)


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "Kitchen > Kettles", "confidence": 0.5, "reason": "boils"}',
        '{"label": "  kitchen  >  KETTLES "}',
        '{"label": "kettles"}',
        '```json\n{"label": "Kettles"}\n```',
        '"Kettles"',
        "Kitchen > Kettles",
    ],
)
def test_letter_case_spaces_and_a_fence_are_forgiven(text: str) -> None:
    assert parse_reply(text, TAXONOMY).label == KETTLES


def test_a_cut_reply_is_truncated_unless_it_is_whole_all_the_same() -> None:
    assert parse_reply('{"label": "Kettles", "reas', TAXONOMY, finished=False).error_class == "truncated"
    assert parse_reply("", TAXONOMY, finished=False).error_class == "truncated"
    assert parse_reply("Kettles", TAXONOMY, finished=False).error_class == "truncated"
    assert parse_reply('{"label": "Kettles"}', TAXONOMY, finished=False).label == KETTLES


@pytest.mark.parametrize(
    ("written", "confidence"),
    [
        ("0.25", 0.25),
        ("1", 1.0),
        ("95", None),
        ("-1", None),
        ("NaN", None),
        ("true", None),
        ('"high"', None),
        ("1" + "0" * 400, None),
    ],
)
def test_a_confidence_outside_zero_to_one_is_no_confidence(written: str, confidence: float | None) -> None:
    answer = parse_reply(f'{{"label": "Kettles", "confidence": {written}}}', TAXONOMY)
    assert (answer.label, answer.confidence) == (KETTLES, confidence)


def test_a_reason_is_bounded_and_fit_for_every_database() -> None:
    reason = parse_reply(
        '{"label": "Kettles", "reason": "a\\u0000b\\ud800' + "c" * 999 + '"}', TAXONOMY
    ).reason
    assert reason is not None
    assert len(reason) == 500
    assert "\x00" not in reason
    reason.encode()


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(TAXONOMY.leaves),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["label", "confidence", "reason", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.text() | _json.map(json.dumps), st.booleans())
def test_anything_is_either_a_leaf_or_a_named_error(text: str, finished: bool) -> None:
    answer = parse_reply(text, TAXONOMY, finished)
    assert (answer.label in TAXONOMY.leaf_index) == (answer.error_class is None)
    assert answer.label is None or answer.label in TAXONOMY.leaf_index
    assert answer.confidence is None or 0 <= answer.confidence <= 1


@given(st.sampled_from(TAXONOMY.leaves), st.floats(0, 1), st.text(max_size=50))
def test_a_proper_answer_survives_the_round_trip(label: str, confidence: float, reason: str) -> None:
    text = json.dumps({"label": label, "confidence": confidence, "reason": reason})
    answer = parse_reply(text, TAXONOMY)
    assert (answer.label, answer.confidence, answer.error_class) == (label, confidence, None)
