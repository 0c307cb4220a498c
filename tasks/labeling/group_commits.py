"""Commits entries in a thread of its own, as many together as have come in since the last commit began.

A commit waits for the disk, and the event loop must not; nor may a commit wait for the loop to come round to it,
because each entry that is not safe yet holds up a request. Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from tasks.errors import StoreError

# A commit takes a few ms, 1 ms of it CPU: rarer ones hold slots up for longer, denser ones cost more.
BETWEEN_COMMITS_SECONDS = 0.004
# A commit hands the interpreter over a dozen times, and would wait 5 ms each time for a busy event loop to let go.
SWITCH_SECONDS = 0.001
GROUP_ROWS = 256
RETRY_SECONDS = (0.5, 2.0, 5.0)  # a database that went away for a moment

Entry = TypeVar("Entry")


class GroupCommits(Generic[Entry]):
    """An async context manager; leaving it commits what is waiting.

    Args:
        commit: writes a group in one transaction; called in the thread. A StoreError is worth another try.
        sleep: waits before it, in the event loop.
    """

    def __init__(
        self, commit: Callable[[list[Entry]], None], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._commit, self._sleep = commit, sleep
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._changed = threading.Condition()
        self._closing = self._gone = False

    async def __aenter__(self) -> GroupCommits[Entry]:
        self._loop = asyncio.get_running_loop()
        self._switched = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switched, SWITCH_SECONDS))
        self._executor = ThreadPoolExecutor(1, "group-commits")
        self._writer = self._loop.run_in_executor(self._executor, self._write_groups)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        try:
            await self._writer
        finally:
            self._executor.shutdown(wait=False)
            sys.setswitchinterval(self._switched)

    async def write(self, entry: Entry) -> None:
        """Returns when the entry is committed.

        Raises:
            StoreError: the database refuses.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            if not self._gone:
                self._waiting.append((entry, done))
                self._changed.notify()
        if self._gone:
            await self._writer  # raises what ended it
        await done

    def _write_groups(self) -> None:
        group: list[tuple[Entry, asyncio.Future[None]]] = []
        began_at = float("-inf")
        try:
            while group := self._next(began_at):
                began_at = time.monotonic()
                error = self._settle([entry for entry, _ in group])
                self._loop.call_soon_threadsafe(_tell, [done for _, done in group], error)
        finally:
            # Nobody may wait for a writer that is gone, whatever it was that ended it.
            with self._changed:
                self._gone = True
                left = [done for _, done in [*group, *self._waiting]]
            self._loop.call_soon_threadsafe(_abandon, left)

    def _next(self, began_at: float) -> list[tuple[Entry, asyncio.Future[None]]]:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            hurry = self._closing or len(self._waiting) >= GROUP_ROWS
        early = began_at + BETWEEN_COMMITS_SECONDS - time.monotonic()
        if early > 0 and not hurry:
            time.sleep(early)
        with self._changed:
            group, self._waiting = self._waiting[:GROUP_ROWS], self._waiting[GROUP_ROWS:]
        return group

    def _settle(self, entries: list[Entry]) -> StoreError | None:
        for pause in (*RETRY_SECONDS, None):
            try:
                self._commit(entries)
            except StoreError as error:
                if pause is None:
                    return error
                asyncio.run_coroutine_threadsafe(_asleep(self._sleep, pause), self._loop).result()
            else:
                break
        return None


async def _asleep(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)


def _tell(waiting: list[asyncio.Future[None]], error: StoreError | None) -> None:
    for done in waiting:
        if done.done():  # its request was cancelled
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _abandon(waiting: list[asyncio.Future[None]]) -> None:
    for done in waiting:
        done.cancel()
