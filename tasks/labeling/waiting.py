"""Coroutines that wait until something changes or a moment comes, woken one at a time by whoever knows.

One timer serves all who wait, so that a test's clock moves once for one moment. Knows nothing of what is waited
for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

LONGEST_PAUSE_SECONDS = 120.0  # a provider that asks for more is asked again after this


class WaitingRoom:
    """Lives in one event loop; whoever is woken looks again and, if there is more, wakes the next."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._rings_at = float("inf")

    async def wait(self, until: float = float("inf")) -> None:
        """Wait to be woken; at the clock's `until` (seconds) one of those who wait is."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        self._ring(until)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self.wake()  # its turn goes to the next
            raise

    def wake(self) -> None:
        """Wake who has waited longest."""
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake everybody."""
        while self._waiting:
            self.wake()

    def close(self) -> None:
        """Wake everybody and let the timer go."""
        self.wake_all()
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self, at: float) -> None:
        if at >= self._rings_at or at == float("inf"):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().create_task(self._sleep_until(at))

    async def _sleep_until(self, at: float) -> None:
        # A real clock may be a trifle short of `at` when its sleep ends; a second one bridges that.
        while (left := at - self._clock()) > 0:
            await self._sleep(left)
        self._rings_at, self._timer = float("inf"), None
        self.wake()
