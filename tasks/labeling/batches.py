"""Open batches: taken up wherever a run left them, watched, and fetched into the ledger when they have ended.

What was created is found again, what was fetched is not written twice, and only what got no answer is due again.
Sends nothing and chooses nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

import polars as pl

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling import batch_book as book
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import Batch
from tasks.labeling.batch_client import NO_BATCH_API, BatchClient, Remote, Sleep
from tasks.labeling.batch_files import Line, Result, custom_id, results
from tasks.labeling.batch_results import Reading
from tasks.labeling.batch_submission import batch_client
from tasks.labeling.dispatch import Asked, Progress
from tasks.labeling.ledger import Entry, Ledger, Version
from tasks.store import Store

POLL_SECONDS = 60.0
LOOKS_IN_VAIN = 10  # polls without any reply before the provider counts as down
DOWNLOADS = 3  # of a file in which lines cannot be read
LINES_AT_ONCE = 256
TOO_MANY_TOKENS = "token_limit_exceeded"  # worth another try when other batches are done


@dataclass
class Fetched:
    """What fetching did, and what it found wrong.

    `pairs` are the items and passes that results came for, and `failed` those of them that are due again. `open`
    batches with `waiting` requests are left at the provider, `closed` ones are done with, `refused` ones among them
    were not worked off at all. `ignored` result lines belong to no request.
    """

    asked: Asked = field(default_factory=Asked)
    pairs: set[tuple[bytes, int]] = field(default_factory=set)
    failed: set[tuple[bytes, int]] = field(default_factory=set)
    closed: int = 0
    refused: int = 0
    open: int = 0
    waiting: int = 0
    ignored: int = 0
    problems: list[str] = field(default_factory=list)
    too_many_tokens: int = 0  # most requests of a batch that did not fit into the provider's queue

    @property
    def settled(self) -> set[tuple[bytes, int]]:
        """The items and passes that need not be asked about again, unless a second stage follows."""
        return self.pairs - self.failed

    @property
    def reached(self) -> pl.DataFrame:
        """The items and passes that results came for: key, pass."""
        return pl.DataFrame(list(self.pairs), schema={"key": pl.Binary, "pass": pl.Int64}, orient="row")

    @property
    def totals(self) -> Asked:
        """What the results add up to; an item has failed when it did so last."""
        return replace(self.asked, failed=len(self.failed), failed_keys={key for key, _ in self.failed})

    def add(self, later: Fetched) -> None:
        """Count what was fetched afterwards, too; what failed before and came now has not failed."""
        self.asked.add(later.asked)
        self.failed = (self.failed - later.settled) | later.failed
        self.pairs |= later.pairs
        for name in ("closed", "refused", "ignored"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.open, self.waiting = later.open, later.waiting
        self.problems += [problem for problem in later.problems if problem not in self.problems]


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
                self._problem(
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
                self._problem(f"a batch of {batch.requests} requests cannot be fetched: {error}")
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
        missing = await self._collect(batch, client, files)
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
                self._problem(f"the provider does not know batch {batch.remote_id} any more: asked again")
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

    async def _collect(self, batch: Batch, client: BatchClient, files: Sequence[str]) -> int:
        """Write the results into the ledger; returns for how many lines there were none."""
        how = self._how(batch)
        lines = {
            custom_id(batch.token, number): line for number, line in book.lines_of(self._store, batch).items()
        }
        if not lines:
            return 0
        ours = {custom_id(batch.token, number) for number in range(batch.requests)}
        reading = Reading(
            how, client.teacher, self.fetched.asked, self.fetched.failed, self._unreadable_before()
        )
        async with AsyncExitStack() as stack:
            writer = _Writer(self._store, batch, how, stack)
            for file_id in files:
                await self._read(client, file_id, lines, ours, reading, writer)
            await writer.write(reading.released())
        return len(lines)

    async def _read(
        self,
        client: BatchClient,
        file_id: str,
        lines: dict[str, Line],
        ours: set[str],
        reading: Reading,
        writer: _Writer,
    ) -> None:
        """Take the lines that a result file is about out of `lines`, and write what it says about them."""
        for _ in range(DOWNLOADS):
            broken = ignored = 0
            with tempfile.TemporaryFile() as content:
                if not await client.download(file_id, content):
                    self._problem(f"the provider does not have the result file {file_id} any more")
                    return
                for chunk in _chunks(results(content), LINES_AT_ONCE):
                    broken += sum(result is None for result in chunk)
                    known = [result for result in chunk if result is not None]
                    ignored += sum(result.custom_id not in ours for result in known)
                    await self._write(known, lines, reading, writer)
            if not broken:
                break
        # A line that cannot be read, however often it is downloaded, names nobody: whose it was is asked again.
        if broken:
            self.fetched.asked.errors["batch_line_unreadable"] += broken
        self.fetched.ignored += ignored

    async def _write(
        self, found: list[Result], lines: dict[str, Line], reading: Reading, writer: _Writer
    ) -> None:
        entries = []
        for result in found:
            line = lines.pop(result.custom_id, None)  # what stands there twice counts once
            if line is None:
                continue
            request = line.request
            self.fetched.pairs.update((item.key, request.pass_number) for item in request.items)
            entry = reading.entry(line, result)
            if entry is not None:
                entries.append((line, entry))
        await writer.write(entries)

    def _unreadable_before(self) -> Callable[[Line], int]:
        known: dict[tuple[bytes, int, str], int] | None = None

        def times(line: Line) -> int:
            nonlocal known
            known = book.unreadable_before(self._store) if known is None else known
            item, request = line.request.items[0], line.request
            return known.get((item.key, request.pass_number, line.version.prompt_version), 0)

        return times

    def _failed(self, batch: Batch, remote: Remote) -> None:
        self.fetched.refused += 1
        code = remote.problem_code or "batch_failed"
        self.fetched.asked.errors[code] += 1
        if code == TOO_MANY_TOKENS:
            self.fetched.too_many_tokens = max(self.fetched.too_many_tokens, batch.requests)
        self._problem(
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

    def _problem(self, said: str) -> None:
        if said not in self.fetched.problems:
            self.fetched.problems.append(said)


class _Writer:
    """Writes entries of a batch into the ledger, each under the version that its line was asked with."""

    def __init__(self, store: Store, batch: Batch, how: Asking, stack: AsyncExitStack) -> None:
        self._store, self._batch, self._how, self._stack = store, batch, how, stack
        self._ledgers: dict[Version, Ledger] = {}

    async def write(self, entries: Sequence[tuple[Line, Entry]]) -> None:
        """Returns when all of them are committed."""
        batch, writing = self._batch, []
        for line, entry in entries:
            version = self._version(line)
            if version not in self._ledgers:
                ledger = Ledger(self._store, version, batch.stage, batch.run_id, sleep=self._how.sleep)
                self._ledgers[version] = await self._stack.enter_async_context(ledger)
            writing.append(self._ledgers[version].write(replace(entry, batch_line=(batch.id, line.number))))
        await asyncio.gather(*writing)

    def _version(self, line: Line) -> Version:
        """What final answers are kept under, also those that the first of two stages gave."""
        prompt = self._how.prompt
        if prompt.version_of(line.request) != line.version.prompt_version:
            return line.version
        return replace(line.version, prompt_version=prompt.version)


def _chunks(found: Iterator[Result | None], size: int) -> Iterator[list[Result | None]]:
    while chunk := list(islice(found, size)):
        yield chunk
