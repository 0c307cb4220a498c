"""Says how far a long piece of work is: one line drawn anew on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

ON_TERMINAL_SECONDS = 0.2
ELSEWHERE_SECONDS = 5.0
WINDOW_SECONDS = 30.0  # the pace is that of the last half minute


class Pace:
    """Items a second over the last half minute, from marks of how many were done when."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, done: int) -> float:
        """So many are done at this second; returns the second of the oldest mark that still counts."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_SECONDS:
            self._marks.popleft()
        return self._marks[0][0]

    @property
    def per_second(self) -> float | None:
        """None until something was done between two marks."""
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        return (now - before) / (last - first) if last > first and now > before else None


class ProgressLine:
    """A callback (done, of how many) that writes items per second and time left.

    Args:
        what: stands first in the line.
        stream: where lines go; standard error, which carries no results.
        terminal: whether one line is drawn anew; else short work says nothing.
        clock: seconds, never going back.
    """

    def __init__(
        self, what: str, stream: TextIO, terminal: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._stream, self._terminal, self._clock = what, stream, terminal, clock
        self._every = ON_TERMINAL_SECONDS if terminal else ELSEWHERE_SECONDS
        self._pace = Pace()
        self._shown_at: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many are done now."""
        now = self._clock()
        oldest = self._pace.mark(now, done)
        finished = done >= total
        if self._terminal:
            due = finished or self._shown_at is None or now - self._shown_at >= self._every
        else:  # work that is done before the first line is due says nothing at all
            since = oldest if self._shown_at is None else self._shown_at
            due = now - since >= self._every or (finished and self._shown_at is not None)
        if due:
            self._shown_at = now
            self._write(line(self._what, done, total, self._pace.per_second), finished)

    def _write(self, text: str, finished: bool) -> None:
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if finished else ""))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def progress_line(what: str) -> ProgressLine:
    """On this process's standard error."""
    return ProgressLine(what, sys.stderr, sys.stderr.isatty())


def line(what: str, done: int, total: int, per_second: float | None) -> str:
    """`embedding: 4,096 of 90,000 (5 %), 612 a second, 2 min 20 s left`."""
    said = f"{what}: {done:,} of {total:,} ({done / max(total, 1):.0%})"
    if per_second is None:
        return said
    pace = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
    left = f", {duration((total - done) / per_second)} left" if done < total else ""
    return f"{said}, {pace} a second{left}"


def duration(seconds: float) -> str:
    """In the two largest units that say something."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
