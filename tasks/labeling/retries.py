"""In which order requests are sent: due retries first, then what was not sent yet.

A request that backs off waits in a heap and holds no slot; a provider's Retry-After holds everybody. The
requests not yet sent stay in their iterator, so memory does not grow with their number.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random

from tasks.labeling.requests import Request

BASE_SECONDS = 0.5
LONGEST_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 120.0  # a provider that asks for more is asked again after this


@dataclass
class Job:
    """A request on its way: attempts made, and replies paid for that could not be read."""

    request: Request
    attempts: int = 0
    unreadable: int = 0
    cost_usd: float = 0.0


class Schedule:
    """Hands out jobs to workers; `clock` and `sleep` are injected so that a test need not wait."""

    def __init__(
        self,
        requests: Iterator[Request],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        seed: int,
        most_waiting: int = 128,
    ) -> None:
        self._requests, self._clock, self._sleep = requests, clock, sleep
        self._random = Random(seed)
        self._most_waiting = most_waiting
        self._waiting: list[tuple[float, int, Job]] = []
        self._order = 0
        self._open_at = float("-inf")
        self._closed = asyncio.Event()

    async def next(self) -> Job | None:
        """The next job as soon as there is one to send; None when there is nothing left to hand out.

        A worker may leave on None: whoever holds a job that must be repeated is still there to repeat it.
        """
        while not self._closed.is_set():
            now = self._clock()
            if now < self._open_at:
                await self._pause(self._open_at - now)
            elif self._waiting and self._waiting[0][0] <= now:
                return heapq.heappop(self._waiting)[2]
            elif (request := self._fresh()) is not None:
                return Job(request)
            elif self._waiting:
                await self._pause(self._waiting[0][0] - now)
            else:
                return None
        return None

    def _fresh(self) -> Request | None:
        # Where so many wait, the teacher has no use for more: neither it nor the memory is flooded.
        return next(self._requests, None) if len(self._waiting) < self._most_waiting else None

    def again(self, job: Job, at_least_seconds: float = 0.0) -> None:
        """Repeat a job after an exponential, jittered pause (nominally 0.5, 1, 2, ... 30 seconds)."""
        pause = min(LONGEST_SECONDS, BASE_SECONDS * 2 ** (job.attempts - 1)) * self._random.uniform(0.5, 1.5)
        self._order += 1
        due = self._clock() + max(pause, min(at_least_seconds, LONGEST_PAUSE_SECONDS))
        heapq.heappush(self._waiting, (due, self._order, job))

    def hold(self, seconds: float) -> None:
        """Let nobody send before `seconds` have passed."""
        self._open_at = max(self._open_at, self._clock() + min(seconds, LONGEST_PAUSE_SECONDS))

    def close(self) -> None:
        """Hand out nothing more, and wake who waits."""
        self._closed.set()

    async def _pause(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((sleeping, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleeping, closing):
                task.cancel()
            await asyncio.gather(sleeping, closing, return_exceptions=True)
