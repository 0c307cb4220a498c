"""What a simulated teacher counts: requests, payments, statuses, requests in flight, good replies by second.

It owns the numbers that tests and the demo read at /stats. It does not know what was answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Counts:
    """Running totals; written by the server's loop only. The clock counts from the first request on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first_request_at: float | None = None
        self._last_reply_seconds = 0.0
        self._answered_by_second: Counter[int] = Counter()
        self.requests = self.paid = self.hung = 0
        self.batches = self.batch_paid = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.by_status: Counter[int] = Counter()
        self.in_flight = self.peak_in_flight = 0
        self._paid_items: set[tuple[str, int]] = set()
        self._items: set[str] = set()
        self._paid_again = 0

    @contextmanager
    def request(self) -> Iterator[int]:
        """Count a request while it is in flight; gives its number, from 1."""
        if self._first_request_at is None:
            self._first_request_at = self._clock()
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            yield self.requests
        finally:
            self.in_flight -= 1

    def replied(self, status: int) -> None:
        """A reply with this status leaves now."""
        self.by_status[status] += 1
        if self._first_request_at is None:
            return
        self._last_reply_seconds = self._clock() - self._first_request_at
        if status == 200:
            self._answered_by_second[int(self._last_reply_seconds)] += 1

    def pay(self, items: Sequence[str], seed: int, usage: dict[str, Any]) -> None:
        """A reply was made for these items in this pass, and will be charged whether or not it arrives."""
        self.paid += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        for item in items:
            self._paid_again += (item, seed) in self._paid_items
            self._paid_items.add((item, seed))
            self._items.add(item)

    def as_dict(self) -> dict[str, Any]:
        """The totals, JSON-able; `paid_again` counts payments for an item after its first in one pass.

        `paid` counts the lines of batches too, `batch_paid` only them; `requests` are those made online.

        `seconds` is from the first request to the latest reply, `answered_by_second` the replies with status 200
        in each second of them.
        """
        return {
            "requests": self.requests,
            "paid": self.paid,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "hung": self.hung,
            "batches": self.batches,
            "batch_paid": self.batch_paid,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "items": len(self._items),
            "paid_again": self._paid_again,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(self._last_reply_seconds, 3),
            "answered_by_second": [
                self._answered_by_second[second] for second in range(int(self._last_reply_seconds) + 1)
            ],
        }
