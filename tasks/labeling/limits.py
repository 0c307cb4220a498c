"""How much a provider allows a minute: what its reply headers say, and the token buckets that keep to it.

Reads the headers of OpenAI and of those that copy it, of OpenRouter and of Anthropic. Knows nothing of requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tasks.labeling.waiting import LONGEST_PAUSE_SECONDS, Clock

_KINDS = ("requests", "tokens")
_PIECES = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e12  # no pause is thirty years long, so such numbers are dates


@dataclass(frozen=True)
class Limit:
    """What a provider says of one of its limits: how much of `limit` remains, and seconds until all of it does."""

    limit: float
    remaining: float
    reset_seconds: float


def limit_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The rate-limit headers among all, names in small letters."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in raw
        if b"ratelimit" in name.lower()
    }


def limits_in(headers: Mapping[str, str], now: float) -> dict[str, Limit]:
    """What the headers say about `requests` and `tokens`; what is incomplete or no number is left out.

    Args:
        headers: names in small letters.
        now: seconds since 1970, for limits whose reset is a date.
    """
    found = {}
    for kind in _KINDS:
        for names in _names(kind):
            limit, remaining, reset = (headers.get(name) for name in names)
            if limit is None or remaining is None or reset is None:
                continue
            seconds = seconds_until(reset, now)
            try:
                numbers = float(limit), float(remaining)
            except ValueError:
                continue
            if seconds is not None and numbers[0] > 0 and 0 <= numbers[1] <= numbers[0]:
                found[kind] = Limit(*numbers, seconds)
                break
    return found


def _names(kind: str) -> Iterable[tuple[str, str, str]]:
    parts = ("limit", "remaining", "reset")
    yield tuple(f"x-ratelimit-{part}-{kind}" for part in parts)  # type: ignore[misc]
    yield tuple(f"anthropic-ratelimit-{kind}-{part}" for part in parts)  # type: ignore[misc]
    if kind == "requests":
        yield tuple(f"x-ratelimit-{part}" for part in parts)  # type: ignore[misc]
        yield tuple(f"ratelimit-{part}" for part in parts)  # type: ignore[misc]


def seconds_until(written: str, now: float) -> float | None:
    """Seconds until a reset, written as `6m0s`, `120ms`, seconds, a time since 1970 (s or ms), or an ISO date."""
    written = written.strip()
    try:
        number = float(written)
    except ValueError:
        pieces = _PIECES.findall(written)
        if pieces and "".join(size + unit for size, unit in pieces) == written:
            return sum(float(size) * _UNITS[unit] for size, unit in pieces)
        try:
            date = datetime.fromisoformat(written)
        except ValueError:
            return None
        return max(0.0, date.timestamp() - now) if date.tzinfo is not None else None
    if number >= _EPOCH_SECONDS:
        number = (number / 1000 if number >= _EPOCH_MILLISECONDS else number) - now
    return max(0.0, number) if number == number and number != float("inf") else None


class Allowance:
    """A token bucket; without a rate it allows everything.

    What is taken may be more than it holds: it then owes, and allows nothing until that has come in again, so that
    the rate holds on average whatever the size of one request.
    """

    def __init__(self, clock: Clock, per_minute: float | None = None) -> None:
        self._clock = clock
        self._rate = per_minute / 60 if per_minute else None  # a second
        # A second's worth may go at once: a minute's worth at the start would be twice the rate in that minute.
        self._most = max(1.0, self._rate or 0.0)
        self._held, self._at = self._most, clock()

    def seconds_until_allowed(self, amount: float) -> float:
        """How long until so much may be taken; 0 is now."""
        if self._rate is None:
            return 0.0
        self._refill()
        lacking = min(amount, self._most) - self._held
        return 0.0 if lacking <= 1e-9 else min(LONGEST_PAUSE_SECONDS, lacking / self._rate)

    def take(self, amount: float) -> None:
        """Take so much (or give back what is negative)."""
        if self._rate is not None:
            self._refill()
            self._held = min(self._most, self._held - amount)

    def told(self, limit: Limit) -> None:
        """Keep to what a provider says of itself, from now on: what is missing comes in evenly until the reset."""
        missing = limit.limit - limit.remaining
        if missing <= 0 or limit.reset_seconds <= 0:
            self._rate = None
            return
        self._most, self._held, self._at = limit.limit, limit.remaining, self._clock()
        self._rate = missing / limit.reset_seconds

    def _refill(self) -> None:
        now = self._clock()
        self._held = min(self._most, self._held + (now - self._at) * (self._rate or 0.0))
        self._at = now
