"""What goes wrong with a request: by seed and request number alone, by the rate limits, or by a storm.

It owns the dice, the token buckets and the storm. It does not know what a good reply would have been, except
how to spoil one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deployments.teacher_sim.settings import TeacherSettings


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    RATE_LIMITED = "rate_limited"
    FAILED = "failed"
    GARBLED = "garbled"
    HUNG = "hung"


@dataclass(frozen=True)
class Cast:
    """One throw of the dice: the fate, how long the reply takes, and which garbage it would be."""

    fate: Fate
    delay_seconds: float
    garbage: int


def cast(settings: TeacherSettings, number: int) -> Cast:
    """The fate of request `number`; the same settings and number give the same fate."""
    dice = random.Random((settings.seed << 40) + number)
    drawn, swing, garbage = dice.random(), dice.uniform(-1, 1), dice.randrange(len(GARBAGE))
    delay = max(0.0, settings.latency_ms + swing * settings.jitter_ms) / 1000
    for fate, share in (
        (Fate.RATE_LIMITED, settings.rate_limit_rate),
        (Fate.FAILED, settings.error_rate),
        (Fate.GARBLED, settings.garbage_rate),
        (Fate.HUNG, settings.hang_rate),
    ):
        if drawn < share:
            return Cast(fate, delay, garbage)
        drawn -= share
    return Cast(Fate.ANSWERED, delay, garbage)


def _cut(body: dict[str, Any]) -> tuple[str, str]:
    choice = body["choices"][0]
    content = choice["message"]["content"]
    spoiled = {
        **choice,
        "message": {**choice["message"], "content": content[: len(content) // 2]},
        "finish_reason": "length",
    }
    return "application/json", json.dumps({**body, "choices": [spoiled]}, ensure_ascii=False)


def _page(body: dict[str, Any]) -> tuple[str, str]:
    return "text/html", "<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>"


def _empty(body: dict[str, Any]) -> tuple[str, str]:
    choice = body["choices"][0]
    spoiled = {**choice, "message": {**choice["message"], "content": ""}}
    return "application/json", json.dumps({**body, "choices": [spoiled]}, ensure_ascii=False)


def _cut_body(body: dict[str, Any]) -> tuple[str, str]:
    text = json.dumps(body, ensure_ascii=False)
    return "application/json", text[: len(text) * 2 // 3]


GARBAGE: tuple[Callable[[dict[str, Any]], tuple[str, str]], ...] = (_cut, _page, _empty, _cut_body)
"""Ways to spoil a completion, each giving a content type and a body for a status of 200."""


class Storm:
    """A time in which everybody is turned away, counted from the first request on.

    Args:
        start_seconds: from the first request to its begin.
        seconds: how long it lasts; 0 is no storm.
        clock: seconds, never going back.
    """

    def __init__(self, start_seconds: float, seconds: float, clock: Callable[[], float]) -> None:
        self._begins, self._ends = start_seconds, start_seconds + seconds
        self._clock = clock
        self._first_request_at: float | None = None

    def rages(self) -> bool:
        """Whether the request that comes now is turned away."""
        now = self._clock()
        if self._first_request_at is None:
            self._first_request_at = now
        return self._begins <= now - self._first_request_at < self._ends


class MinuteBucket:
    """A token bucket that holds a minute's worth of requests, or of tokens, and refills evenly.

    Args:
        per_minute: its size; 0 is no limit.
        clock: seconds, never going back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.size = per_minute
        self._clock = clock
        self._held = per_minute
        self._filled_at = clock()

    @property
    def remaining(self) -> int:
        """Whole ones left now."""
        self._refill()
        return int(self._held)

    @property
    def seconds_to_full(self) -> float:
        """How long until it holds the whole minute's worth again, were nothing taken."""
        self._refill()
        return (self.size - self._held) * 60 / self.size if self.size else 0.0

    def take(self, amount: float = 1.0) -> float:
        """Take so much; returns 0, or the seconds until there is enough, and then nothing was taken.

        More than the bucket ever holds is let through when it is full.
        """
        if not self.size:
            return 0.0
        self._refill()
        wanted = min(amount, self.size)
        if self._held >= wanted:
            self._held -= wanted
            return 0.0
        return (wanted - self._held) * 60 / self.size

    def _refill(self) -> None:
        now = self._clock()
        self._held = min(self.size, self._held + (now - self._filled_at) * self.size / 60)
        self._filled_at = now


def written_duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in its x-ratelimit-reset headers: "120ms", "8.64s", "6m0s"."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
