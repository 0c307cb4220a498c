"""Open batches: taken up wherever a run left them, watched, and fetched into the ledger when they have ended.

What was created is found again, what was fetched is not written twice, and only what got no answer is due again.
Sends nothing and chooses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling import batch_book as book
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import Batch
from tasks.labeling.batch_client import NO_BATCH_API, BatchClient, Remote, Sleep
from tasks.labeling.batch_collection import Fetched, collect
from tasks.labeling.batch_submission import batch_client
from tasks.labeling.dispatch import Progress
from tasks.store import Store

POLL_SECONDS = 60.0
LOOKS_IN_VAIN = 10  # polls without any reply before the provider counts as down
TOO_MANY_TOKENS = "token_limit_exceeded"  # worth another try when other batches are done


async def fetch(
    store: Store,
    hows: Sequence[Asking],
    wait: bool,
    poll_seconds: float = POLL_SECONDS,
    progress: Progress | None = None,
    sleep: Sleep = asyncio.sleep,
    now: Callable[[], float] = time.time,
) -> Fetched:
    """Write the results of every batch that has ended into the ledger; with `wait` until none is open.

    Args:
        store: the open database.
        hows: the models of the project; a batch is read with the one that it was asked of.
        wait: whether to wait for those that are still worked on.
        poll_seconds: between two looks.
        progress: called with lines done, lines in all and the cost so far.
        sleep: waits.
        now: seconds since 1970.

    Raises:
        FatalTeacherError: the key is wrong, or the provider has no Batch API.
        StoreError: the ledger cannot be written.
    """
    fetching = _Fetching(store, hows, now, Fetched())
    async with AsyncExitStack() as stack:
        await fetching.connect(stack)
        while True:
            left = await fetching.look()
            if progress is not None and wait:
                done, total = fetching.progress()
                progress(done, total, fetching.fetched.asked.cost_usd)
            if not left or not wait:
                break
            if fetching.in_vain >= LOOKS_IN_VAIN:
                fetching.fetched.asked.stopped = "teacher_down"
                break
            if not fetching.hopeful:
                break
            await sleep(poll_seconds)
        fetching.fetched.open = len(left)
        fetching.fetched.waiting = sum(batch.requests for batch in left)
    return fetching.fetched


async def cancel(store: Store, hows: Sequence[Asking], now: Callable[[], float] = time.time) -> Fetched:
    """Ask for the end of every open batch; what is done of them then is for `fetch`.

    Returns what was fetched of those that had ended before.
    """
    fetching = _Fetching(store, hows, now, Fetched())
    async with AsyncExitStack() as stack:
        await fetching.connect(stack)
        left = await fetching.look()
        for batch in left:
            client = fetching.client_of(batch)
            if client is None:
                # Nobody can ask about it any more; keeping it open would keep its items waiting for ever.
                book.note(store, batch.id, now(), closed_at=now(), error="given up")
            elif batch.remote_id is not None:
                await client.cancel(batch.remote_id)
    return fetching.fetched


class _Fetching:
    """The state of one `fetch`."""

    def __init__(
        self, store: Store, hows: Sequence[Asking], now: Callable[[], float], fetched: Fetched
    ) -> None:
        self._store, self._hows, self._now, self.fetched = store, hows, now, fetched
        self._clients: dict[str, BatchClient] = {}
        self._urls: list[str] = []
        self._done: dict[int, tuple[int, int]] = {}
        self.in_vain = 0
        self.hopeful = True

    async def connect(self, stack: AsyncExitStack) -> None:
        """Open a client for each provider at which a batch waits."""
        if not book.open_batches(self._store):
            return
        for how in self._hows:
            client = batch_client(how)
            stack.push_async_callback(client.aclose)
            self._urls.append(client.teacher.base_url)
            self._clients.setdefault(client.teacher.base_url, client)

    def client_of(self, batch: Batch) -> BatchClient | None:
        """The client of the provider that a batch waits at."""
        return self._clients.get(batch.base_url)

    def progress(self) -> tuple[int, int]:
        """Lines done and lines in all, of the batches seen."""
        return sum(done for done, _ in self._done.values()), sum(total for _, total in self._done.values())

    async def look(self) -> list[Batch]:
        """Look at every open batch once and fetch what has ended; returns those still open."""
        heard = asked = 0
        for batch in book.open_batches(self._store):
            client = self.client_of(batch)
            if client is None:
                self.fetched.found(
                    f"a batch of {batch.requests} requests waits at {batch.base_url}, where no model of this "
                    "project is asked any more; `flywheel label --cancel-batches` gives it up"
                )
                continue
            asked += 1
            try:
                await self._take_up(batch, client)
            except TransientTeacherError as error:
                self.fetched.asked.errors[error.error_class] += 1
            except RefusedTeacherError as error:
                self.fetched.found(f"a batch of {batch.requests} requests cannot be fetched: {error}")
            else:
                heard += 1
        self.in_vain = 0 if heard else self.in_vain + 1
        self.hopeful = asked > 0
        return book.open_batches(self._store)

    async def _take_up(self, batch: Batch, client: BatchClient) -> None:
        remote = await self._found(batch, client)
        if remote is None:
            return
        self._done[batch.id] = (min(remote.done, batch.requests), batch.requests)
        if not remote.ended:
            if remote.status != batch.status:
                book.note(self._store, batch.id, self._now(), status=remote.status)
            return
        files = [id for id in (remote.output_file_id, remote.error_file_id) if id is not None]
        book.note(
            self._store,
            batch.id,
            self._now(),
            status=remote.status,
            output_file_id=remote.output_file_id,
            error_file_id=remote.error_file_id,
        )
        missing = await collect(self._store, batch, client, self._how(batch), files, self.fetched)
        if remote.status == "failed":
            self._failed(batch, remote)
        elif missing:
            self.fetched.asked.errors["batch_line_missing"] += missing
        self._close(batch, remote.status, remote.problem)

    async def _found(self, batch: Batch, client: BatchClient) -> Remote | None:
        """The batch at the provider; None when there is none, and then its requests are due again."""
        if batch.remote_id is not None:
            remote = await client.look(batch.remote_id)
            if remote is None:
                self.fetched.found(
                    f"the provider does not know batch {batch.remote_id} any more: asked again"
                )
                self._close(batch, "lost", "the provider does not know it")
            return remote
        if batch.input_file_id is not None:
            # It may have been created by a run that was killed before it could write the id down.
            try:
                remote = await client.find(batch.token, batch.input_file_id, batch.created_at)
            except FatalTeacherError as error:
                if error.error_class != NO_BATCH_API:
                    raise
                remote = None  # a provider that lists nothing: nobody can know
            if remote is not None:
                book.note(self._store, batch.id, self._now(), status=remote.status, remote_id=remote.id)
                return remote
            await client.discard(batch.input_file_id)
        book.drop(self._store, batch.id)
        return None

    def _failed(self, batch: Batch, remote: Remote) -> None:
        self.fetched.refused += 1
        code = remote.problem_code or "batch_failed"
        self.fetched.asked.errors[code] += 1
        if code == TOO_MANY_TOKENS:
            self.fetched.too_many_tokens = max(self.fetched.too_many_tokens, batch.requests)
        self.fetched.found(
            f"the provider refused a batch of {batch.requests} requests: {remote.problem or 'no reason given'}. "
            "Nothing of it was paid for"
        )

    def _close(self, batch: Batch, status: str, error: str | None) -> None:
        book.note(self._store, batch.id, self._now(), status=status, error=error, closed_at=self._now())
        self.fetched.closed += 1
        self._done[batch.id] = (batch.requests, batch.requests)

    def _how(self, batch: Batch) -> Asking:
        """The model that a batch was asked of, else any at the same provider: it can still fetch."""
        here = [how for how, url in zip(self._hows, self._urls, strict=True) if url == batch.base_url]
        models = [{how.model, *(other.model for other in how.by_pass.values())} for how in here]
        return next((how for how, its in zip(here, models, strict=True) if batch.model in its), here[0])
