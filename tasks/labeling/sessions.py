"""Event loops that asking runs in: one for a single piece of work, or one that is kept with its connections.

Knows neither requests nor answers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from tasks.labeling.teacher import Teacher

Done = TypeVar("Done")


def run_in_loop(work: Coroutine[Any, Any, Done]) -> Done:
    """Run a coroutine to its end in an event loop of its own, from any thread, also inside a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def run_once(connect: Callable[[], Teacher], work: Callable[[Teacher], Coroutine[Any, Any, Done]]) -> Done:
    """Connect to a teacher, do the work, and give the connections back."""

    async def connected() -> Done:
        async with aclosing(connect()) as teacher:
            return await work(teacher)

    return run_in_loop(connected())


class Session:
    """A teacher that stays connected for one piece of work after the other; a context manager.

    Its event loop lives in a thread of its own. `proved` once a piece of work has come to its end: whoever asks
    again need not try the key with a request of its own.
    """

    def __init__(self, connect: Callable[[], Teacher]) -> None:
        self._connect = connect
        self._teacher: Teacher | None = None
        self.proved = False

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asking", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._teacher is not None:
                self._run(self._teacher.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def run(self, work: Callable[[Teacher], Coroutine[Any, Any, Done]]) -> Done:
        """Do a piece of work with the teacher; waits for its end.

        Raises:
            ConfigError: there is no key to connect with.
        """

        async def connected() -> Done:
            if self._teacher is None:
                self._teacher = self._connect()
            return await work(self._teacher)

        done = self._run(connected())
        self.proved = True
        return done

    def _run(self, work: Coroutine[Any, Any, Done]) -> Done:
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise
