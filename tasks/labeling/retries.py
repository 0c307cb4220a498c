"""In which order requests are sent: due retries first, then what was not sent yet.

A request that backs off waits in a heap and holds no slot. The requests not yet sent stay where they come from,
so memory does not grow with their number.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from tasks.labeling.requests import Request
from tasks.labeling.waiting import LONGEST_PAUSE_SECONDS as LONGEST_PAUSE_SECONDS
from tasks.labeling.waiting import Clock, Sleep, WaitingRoom

BASE_SECONDS = 0.5
LONGEST_SECONDS = 30.0
TURNED_AWAY_SECONDS = 1.0  # who was turned away without a pause named; the pace sees to the rest


class Supply(Protocol):
    """Where new requests come from."""

    def take(self) -> Request | None:
        """The next request; None when there is none now."""


@dataclass
class Job:
    """A request on its way.

    `attempts` counts how often its items were sent so far, `tries` how often this request was answered with an
    error other than a 429, `unreadable` its replies that were paid for and could not be read. `costs_usd` is what
    each of its items has cost.
    """

    request: Request
    attempts: int = 0
    tries: int = 0
    unreadable: int = 0
    costs_usd: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.costs_usd = self.costs_usd or [0.0] * len(self.request.items)


class Schedule:
    """Hands out jobs to workers; lives in one event loop."""

    def __init__(
        self, supply: Supply, clock: Clock, sleep: Sleep, seed: int = 0, most_waiting: int = 128
    ) -> None:
        self._supply, self._clock = supply, clock
        self._random = Random(seed)
        self._most_waiting = most_waiting
        self._waiting: list[tuple[float, int, Job]] = []
        self._order = 0
        self._under_way = 0
        self._room = WaitingRoom(clock, sleep)
        self.closed = False

    async def next(self) -> Job | None:
        """The next job as soon as there is one; None when none will come any more.

        Whoever takes a job says when it is `done` with it: until then more may come of it.
        """
        while not self.closed:
            job = self._due() or self._fresh()
            if job is not None:
                self._under_way += 1
                self._room.wake()
                return job
            if not self._waiting and not self._under_way:
                break
            await self._room.wait(self._waiting[0][0] if self._waiting else float("inf"))
        self._room.wake_all()
        return None

    def done(self) -> None:
        """A job that was taken is finished, or was put back."""
        self._under_way -= 1
        self._room.wake()

    def add(self, job: Job) -> None:
        """One more job, to be sent at once."""
        self._push(self._clock(), job)

    def again(self, job: Job, at_least_seconds: float = 0.0) -> None:
        """Repeat a job after an exponential, jittered pause (nominally 0.5, 1, 2, ... 30 seconds)."""
        nominal = min(LONGEST_SECONDS, BASE_SECONDS * 2 ** (max(job.tries, 1) - 1))
        pause = nominal * self._random.uniform(0.5, 1.5)
        self._push(self._clock() + max(pause, min(at_least_seconds, LONGEST_PAUSE_SECONDS)), job)

    def after(self, job: Job, seconds: float | None) -> None:
        """Repeat a job that was turned away, after the pause that was asked for; a little jitter spreads a crowd."""
        pause = min(TURNED_AWAY_SECONDS if seconds is None else seconds, LONGEST_PAUSE_SECONDS)
        self._push(self._clock() + pause * self._random.uniform(1.0, 1.1), job)

    def close(self) -> None:
        """Hand out nothing more, and wake who waits."""
        self.closed = True
        self._room.close()

    def _due(self) -> Job | None:
        if self._waiting and self._waiting[0][0] <= self._clock():
            return heapq.heappop(self._waiting)[2]
        return None

    def _fresh(self) -> Job | None:
        # Where so many wait, the teacher has no use for more: neither it nor the memory is flooded.
        request = self._supply.take() if len(self._waiting) < self._most_waiting else None
        return None if request is None else Job(request)

    def _push(self, due: float, job: Job) -> None:
        self._order += 1
        heapq.heappush(self._waiting, (due, self._order, job))
        self._room.wake()
