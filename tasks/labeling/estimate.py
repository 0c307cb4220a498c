"""What a labelling run will take before it is started: calls, tokens, dollars, minutes.

From calls of the same prompt and model in the ledger where there are some, else from the prompts themselves.
Asks nobody, and knows nothing of which items are chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from sqlalchemy import func, select

from tasks.labeling.asking import Asking
from tasks.labeling.images import most_image_tokens
from tasks.labeling.requests import Request
from tasks.records import Record
from tasks.store import Store, schema

BYTES_A_TOKEN = 4.0  # of English; other scripts have more bytes a character, and more tokens
REASON_CHARACTERS = 70  # one short sentence
CACHED_FROM_TOKENS = (
    1_024  # providers cache prompts from here on (platform.openai.com/docs/guides/prompt-caching)
)
ASSUMED_SECONDS = 1.5  # a reply, while none has been seen
ENOUGH_CALLS = 20
NEWEST_CALLS = 2_000


@dataclass(frozen=True)
class Leg:
    """One kind of request of a run, all of one pass: a sample, and how many items there are to ask.

    `calls_an_item` is known where leftovers of many groups count; None takes it from the sample. `unknown` says what
    the sample cannot show.
    """

    stage: str
    how: Asking
    sample: Sequence[Request]
    items: int
    calls_an_item: float | None = None
    unknown: str = ""


@dataclass(frozen=True)
class Measured:
    """Means over calls that were paid for; `calls_an_item` is calls for each answer they gave."""

    calls: int
    calls_an_item: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    latency_seconds: float


@dataclass(frozen=True)
class Estimate(Record):
    """What a run will take. `at_most_usd` is what the budget would have to hold for it never to stop.

    `minutes` is at the project's concurrency and caps; `basis` says what the numbers rest on.
    """

    items: int
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float
    at_most_usd: float
    batch_usd: float
    minutes: float
    basis: str
    budget_usd: float | None = None
    stages: Mapping[str, Mapping[str, float]] | None = None

    @property
    def fits(self) -> bool:
        """Whether the expected cost is within the budget."""
        return self.budget_usd is None or self.cost_usd <= self.budget_usd


def estimate(store: Store, legs: Sequence[Leg], items: int, budget_usd: float | None = None) -> Estimate:
    """Add up what the legs of a run will take.

    Args:
        store: the open database.
        legs: each kind of request; those without pairs are left out.
        items: how many items the run is about.
        budget_usd: the most that it may spend.
    """
    stages: dict[str, dict[str, float]] = {}
    bases: dict[str, None] = {}
    for leg in legs:
        if not leg.items or not leg.sample:
            continue
        found = measured(store, leg)
        bases[
            f"{leg.stage}: {found.calls:,} calls of this prompt and model"
            if found
            else f"{leg.stage}: no such call yet, so {BYTES_A_TOKEN:g} bytes a token are assumed{leg.unknown}"
        ] = None
        line = _line(leg, found or guessed(leg))
        before = stages.setdefault(leg.stage, dict.fromkeys(line, 0.0))
        stages[leg.stage] = {name: before[name] + value for name, value in line.items()}
    total = {name: sum(line[name] for line in stages.values()) for name in _line_names()}
    return Estimate(
        items=items,
        calls=int(total["calls"]),
        prompt_tokens=round(total["prompt_tokens"]),
        cached_tokens=round(total["cached_tokens"]),
        completion_tokens=round(total["completion_tokens"]),
        cost_usd=round(total["cost_usd"], 6),
        at_most_usd=round(total["at_most_usd"], 6),
        batch_usd=round(total["batch_usd"], 6),
        minutes=round(total["seconds"] / 60, 2),
        basis="; ".join(bases) or "nothing is left to ask",
        budget_usd=budget_usd,
        stages=stages,
    )


def measured(store: Store, leg: Leg) -> Measured | None:
    """What calls of the leg's prompt and model took, the newest ones; None while there are too few."""
    calls, answers, pairs = schema.calls.c, schema.answers.c, schema.call_answers.c
    first = leg.sample[0]
    version = leg.how.version.of_pass(first.pass_number)
    query = (
        select(
            calls.id,
            calls.prompt_tokens,
            calls.cached_tokens,
            calls.completion_tokens,
            calls.latency_seconds,
            func.count().label("answers"),
        )
        .join_from(schema.calls, schema.call_answers, calls.id == pairs.call_id)
        .join(schema.answers, answers.id == pairs.answer_id)
        .where(answers.prompt_version.in_(_versions(leg.how, first)))
        .where(answers.model == version.model, calls.prompt_tokens > 0)
        .group_by(calls.id)
        .order_by(calls.id.desc())
        .limit(NEWEST_CALLS)
    )
    seen = store.read(query)
    if seen.height < ENOUGH_CALLS:
        return None
    return Measured(
        seen.height,
        seen.height / float(seen["answers"].sum()),
        fmean(seen["prompt_tokens"]),
        fmean(seen["cached_tokens"]),
        fmean(seen["completion_tokens"]),
        # Nobody knows how long a line of a batch took: it is written down as 0.
        median([seconds for seconds in seen["latency_seconds"] if seconds > 0] or [ASSUMED_SECONDS]),
    )


def _versions(how: Asking, request: Request) -> set[str]:
    """What such requests' answers are kept under; final ones, as most are with a shortlist, under the prompt's own."""
    if request.branch is not None:
        return {how.prompt.version}
    return {how.prompt.version_of(request)} | ({how.prompt.version} if how.prompt.shortlist else set())


def guessed(leg: Leg) -> Measured:
    """The same from the text of the sampled requests; the static part counts as cached after the first call."""
    prompt, asked = leg.how.prompt, leg.sample
    tokens, static, answers = [], [], []
    for request in asked:
        messages = prompt.messages(request)
        sizes = [tokens_in(message["content"], prompt.image_side) for message in messages]
        if form := prompt.response_format(request):
            # It is counted, and cached, as a prefix of the system message (same page as above).
            sizes[0] += tokens_in(json.dumps(form["json_schema"]["schema"], ensure_ascii=False))
        tokens.append(sum(sizes))
        static.append(sizes[0])
        answers.append(tokens_in(prompt.typical_reply(request, REASON_CHARACTERS)))
    each = leg.calls_an_item or 1 / fmean(len(request.items) for request in asked)
    cached = fmean(static) if fmean(static) >= CACHED_FROM_TOKENS else 0.0
    return Measured(0, each, fmean(tokens), cached, fmean(answers), ASSUMED_SECONDS)


def tokens_in(content: str | Sequence[Mapping[str, object]], image_side: int = 0) -> float:
    """About how many tokens a message has; an image counts as the bound that the budget reserves."""
    if not isinstance(content, str):
        return sum(
            most_image_tokens(image_side)
            if part.get("type") == "image_url"
            else tokens_in(str(part.get("text", "")))
            for part in content
        )
    return len(content.encode()) / BYTES_A_TOKEN


def _line_names() -> Iterator[str]:
    yield from ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")
    yield from ("cost_usd", "at_most_usd", "batch_usd", "seconds")


def _line(leg: Leg, each: Measured) -> dict[str, float]:
    calls = math.ceil(leg.items * each.calls_an_item)
    how, prompt = leg.how, leg.how.prompt
    price = how.price_of(leg.sample[0].pass_number)
    cost = calls * price.cost_usd(each.prompt_tokens, each.cached_tokens, each.completion_tokens)
    bound = max(
        price.cost_usd(prompt.most_tokens(request), 0, prompt.most_output_tokens(request))
        for request in leg.sample
    )
    seconds = calls / (how.concurrency / max(each.latency_seconds, 0.001))
    if how.requests_per_minute:
        seconds = max(seconds, calls / how.requests_per_minute * 60)
    if how.tokens_per_minute:
        used = calls * (each.prompt_tokens + each.completion_tokens)
        seconds = max(seconds, used / how.tokens_per_minute * 60)
    return {
        "calls": calls,
        "prompt_tokens": calls * each.prompt_tokens,
        "cached_tokens": calls * each.cached_tokens,
        "completion_tokens": calls * each.completion_tokens,
        "cost_usd": cost,
        "at_most_usd": calls * bound,
        "batch_usd": cost * price.batch,
        "seconds": seconds,
    }
