"""Running the simulated teacher: in a thread of a test, or as a process of its own until it is told to stop.

It owns sockets, event loops and signals. What is served is the application; what is answered, the answer
book.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from deployments.teacher_sim.answers import AnswerBook, Answers
from deployments.teacher_sim.application import create_application
from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.recordings import gold_with_noise, recorded_answers
from deployments.teacher_sim.settings import TeacherSettings

LOOPBACK = "127.0.0.1"
_BACKLOG = 1024
_STOP_SECONDS = 0.2


class TeacherServer:
    """A simulated teacher in a thread with its own event loop, on a free port of loopback.

    Use it as a context manager; leaving it ends hanging requests too. For honest benchmarks run `flywheel
    teacher-sim` as a process instead: this one shares the interpreter with the client it is measured by.

    Args:
        answers: an `AnswerBook`, or text (or image bytes) to the labels of pass 1, pass 2, ...
        port: 0 takes a free one.
        settings: fields of `TeacherSettings`.
    """

    def __init__(
        self,
        answers: AnswerBook | Answers,
        *,
        port: int = 0,
        **settings: Any,
    ) -> None:
        self.settings = TeacherSettings(**settings)
        self._book = answers if isinstance(answers, AnswerBook) else AnswerBook(answers)
        self._counts = Counts()
        self._asked_port = port
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: it is not running.
        """
        if self._socket is None:
            raise RuntimeError("the teacher is not running: use it as a context manager")
        return int(self._socket.getsockname()[1])

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base URL, ending in /v1."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """The same totals as GET /stats; they outlive the server."""
        return self._counts.as_dict()

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._socket = listen(LOOPBACK, self._asked_port)
        self._thread = threading.Thread(target=self._run, args=(started,), name="teacher-sim", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _run(self, started: Future[None]) -> None:
        async def main(held: socket.socket) -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await _serve_until(
                self._stop, self._book, self.settings, self._counts, held, lambda: started.set_result(None)
            )

        assert self._socket is not None  # __enter__ opened it
        try:
            asyncio.run(main(self._socket))
        except BaseException as error:
            # Whoever waits for the start must hear of it, or waits for ever.
            if not started.done():
                started.set_exception(error)
                return
            raise


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or the host is not this machine.
    """
    held = socket.create_server((host, port), backlog=_BACKLOG)
    held.setblocking(False)
    return held


async def _serve_until(
    stop: asyncio.Event,
    book: AnswerBook,
    settings: TeacherSettings,
    counts: Counts,
    held: socket.socket,
    ready: Callable[[], None],
) -> None:
    # Cancelling handlers of clients that hung up ends their hangs and keeps "in flight" true.
    runner = web.AppRunner(
        create_application(book, settings, counts),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_STOP_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, held, backlog=_BACKLOG).start()
        ready()
        await stop.wait()
    finally:
        await runner.cleanup()


def run_server(
    book: AnswerBook,
    settings: TeacherSettings,
    *,
    host: str = LOOPBACK,
    port: int = 8700,
    ready: Callable[[str], None] = lambda url: None,
) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; must be called in the main thread.

    Args:
        book: what to answer.
        settings: how to behave.
        host: address to listen on.
        port: 0 takes a free one.
        ready: called with the base URL once requests are accepted.

    Returns:
        The totals of GET /stats at the end.

    Raises:
        OSError: the port is taken.
    """
    counts = Counts()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for received in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(received, stop.set)
        with listen(host, port) as held:
            url = f"http://{host}:{held.getsockname()[1]}/v1"
            await _serve_until(stop, book, settings, counts, held, lambda: ready(url))

    asyncio.run(main())
    return counts.as_dict()


def serve(
    answers_file: Path,
    *,
    text_column: str = "text",
    answer_columns: Sequence[str] = ("label",),
    confidence_columns: Sequence[str] = (),
    noise: float | None = None,
    label_columns: Sequence[str] = ("label",),
    latency_ms: float = 0.0,
    jitter_ms: float = 0.0,
    requests_per_minute: float = 0.0,
    tokens_per_minute: float = 0.0,
    rate_limit_rate: float = 0.0,
    retry_after_seconds: float = 1.0,
    storm_start_seconds: float = 0.0,
    storm_seconds: float = 0.0,
    error_rate: float = 0.0,
    garbage_rate: float = 0.0,
    hang_rate: float = 0.0,
    batch_seconds: float = 0.0,
    batch_error_rate: float = 0.0,
    batch_expired_rate: float = 0.0,
    batch_most_requests: int = 50_000,
    batch_most_tokens: float = 0.0,
    api_key: str | None = None,
    budget_calls: int | None = None,
    model: str = "simulated-teacher",
    seed: int = 0,
    host: str = LOOPBACK,
    port: int = 8700,
    ready: Callable[[str], None] = lambda url: None,
) -> dict[str, Any]:
    """Load answers and serve them until Ctrl-C or SIGTERM: what `flywheel teacher-sim` does.

    Without `noise` the answer columns are served as recorded. With it the label columns are gold (one column
    of paths, or a column a level) and the share `noise` of each pass is wrong.

    Returns:
        The totals of GET /stats at the end.

    Raises:
        InputError: the file is unreadable or empty, or lacks a column.
        ValueError: a setting is out of its range.
        OSError: the port is taken.
    """
    settings = TeacherSettings(
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        rate_limit_rate=rate_limit_rate,
        retry_after_seconds=retry_after_seconds,
        storm_start_seconds=storm_start_seconds,
        storm_seconds=storm_seconds,
        error_rate=error_rate,
        garbage_rate=garbage_rate,
        hang_rate=hang_rate,
        batch_seconds=batch_seconds,
        batch_error_rate=batch_error_rate,
        batch_expired_rate=batch_expired_rate,
        batch_most_requests=batch_most_requests,
        batch_most_tokens=batch_most_tokens,
        api_key=api_key,
        budget_calls=budget_calls,
        seed=seed,
        model=model,
    )
    if noise is None:
        book = recorded_answers(
            answers_file,
            text_column=text_column,
            answer_columns=answer_columns,
            confidence_columns=confidence_columns,
        )
    else:
        book = gold_with_noise(
            answers_file, noise, text_column=text_column, label_columns=label_columns, seed=seed
        )
    return run_server(book, settings, host=host, port=port, ready=ready)
