"""How far a job is, as bars on its run's page in the Prefect UI while it works.

Steps tell as often as they like; a thread of its own writes the newest word every few seconds, so that a slow server
slows no job and a lost one fails none.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from tasks.embedding.progress import Pace, line
from tasks.monitoring.progress import listening

EVERY_SECONDS = 4.0
LAST_SECONDS = 5.0
FEW = 50

_Word = tuple[int, int, float | None]  # done, of how many, what it has cost in US dollars


@contextmanager
def progress_on_page(name: str, every_seconds: float = EVERY_SECONDS) -> Iterator[None]:
    """While the block works, what steps tell of their progress stands on the page of the flow run that is on.

    Work that ends before the first look leaves no bar, and without a flow run nothing happens.

    Args:
        name: begins the artifacts' keys: small letters, digits and dashes.
        every_seconds: between two looks.
    """
    if FlowRunContext.get() is None:
        yield
        return
    bars = _Bars(name, every_seconds)
    # The copy tells the artifacts whose run they are; the thread ends with the process if a server never answers.
    thread = threading.Thread(target=copy_context().run, args=(bars.keep,), daemon=True, name="progress")
    thread.start()
    try:
        with listening(bars.told):
            yield
    finally:
        bars.over.set()
        thread.join(LAST_SECONDS)


@dataclass
class _Bar:
    """One kind of work on the page: its artifact, and the word that was written last."""

    pace: Pace = field(default_factory=Pace)
    artifact: UUID | None = None
    word: _Word | None = None


class _Bars:
    """The newest word about each kind of work, and what the page shows of it."""

    def __init__(self, name: str, every_seconds: float) -> None:
        self.over = threading.Event()
        self._name, self._every = name, every_seconds
        self._newest: dict[str, _Word] = {}
        self._bars: dict[str, _Bar] = {}

    def told(self, what: str, done: int, total: int, cost_usd: float | None = None) -> None:
        """So many of `what` are done now."""
        self._newest[what] = (done, total, cost_usd)

    def keep(self) -> None:
        """Write what is new every few seconds until all is over, and once more then."""
        over = False
        while not over:
            over = self.over.wait(self._every)
            try:
                for what, word in list(self._newest.items()):
                    self._write(what, word, over)
            except (PrefectException, httpx.HTTPError) as error:
                get_run_logger().warning("this run's page shows no further progress: %s", error)
                return

    def _write(self, what: str, word: _Word, over: bool) -> None:
        bar = self._bars.setdefault(what, _Bar())
        (done, total, cost_usd), before = word, bar.word
        bar.pace.mark(time.monotonic(), done)
        bar.word = word
        if word == before or (bar.artifact is None and (over or done >= total)):
            return
        # A handful of long steps has no pace worth telling.
        said = line(what, done, total, bar.pace.per_second if total > FEW else None)
        if cost_usd is not None:
            said += f", {cost_usd:.4f} USD"
        share = 100.0 * done / max(total, 1)
        if bar.artifact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"{self._name}-{what}".lower()).strip("-")
            bar.artifact = cast(UUID, create_progress_artifact(share, key, said))
        else:
            update_progress_artifact(bar.artifact, share, said)
