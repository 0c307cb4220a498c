"""Costs add up, and the comparison says what it assumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.monitoring.cost import spending
from tasks.project import load_project
from tasks.store import Store
from tests.monitoring.filled import add_call, fill


def test_costs_add_up_by_stage_model_and_run(tiny_project: Callable[..., Path], sqlite_store: Store) -> None:
    """15 labelling calls at 0.002 two months ago; two routing and four audit calls at 0.002 this week."""
    now = time.time()
    fill(load_project(tiny_project()), sqlite_store, now)
    add_call(sqlite_store, 1, "tie_break", 0.5, now, model="strong")
    spent = spending(sqlite_store, "tiny-teacher", 2, now)
    assert {line.name: round(line.cost_usd, 6) for line in spent.by_stage} == {
        "tie_break": 0.5,
        "label": 0.03,
        "audit": 0.008,
        "route": 0.004,
    }
    assert [line.name for line in spent.by_stage] == ["tie_break", "label", "audit", "route"]
    assert {line.name: (line.calls, line.failed) for line in spent.by_model} == {
        "strong": (1, 0),
        "tiny-teacher": (22, 1),
    }
    assert [line.name for line in spent.by_run] == ["1", "3", "2"]
    assert spent.total.cost_usd == pytest.approx(0.542)
    assert (spent.total.prompt_tokens, spent.total.cached_tokens, spent.total.completion_tokens) == (
        2300,
        920,
        230,
    )
    assert spent.recent_usd == pytest.approx(0.512)
    assert spent.routing_usd == pytest.approx(0.012)
    assert spent.teaching_usd == pytest.approx(0.53)


def test_the_comparison_is_priced_by_the_teachers_answers(
    tiny_project: Callable[..., Path], sqlite_store: Store
) -> None:
    """17 answers (15 of labelling, 2 of routing) for 0.042 USD; 8 requests, each asked once."""
    now = time.time()
    fill(load_project(tiny_project()), sqlite_store, now)
    spent = spending(sqlite_store, "tiny-teacher", 2, now)
    each = 0.042 / 17
    assert spent.per_answer_usd == pytest.approx(each)
    assert spent.ask_once_usd == pytest.approx(8 * each)
    assert spent.ask_all_passes_usd == pytest.approx(16 * each)
    assert spent.routing_saved_share == pytest.approx(1 - 0.012 / (8 * each))
    assert spent.saved_share == pytest.approx(1 - 0.042 / (8 * each))
    assert spent.saved_share is not None
    assert spent.saved_share < 0, "teaching has not paid for itself"
    assert "8 requests, each asked once" in spent.assumption


def test_nothing_spent_compares_with_nothing(sqlite_store: Store) -> None:
    spent = spending(sqlite_store, "tiny-teacher", 2, time.time())
    assert spent.total.cost_usd == 0
    assert spent.saved_share is None
    assert spent.routing_saved_share is None
    assert "no answer of the teacher yet" in spent.assumption


def test_a_free_teacher_saves_nothing(sqlite_store: Store, tiny_project: Callable[..., Path]) -> None:
    """Without a price there is no estimate rather than a division by nothing."""
    now = time.time()
    fill(load_project(tiny_project()), sqlite_store, now)
    assert spending(sqlite_store, "another-model", 2, now).per_answer_usd is None
