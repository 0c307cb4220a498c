"""What a call costs, and the hard stop: money is reserved before a request leaves and settled when it returns.

The stop is hard because a reservation is never less than the call can cost; nothing in flight is given up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; `batch` is what a token costs through the Batch API, as a share."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    batch: float = 0.5

    def cost_usd(self, prompt_tokens: float, cached_tokens: float, completion_tokens: float) -> float:
        """Cost of one call; `cached_tokens` are among the `prompt_tokens`."""
        cached = self.input if self.cached_input is None else self.cached_input
        cached_tokens = min(cached_tokens, prompt_tokens)
        fresh = (prompt_tokens - cached_tokens) * self.input
        return (fresh + cached_tokens * cached + completion_tokens * self.output) / MILLION


class Budget:
    """The money of one run: `limit_usd` is never passed, None is no limit. Lives in one event loop."""

    def __init__(self, limit_usd: float | None) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self._reserved_usd = 0.0
        self._settled = asyncio.Event()

    async def reserve(self, most_usd: float) -> bool:
        """Set money aside; waits for calls in flight to settle before it says that there is too little."""
        while self.limit_usd is not None and self._claimed + most_usd > self.limit_usd:
            if self._reserved_usd <= 1e-12:
                return False
            self._settled.clear()
            await self._settled.wait()
        self._reserved_usd += most_usd
        return True

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        """Turn a reservation into what the call really cost (0 when it was not paid)."""
        self._reserved_usd = max(0.0, self._reserved_usd - reserved_usd)
        self.spent_usd += cost_usd
        self._settled.set()

    @property
    def _claimed(self) -> float:
        return self.spent_usd + self._reserved_usd
