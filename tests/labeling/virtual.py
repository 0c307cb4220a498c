"""Hours of asking in seconds: an event loop whose clock jumps to whatever is due next, and teachers that live in it."""

from __future__ import annotations

import asyncio
import itertools
import json
import selectors
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import TransientTeacherError
from tasks.labeling.asking import Asking
from tasks.labeling.budget import Budget
from tasks.labeling.dispatch import Asked, ask_all
from tasks.labeling.grouping import Grouping
from tasks.labeling.ledger import Entry
from tasks.labeling.pace import HEAD_START_SECONDS
from tasks.labeling.requests import Item, Request
from tasks.labeling.teacher import Reply
from tests.labeling.scripted import KETTLES, how

LATENCY_SECONDS = 0.2


class _Skipping(selectors.SelectSelector):
    """Never blocks: what it was to wait for is added to the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual seconds, from 0; for code that waits for nothing outside it."""

    def __init__(self) -> None:
        self.skipping = _Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


@dataclass
class VirtualTeacher:
    """Answers after a latency unless `fault(number, now, in_flight)` says how it fails; remembers when what happened.

    A fault comes at once, as a gateway's does; `headers` are the rate limits of a reply sent at a moment.
    """

    fault: Callable[[int, float, int], Exception | None] = lambda number, now, in_flight: None
    headers: Callable[[], dict[str, str]] = dict
    latency_seconds: float = LATENCY_SECONDS
    sent_at: list[float] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def ask(self, messages: Any, form: Any, seed: int, most_output_tokens: int | None = None) -> Reply:
        loop = asyncio.get_running_loop()
        self.sent_at.append(loop.time())
        if (error := self.fault(len(self.sent_at), loop.time(), self.in_flight)) is not None:
            self.failed_at.append(loop.time())
            await asyncio.sleep(0.001)
            raise error
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_seconds)
        finally:
            self.in_flight -= 1
        self.answered_at.append(loop.time())
        said = json.dumps({"label": KETTLES, "confidence": 0.9, "reason": "so"})
        return Reply(said, "m", 400, 0, 20, self.latency_seconds, headers=self.headers())

    async def aclose(self) -> None:
        pass

    def answered_between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.answered_at)


class Kept:
    """A ledger in memory that is as slow as a commit."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def write(self, entry: Entry) -> None:
        await asyncio.sleep(0.004)
        self.entries.append(entry)

    def answered(self) -> list[tuple[bytes, int]]:
        return [(key, number) for entry in self.entries for key, number, _ in entry.answers]


def turned_away(retry_after_seconds: float | None = None, **headers: str) -> TransientTeacherError:
    """A 429."""
    return TransientTeacherError("rate_limited", "slower", retry_after_seconds, headers)


def ask(teacher: VirtualTeacher, count: int, **terms: Any) -> tuple[Asked, Kept, float]:
    """Ask about so many items; gives what was asked, what was kept, and the virtual seconds that it took."""
    numbers: Iterator[int] = itertools.islice(itertools.count(), count)
    singles = (Request((Item(number.to_bytes(16, "big"), f"item {number}"),), 1) for number in numbers)
    kept = Kept()

    async def work() -> tuple[Asked, float]:
        loop = asyncio.get_running_loop()
        asking = how_in(loop, **terms)
        asked = await ask_all(Grouping(singles), count, asking, teacher, kept, Budget(None))
        return asked, loop.time()

    asked, seconds = run(work())
    return asked, kept, seconds


def how_in(loop: asyncio.AbstractEventLoop, **terms: Any) -> Asking:
    """An `Asking` whose clock is the loop's."""
    from dataclasses import replace

    settings = {"concurrency": 64, "max_attempts": 6, "head_start_seconds": HEAD_START_SECONDS} | terms
    return replace(how("http://nowhere"), clock=loop.time, sleep=asyncio.sleep, **settings)
