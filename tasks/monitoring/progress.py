"""How far a job is: a line on a terminal, and the ear of whoever listens while the job works.

Knows neither what the work is nor where a listener shows it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

EVERY_SECONDS = 0.2

Progress = Callable[..., None]
"""Called with how many are done, of how many, and where money is spent what it has cost so far."""
Listener = Callable[..., None]
"""Called with what is worked at, then with what a `Progress` is called with."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While the block works, the listener hears of all progress that is begun in it; it must be quick."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def heard(what: str, show: Progress | None) -> Progress | None:
    """`show`, and the listener's ear if there is one; None where there is neither."""
    listener = _listener.get()
    if listener is None:
        return show

    def tell(*done_total_cost: Any) -> None:
        listener(what, *done_total_cost)
        if show is not None:
            show(*done_total_cost)

    return tell


def progress_of(what: str) -> Progress | None:
    """A callback (done, total[, cost_usd]) for the listener and for the line on stderr; None where there is neither."""
    return heard(what, _on_terminal(what) if sys.stderr.isatty() else None)


def _on_terminal(what: str) -> Progress:
    started = time.monotonic()
    shown = [0.0]

    def show(done: int, total: int, cost_usd: float | None = None) -> None:
        now = time.monotonic()
        if done < total and now - shown[0] < EVERY_SECONDS:
            return
        shown[0] = now
        rate = done / max(now - started, 1e-9)
        left = (total - done) / rate if rate else 0.0
        cost = f"  {cost_usd:.4f} USD" if cost_usd is not None else ""
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{what}: {done:,} of {total:,}  {rate:,.0f}/s  {left:,.0f} s left{cost} {end}")
        sys.stderr.flush()

    return show
