"""A progress line on a terminal; nothing where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

EVERY_SECONDS = 0.2


def console_progress(what: str) -> Callable[..., None] | None:
    """A callback (done, total[, cost_usd]) that redraws one line on stderr; None when that is no terminal."""
    if not sys.stderr.isatty():
        return None
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
