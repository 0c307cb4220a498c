"""What the teacher has cost, by stage, model and run, and what asking it about everything would have cost.

Reads the calls that were paid for; knows nothing of prices, which the ledger has already applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from sqlalchemy import func, select

from tasks.store import Store, schema
from tasks.store.traffic import DAY_SECONDS

ROUTING_STAGES = ("route", "audit")
"""Stages that answer and watch traffic; every other stage teaches the student or measures the teacher."""

WRITING_STAGE = "synthesis"
"""The stage that answers nothing: the teacher writes examples."""

COUNTED = ("calls", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(frozen=True)
class CostLine:
    """Calls, tokens and US dollars under one name (a stage, a model or a run's id)."""

    name: str
    calls: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float


@dataclass(frozen=True)
class Spending:
    """What was spent, and what it is compared with.

    The comparison is an estimate: every routed request asked of the teacher, at the mean cost of one of its
    answers so far. Asking each once is what an application without a flywheel pays; `passes` times that is
    what it costs to ask as carefully as labels are made here.

    Attributes:
        total: all calls.
        by_stage: the most expensive first; likewise by_model and by_run.
        recent_usd: spent in the last `recent_days`.
        requests: routed so far.
        routing_usd: spent on answering and auditing them.
        per_answer_usd: mean cost of one answer of the teacher; None while there is none.
        passes: answers an item gets when it is labelled.
    """

    total: CostLine
    by_stage: tuple[CostLine, ...]
    by_model: tuple[CostLine, ...]
    by_run: tuple[CostLine, ...]
    recent_usd: float
    recent_days: float
    requests: int
    routing_usd: float
    per_answer_usd: float | None
    passes: int

    @property
    def teaching_usd(self) -> float:
        """Spent on anything but answering and auditing traffic."""
        return self.total.cost_usd - self.routing_usd

    @property
    def ask_once_usd(self) -> float | None:
        """What asking the teacher once about every routed request would have cost."""
        return None if self.per_answer_usd is None else self.per_answer_usd * self.requests

    @property
    def ask_all_passes_usd(self) -> float | None:
        """The same in every pass."""
        return None if self.ask_once_usd is None else self.ask_once_usd * self.passes

    @property
    def routing_saved_share(self) -> float | None:
        """Share saved on traffic against asking once, teaching left out; None without traffic or price."""
        return _saved(self.routing_usd, self.ask_once_usd)

    @property
    def saved_share(self) -> float | None:
        """Share saved with everything counted; negative until teaching has paid for itself."""
        return _saved(self.total.cost_usd, self.ask_once_usd)

    @property
    def assumption(self) -> str:
        """What the comparison rests on, in one sentence."""
        if self.per_answer_usd is None:
            return "There is no answer of the teacher yet to estimate from."
        return (
            f"Estimate: {self.requests:,} requests, each asked once, at {self.per_answer_usd:.6f} USD, "
            f"the mean cost of an answer so far (with {self.passes} passes each, {self.passes} times as much)."
        )


def spending(
    store: Store, teacher_model: str, passes: int, now: float, recent_days: float = 30.0
) -> Spending:
    """Add up the calls.

    Args:
        store: the open database.
        teacher_model: whose answers the comparison is priced by.
        passes: answers an item gets when it is labelled.
        now: seconds since 1970.
        recent_days: how far back `recent_usd` reaches.
    """
    calls, answers, traffic = schema.calls.c, schema.answers.c, schema.traffic.c
    failed = func.count().filter(calls.status == "failed")
    sums = [calls.prompt_tokens, calls.cached_tokens, calls.completion_tokens, calls.cost_usd]
    rows = store.read(
        select(
            calls.run_id,
            calls.stage,
            calls.model,
            func.count().label("calls"),
            failed.label("failed"),
            *(func.sum(column).label(column.name) for column in sums),
        ).group_by(calls.run_id, calls.stage, calls.model)
    )
    given = int(
        store.scalar(select(func.count()).select_from(schema.answers).where(answers.model == teacher_model))
        or 0
    )
    asked = rows.filter(pl.col("model") == teacher_model, pl.col("stage") != WRITING_STAGE)
    paid = float(asked["cost_usd"].sum())
    recent = select(func.sum(calls.cost_usd)).where(calls.at >= now - recent_days * DAY_SECONDS)
    return Spending(
        total=_line("all", rows),
        by_stage=_lines(rows, "stage"),
        by_model=_lines(rows, "model"),
        by_run=_lines(rows, "run_id"),
        recent_usd=float(store.scalar(recent) or 0.0),
        recent_days=recent_days,
        requests=int(store.scalar(select(func.count(traffic.id))) or 0),
        routing_usd=float(rows.filter(pl.col("stage").is_in(ROUTING_STAGES))["cost_usd"].sum()),
        per_answer_usd=paid / given if given and paid > 0 else None,
        passes=passes,
    )


def _lines(rows: pl.DataFrame, column: str) -> tuple[CostLine, ...]:
    groups = rows.group_by(column, maintain_order=True)
    lines: Sequence[CostLine] = [_line(_name(key[0]), part) for key, part in groups]
    return tuple(sorted(lines, key=lambda line: (-line.cost_usd, line.name)))


def _name(value: Any) -> str:
    return "" if value is None else str(value)


def _line(name: str, rows: pl.DataFrame) -> CostLine:
    calls, failed, prompt, cached, completion = (int(rows[column].sum()) for column in COUNTED)
    return CostLine(name, calls, failed, prompt, cached, completion, float(rows["cost_usd"].sum()))


def _saved(spent: float, otherwise: float | None) -> float | None:
    return None if not otherwise else 1 - spent / otherwise
