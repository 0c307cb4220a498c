"""A reply is a leaf of the taxonomy or a named error, whatever the teacher writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labeling.remedies import remedy
from tasks.labeling.replies import (
    CHARACTERS_AN_ITEM,
    MAX_CHARACTERS,
    UNPARSEABLE,
    parse_replies,
    parse_reply,
)
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

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


def _several(text: str | None, items: int = 3, finished: bool = True) -> list[str | None]:
    return [answer.label or answer.error_class for answer in parse_replies(text, TAXONOMY, items, finished)]


def _entry(number: object, label: str = "Kettles") -> str:
    return json.dumps({"item": number, "label": label, "confidence": 0.5, "reason": 'a "quoted" [one], {so}'})


def _array(*entries: str) -> str:
    return '{"answers": [' + ", ".join(entries) + "]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_array(_entry(3, "Hoses"), _entry(1), _entry(2, "Knives")), [KETTLES, KNIVES, HOSES]),
        (_array(_entry("2", "Knives"), _entry(1.0), _entry(3, "Hoses")), [KETTLES, KNIVES, HOSES]),
        (f"[{_entry(1)}, {_entry(2, 'Knives')}, {_entry(3, 'Hoses')}]", [KETTLES, KNIVES, HOSES]),
        (f"```json\n{_array(_entry(1), _entry(2), _entry(3))}\n```", [KETTLES, KETTLES, KETTLES]),
        (_array(_entry(1), _entry(3, "Hoses")), [KETTLES, "missing", HOSES]),
        (_array(_entry(1), _entry(2), _entry(2), _entry(3, "Hoses")), [KETTLES, "repeated", HOSES]),
        (_array(_entry(1), _entry(2), _entry(2), _entry(2), _entry(3)), [KETTLES, "repeated", KETTLES]),
        (_array(_entry(1), _entry(2, "Toasters"), _entry(3, "Hoses")), [KETTLES, "unknown_label", HOSES]),
        (_array(_entry(1), _entry(2, "Kettles or Knives"), _entry(3)), [KETTLES, "two_labels", KETTLES]),
        (_array(_entry(1), '{"item": 2}', _entry(3)), [KETTLES, "no_label", KETTLES]),
        (_array(_entry(1), '"Knives"', _entry(3)), [KETTLES, "missing", KETTLES]),
        (_array(_entry(1), _entry(None), _entry(3)), [KETTLES, "missing", KETTLES]),
        (_array(_entry(1), _entry(True), _entry(3)), [KETTLES, "missing", KETTLES]),
        (_array(_entry(1), _entry(2.5), _entry(3)), [KETTLES, "missing", KETTLES]),
        (
            _array(_entry(1), '{"item": 2, "item": 3, "label": "Hoses"}', _entry(3)),
            [KETTLES, "missing", KETTLES],
        ),
        (
            '{"answers": [' + _entry(1) + '], "answers": [' + _entry(1) + "]}",
            ["repeated", "missing", "missing"],
        ),
        (_array(), ["missing"] * 3),
        # Counted from nought, or one item too many: every number may be another item's.
        (_array(_entry(0), _entry(1), _entry(2)), ["misnumbered"] * 3),
        (_array(_entry(1), _entry(2), _entry(3), _entry(4)), ["misnumbered"] * 3),
        (_array(_entry(1), _entry(-2)), ["misnumbered"] * 3),
        (_array(_entry(10**30)), ["misnumbered"] * 3),
        # No array at all.
        ('{"label": "Kettles"}', ["no_label"] * 3),
        ("Kettles", ["not_json"] * 3),
        ('"Kettles"', ["no_label"] * 3),
        ('{"answers": {"1": "Kettles"}}', ["no_label"] * 3),
        ("", ["empty"] * 3),
        ("<html>busy</html>", ["html"] * 3),
        ("I think all three are kettles.", ["not_json"] * 3),
        ("[" * 10_000, ["not_json"] * 3),
        ("x" * (MAX_CHARACTERS + 3 * CHARACTERS_AN_ITEM + 1), ["too_long"] * 3),
    ],
)
def test_of_several_answers_each_belongs_to_the_item_whose_number_it_bears(
    text: str, expected: list[str]
) -> None:
    assert _several(text) == expected


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("head", ['{"answers": [', '{ "answers":\n[', "[", '```json\n{"answers": ['])
def test_an_array_that_was_cut_off_keeps_its_whole_answers(head: str, finished: bool) -> None:
    text = head + ", ".join((_entry(2, "Knives"), _entry(1), _entry(3)))
    for cut in range(len(head), len(text) + 1):
        answers = _several(text[:cut], finished=finished)
        whole = [len(head) + len(_entry(2, "Knives")), 0, len(text)]
        whole[1] = whole[0] + 2 + len(_entry(1))
        assert (answers[1] == KNIVES) == (cut >= whole[0])
        assert (answers[0] == KETTLES) == (cut >= whole[1])
        assert (answers[2] == KETTLES) == (cut >= whole[2])
        assert all(answer in (KETTLES, KNIVES, "truncated", "not_json") for answer in answers)
        if not finished:
            assert "not_json" not in answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What stands behind a broken answer may be the inside of a string: it is not looked at.
        (_array(_entry(1), '{"item": 2, "label" "Knives"}', _entry(3)), [KETTLES, "not_json", "not_json"]),
        ('{"answers": [' + _entry(1) + " " + _entry(2) + "]}", [KETTLES, "not_json", "not_json"]),
        ('{"answers": [' + _entry(1) + ", " + _entry(2) + ",]}", [KETTLES, KETTLES, "not_json"]),
        ('{"answers": [' + _entry(1) + ", " + _entry(2) + "]", [KETTLES, KETTLES, "truncated"]),
        # What follows the end of the array may contradict it.
        (_array(_entry(1)) + " I hope this helps", ["truncated"] * 3),
        (_array(_entry(1)) + _array(_entry(1, "Hoses")), ["not_json"] * 3),
        ("Here you are: " + _array(_entry(1)), ["not_json"] * 3),
    ],
)
def test_what_is_broken_in_the_middle_is_never_guessed(text: str, expected: list[str]) -> None:
    assert _several(text) == expected


def test_a_single_item_may_be_answered_without_a_number() -> None:
    """Asked again alone, an item leaves no doubt which one an answer is about."""
    assert _several('{"label": "Kettles"}', 1) == [KETTLES]
    assert _several("Kettles", 1) == [KETTLES]
    assert _several(_array(_entry(1)), 1) == [KETTLES]
    assert _several("Toasters", 1) == ["not_json"]
    assert _several(_array('{"label": "Kettles"}'), 1) == ["missing"]


numbers = st.integers(1, 4) | st.integers(-2, 9) | st.none() | st.sampled_from(["1", "x", True, 2.0])
entries = st.lists(
    st.tuples(numbers, st.sampled_from([*TAXONOMY.leaves, "Toasters", "Kettles or Knives", ""])), max_size=7
)


@given(entries)
def test_a_label_only_ever_goes_to_the_item_of_its_number(said: list[tuple[object, str]]) -> None:
    """And only when exactly one answer bears that number, and no number is one that no item has."""
    text = _array(*(_entry(number, label) for number, label in said))
    answers = parse_replies(text, TAXONOMY, 4)
    assert len(answers) == 4
    for place, answer in enumerate(answers, start=1):
        own = [label for number, label in said if number in (place, str(place)) and number is not True]
        if answer.label is not None:
            assert [TAXONOMY.resolve(label) for label in own] == [answer.label]
        else:
            assert answer.error_class is not None


@given(st.text(max_size=300) | _json.map(json.dumps), st.integers(1, 5), st.booleans())
def test_anything_said_about_several_is_a_leaf_or_a_named_error_for_each(
    text: str, items: int, finished: bool
) -> None:
    answers = parse_replies(text, TAXONOMY, items, finished)
    assert len(answers) == items
    for answer in answers:
        assert (answer.label in TAXONOMY.leaf_index) == (answer.error_class is None)


def test_every_failure_that_may_pass_has_a_remedy() -> None:
    for error_class in UNPARSEABLE | {"unknown_label", "two_labels", "too_long", "teacher_refused"}:
        assert remedy(error_class).endswith(".")
    assert "teacher.structured" in remedy("not_json")
    assert remedy("http_400") == ""
