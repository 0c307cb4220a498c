"""What a simulated teacher counts: requests, payments, statuses, requests in flight.

It owns the numbers that tests and the demo read at /stats. It does not know what was answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Counts:
    """Running totals; written by the server's loop only."""

    def __init__(self) -> None:
        self.requests = self.paid = self.hung = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.by_status: Counter[int] = Counter()
        self.in_flight = self.peak_in_flight = 0
        self._paid_items: Counter[tuple[str, int]] = Counter()

    @contextmanager
    def request(self) -> Iterator[int]:
        """Count a request while it is in flight; gives its number, from 1."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            yield self.requests
        finally:
            self.in_flight -= 1

    def pay(self, items: Sequence[str], seed: int, usage: dict[str, Any]) -> None:
        """A reply was made for these items in this pass, and will be charged whether or not it arrives."""
        self.paid += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        self._paid_items.update((item, seed) for item in items)

    def as_dict(self) -> dict[str, Any]:
        """The totals, JSON-able; `paid_again` counts payments for an item after its first in one pass."""
        return {
            "requests": self.requests,
            "paid": self.paid,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "hung": self.hung,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "items": len({item for item, _ in self._paid_items}),
            "paid_again": sum(self._paid_items.values()) - len(self._paid_items),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }
