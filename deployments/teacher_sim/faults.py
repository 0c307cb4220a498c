"""What goes wrong with a request, decided by seed and request number alone; and the rate limit.

It owns the dice and the token bucket. It does not know what a good reply would have been, except how to spoil
one.
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


class RequestBucket:
    """A token bucket that holds a minute's requests and refills evenly.

    Args:
        requests_per_minute: its size; 0 is no limit.
        clock: seconds, never going back.
    """

    def __init__(self, requests_per_minute: float, clock: Callable[[], float]) -> None:
        self.size = requests_per_minute
        self._clock = clock
        self._tokens = requests_per_minute
        self._filled_at = clock()

    @property
    def remaining(self) -> int:
        """Whole requests left now."""
        return int(self._tokens)

    def take(self) -> float:
        """Take one request; returns 0, or the seconds until there is one to take."""
        if not self.size:
            return 0.0
        now = self._clock()
        self._tokens = min(self.size, self._tokens + (now - self._filled_at) * self.size / 60)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * 60 / self.size
