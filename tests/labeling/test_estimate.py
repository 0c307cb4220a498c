"""What a run will take, said before it: the estimate against what the run then took, over real HTTP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.labeling.estimate import ENOUGH_CALLS, Leg, estimate, measured
from tasks.labeling.labelling import label_items
from tasks.labeling.planning import ASSUMED_DIFFERING, legs_of
from tasks.labeling.requests import Item, Request
from tasks.store import Store
from tests.labeling.scripted import (
    HOSES,
    KETTLES,
    KNIVES,
    NO_KEYS,
    Said,
    ScriptedTeacher,
    how,
    put_texts,
    says,
)

NOWHERE = "http://127.0.0.1:9/v1"  # the discard port: an estimate that called would fail


def _right(text: str, number: int, asked: int) -> Said:
    return says(KETTLES)


def test_nothing_is_asked_and_the_prompt_itself_is_counted(store: Store) -> None:
    """Without a call so far the numbers come from the text of the requests, and say so."""
    put_texts(store, [f"kettle {number}" for number in range(40)])
    asking = how(NOWHERE)
    legs, items = legs_of(store, asking, 2, NO_KEYS)
    found = estimate(store, legs, items, budget_usd=0.00001)
    sample = legs[0].sample[0]
    characters = sum(len(message["content"]) for message in asking.prompt.messages(sample))
    assert (found.items, found.calls) == (40, 80)
    assert found.prompt_tokens >= 80 * characters / 5
    assert found.completion_tokens > 0
    assert 0 < found.batch_usd < found.cost_usd < found.at_most_usd
    assert "no such call yet" in found.basis
    assert not found.fits
    assert replace(found, budget_usd=None).fits


def test_with_calls_in_the_ledger_the_estimate_is_what_the_run_then_takes(store: Store) -> None:
    """The same prompt and model has been asked before: calls, tokens and dollars are met to the cent."""
    put_texts(store, [f"kettle {number}" for number in range(ENOUGH_CALLS)])
    with ScriptedTeacher(_right) as teacher:
        asking = how(teacher.base_url)
        label_items(store, asking, 2, None, NO_KEYS, 1)
        put_texts(store, [f"another kettle {number}" for number in range(30)])
        legs, items = legs_of(store, asking, 2, NO_KEYS)
        found = estimate(store, legs, items)
        then = label_items(store, asking, 2, None, NO_KEYS, 2)
    assert (found.items, found.calls) == (30, then.calls) == (30, 60)
    assert found.cost_usd == pytest.approx(then.cost_usd)
    assert found.prompt_tokens == then.tokens["prompt"]
    assert found.cached_tokens == then.tokens["cached"]
    assert "calls of this prompt and model" in found.basis


def test_a_limit_and_what_is_answered_already_are_left_out(store: Store) -> None:
    """Only what is missing costs, and no more than the limit; an unlabelled nothing costs nothing."""
    put_texts(store, [f"kettle {number}" for number in range(30)])
    with ScriptedTeacher(_right) as teacher:
        asking = how(teacher.base_url)
        label_items(store, asking, 2, None, NO_KEYS, 1, limit=10)
        legs, items = legs_of(store, asking, 2, NO_KEYS, limit=5)
        assert estimate(store, legs, items).calls == 10
        label_items(store, asking, 2, None, NO_KEYS, 2)
    legs, items = legs_of(store, asking, 2, NO_KEYS)
    nothing = estimate(store, legs, items)
    assert (nothing.items, nothing.calls, nothing.cost_usd) == (0, 0, 0.0)
    assert nothing.basis == "nothing is left to ask"


def test_ties_are_counted_by_how_often_passes_have_differed(store: Store) -> None:
    """Before anything was asked a share is assumed; afterwards it is the measured one."""

    def differs(text: str, number: int, asked: int) -> Said:
        return says([KETTLES, KNIVES, HOSES][number - 1] if text.endswith("0") else KETTLES)

    put_texts(store, [f"kettle {number}" for number in range(40)])
    with ScriptedTeacher(differs) as teacher:
        asking = replace(how(teacher.base_url), third_vote=True)
        legs, _ = legs_of(store, asking, 2, NO_KEYS)
        assert legs[-1].stage == "tie_break"
        assert legs[-1].items == round(ASSUMED_DIFFERING * 40)
        label_items(store, asking, 2, None, NO_KEYS, 1)
        put_texts(store, [f"hose {number}" for number in range(100)])
        legs, _ = legs_of(store, asking, 2, NO_KEYS)
    assert legs[-1].items == 10  # a tenth of the forty differed


def test_caps_a_minute_make_it_longer(store: Store) -> None:
    """Sixty requests a minute are a second each, however many may run at once."""
    put_texts(store, [f"kettle {number}" for number in range(60)])
    asking = replace(how(NOWHERE), requests_per_minute=60)
    legs, items = legs_of(store, asking, 2, NO_KEYS)
    assert estimate(store, legs, items).minutes == pytest.approx(2.0)
    tokens = replace(asking, requests_per_minute=None, tokens_per_minute=100)
    capped = estimate(store, [replace(leg, how=tokens) for leg in legs], items)
    used = capped.prompt_tokens + capped.completion_tokens
    assert capped.minutes == pytest.approx(used / 100, rel=0.01)


def test_examples_that_do_not_exist_yet_are_named_and_those_there_are_are_counted(store: Store) -> None:
    """Nothing is encoded for it: decided items stand in for those that would be most like the item."""
    put_texts(store, [f"kettle {number}" for number in range(40)])
    asking = how(NOWHERE, examples=3)
    without, items = legs_of(store, asking, 1, NO_KEYS)
    none = estimate(store, without, items)
    assert "no decided item is there yet" in none.basis
    decided = [(f"a very long and winding name of a kettle, number {number}", KETTLES) for number in range(9)]
    legs, _ = legs_of(store, asking, 1, NO_KEYS, decided=decided)
    found = estimate(store, legs, items)
    assert "decided" not in found.basis
    assert found.prompt_tokens - none.prompt_tokens >= 40 * 3 * len(decided[0][0]) / 4
    assert all(len(item.examples) == 3 for leg in legs for request in leg.sample for item in request.items)


def test_the_second_stage_of_a_tie_break_is_counted_too(store: Store) -> None:
    """Four of the six leaves stand in the larger branch; one, "none of these", needs no second stage."""
    put_texts(store, [f"kettle {number}" for number in range(60)])
    asking = replace(how(NOWHERE, stages=2), third_vote=True)
    legs, _ = legs_of(store, asking, 1, NO_KEYS)
    assert [(leg.stage, leg.items) for leg in legs] == [
        ("label", 60),
        ("label", 50),
        ("tie_break", 9),
        ("tie_break", 8),
    ]
    assert {request.branch for request in legs[1].sample} == {"Kitchen", "Garden"}


def test_calls_of_another_prompt_or_model_say_nothing(store: Store) -> None:
    """What was measured is only taken for the very same prompt and model."""
    put_texts(store, [f"kettle {number}" for number in range(ENOUGH_CALLS)])
    sample = [Request((Item(b"k" * 16, "a kettle"),), 1)]
    with ScriptedTeacher(_right) as teacher:
        asking = how(teacher.base_url)
        label_items(store, asking, 1, None, NO_KEYS, 1)
    assert measured(store, Leg("label", asking, sample, 1)) is not None
    for other in (how(NOWHERE, instructions="Other."), how(NOWHERE, model="other-model")):
        assert measured(store, Leg("label", other, sample, 1)) is None
