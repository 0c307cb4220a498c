"""One labelling run through batches, for a process of its own, which kills itself at a named moment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from tasks.labeling import batch_book as book
from tasks.labeling.batch_client import BatchClient
from tasks.labeling.batch_collection import Fetched
from tasks.labeling.batch_labelling import BatchSender, label_in_batches
from tasks.labeling.batch_submission import Terms
from tasks.labeling.labelling import label_items
from tasks.labeling.ledger import Ledger
from tasks.records import Labelled
from tasks.store import open_store
from tests.labeling.scripted import NO_KEYS, how

POLL_SECONDS = 0.01
TERMS = Terms(most_requests=60)  # two full files and a rest


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_around(
    owner: Any, name: str, time: int, before: bool, when: Callable[..., bool] = lambda *_, **__: True
) -> None:
    """Kill this process before or after a function is called for the so-and-so-many-th time."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> bool:
        nonlocal calls
        calls += when(*arguments, **named)
        return calls == time and when(*arguments, **named)

    async def later(*arguments: Any, **named: Any) -> Any:
        now = counted(*arguments, **named)
        if now and before:
            die()
        done = await original(*arguments, **named)
        if now:
            die()
        return done

    def at_once(*arguments: Any, **named: Any) -> Any:
        now = counted(*arguments, **named)
        if now and before:
            die()
        done = original(*arguments, **named)
        if now:
            die()
        return done

    setattr(owner, name, later if asyncio.iscoroutinefunction(original) else at_once)


MOMENTS: dict[str, Callable[[], None]] = {
    "planned, nothing uploaded": lambda: die_around(BatchClient, "upload", 2, before=True),
    "uploaded, not written down": lambda: die_around(BatchClient, "upload", 2, before=False),
    "uploaded, not created": lambda: die_around(BatchClient, "create", 2, before=True),
    "created, not written down": lambda: die_around(BatchClient, "create", 2, before=False),
    "the only one created, not written down": lambda: die_around(BatchClient, "create", 1, before=False),
    "submitted": lambda: die_around(BatchClient, "look", 1, before=True),
    "while waiting": lambda: die_around(BatchClient, "look", 2, before=False),
    "downloaded, nothing written": lambda: die_around(BatchClient, "download", 1, before=False),
    "some results committed": lambda: die_around(Ledger, "_insert", 1, before=False),
    "more results committed": lambda: die_around(Ledger, "_insert", 2, before=False),
    "all committed, not closed": lambda: die_around(
        book, "note", 1, before=True, when=lambda *_, **named: "closed_at" in named
    ),
    "closed": lambda: die_around(
        book, "note", 2, before=False, when=lambda *_, **named: "closed_at" in named
    ),
    "never": lambda: None,
}


def run(url: str, base_url: str, moment: str) -> None:
    """Label all there is in batches, with database URL and the teacher's base URL, unless the moment comes."""
    MOMENTS[moment]()
    store, asked = open_store(url, "tiny"), how(base_url)

    def one_round(send: BatchSender | None, fetched: Fetched, only: Any) -> Labelled:
        return label_items(store, asked, 2, None, NO_KEYS, 1, send=send, fetched=fetched, only=only)

    label_in_batches(
        store, asked, "wait", one_round, terms=TERMS, poll_seconds=POLL_SECONDS, sleep=asyncio.sleep
    )
