"""What came out of batches: result files read line by line and written into the ledger, each line once.

A download that broke off or has broken lines is repeated. Knows nothing of how batches are found and watched.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import islice

import polars as pl

from tasks.labeling import batch_book as book
from tasks.labeling.asking import Asking
from tasks.labeling.batch_book import Batch
from tasks.labeling.batch_client import BatchClient
from tasks.labeling.batch_files import Line, Result, custom_id, results
from tasks.labeling.batch_results import Reading
from tasks.labeling.dispatch import Asked
from tasks.labeling.ledger import Entry, Ledger, Version, current_answers
from tasks.store import Store

DOWNLOADS = 3  # of a file in which lines cannot be read
LINES_AT_ONCE = 256
ANSWERED_BEFORE = "answered_before"  # of a call whose answers all came too late


@dataclass
class Fetched:
    """What fetching did, and what it found wrong.

    `pairs` are the items and passes that results came for, and `failed` those of them that are due again. `open`
    batches with `waiting` requests are left at the provider, `closed` ones are done with, `refused` ones among them
    were not worked off at all. `ignored` result lines belong to no request. `paid_twice` answers came to what had been
    asked online meanwhile, because it could not wait: the first answer stands.
    """

    asked: Asked = field(default_factory=Asked)
    pairs: set[tuple[bytes, int]] = field(default_factory=set)
    failed: set[tuple[bytes, int]] = field(default_factory=set)
    closed: int = 0
    refused: int = 0
    open: int = 0
    waiting: int = 0
    ignored: int = 0
    paid_twice: int = 0
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
        for name in ("closed", "refused", "ignored", "paid_twice"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.open, self.waiting = later.open, later.waiting
        self.problems += [problem for problem in later.problems if problem not in self.problems]

    def found(self, problem: str) -> None:
        """Keep what a person should know, once."""
        if problem not in self.problems:
            self.problems.append(problem)


async def collect(
    store: Store, batch: Batch, client: BatchClient, how: Asking, files: Sequence[str], fetched: Fetched
) -> int:
    """Write the results of a batch that has ended into the ledger; returns for how many lines there were none.

    Args:
        store: the open database.
        batch: whose lines are not in the ledger yet, or not all.
        client: of its provider.
        how: the model that it was asked of.
        files: ids of its result files, what was answered before what failed.
        fetched: added to.

    Raises:
        TransientTeacherError: a file cannot be had now; what was read before is kept.
        StoreError: the ledger cannot be written.
    """
    lines = {custom_id(batch.token, number): line for number, line in book.lines_of(store, batch).items()}
    if not lines:
        return 0
    ours = {custom_id(batch.token, number) for number in range(batch.requests)}
    reading = Reading(how, client.teacher, fetched.asked, fetched.failed, _unreadable_before(store))
    async with AsyncExitStack() as stack:
        writer = _Writer(store, batch, how, stack)
        answered = _answered(store, [(line, writer.version(line)) for line in lines.values()])
        collecting = _Collecting(lines, ours, reading, fetched, writer, answered)
        for file_id in files:
            await collecting.read(client, file_id)
        await collecting.write(reading.released())
    fetched.failed -= answered
    return len(lines)


@dataclass
class _Collecting:
    """The state of one `collect`: `lines` are those that nothing was read about yet, by name.

    `answered` are the items and passes that have their answer already.
    """

    lines: dict[str, Line]
    ours: set[str]
    reading: Reading
    fetched: Fetched
    writer: _Writer
    answered: set[tuple[bytes, int]]

    async def read(self, client: BatchClient, file_id: str) -> None:
        """Take the lines that a result file is about out of `lines`, and write what it says about them."""
        for _ in range(DOWNLOADS):
            broken = ignored = 0
            with tempfile.TemporaryFile() as content:
                if not await client.download(file_id, content):
                    self.fetched.found(f"the provider does not have the result file {file_id} any more")
                    return
                for chunk in _chunks(results(content), LINES_AT_ONCE):
                    broken += sum(result is None for result in chunk)
                    known = [result for result in chunk if result is not None]
                    ignored += sum(result.custom_id not in self.ours for result in known)
                    await self._read(known)
            if not broken:
                break
        # A line that cannot be read, however often it is downloaded, names nobody: whose it was is asked again.
        if broken:
            self.fetched.asked.errors["batch_line_unreadable"] += broken
        self.fetched.ignored += ignored

    async def _read(self, found: list[Result]) -> None:
        entries = []
        for result in found:
            line = self.lines.pop(result.custom_id, None)  # what stands there twice counts once
            if line is None:
                continue
            request = line.request
            self.fetched.pairs.update((item.key, request.pass_number) for item in request.items)
            entry = self.reading.entry(line, result)
            if entry is not None:
                entries.append((line, entry))
        await self.write(entries)

    async def write(self, entries: Sequence[tuple[Line, Entry]]) -> None:
        """Write entries into the ledger; what is answered already keeps its answer, whatever came later."""
        await self.writer.write([(line, self._first_stands(entry)) for line, entry in entries])

    def _first_stands(self, entry: Entry) -> Entry:
        said = [*entry.answers, *entry.first_stage]
        late = [answer for answer in said if answer[:2] in self.answered]
        if not late:
            return entry
        self.fetched.paid_twice += len(late) if entry.reply is not None else 0
        return replace(
            entry,
            error_class=ANSWERED_BEFORE if len(late) == len(said) else entry.error_class,
            answers=[answer for answer in entry.answers if answer[:2] not in self.answered],
            first_stage=[answer for answer in entry.first_stage if answer[:2] not in self.answered],
        )


def _answered(store: Store, lines: Sequence[tuple[Line, Version]]) -> set[tuple[bytes, int]]:
    """The items and passes of lines that have a final answer under the version that theirs would be kept under."""
    keys: dict[Version, set[bytes]] = {}
    for line, version in lines:
        keys.setdefault(version, set()).update(item.key for item in line.request.items)
    found: set[tuple[bytes, int]] = set()
    for version, wanted in keys.items():
        frame = pl.DataFrame({"key": list(wanted)}, schema={"key": pl.Binary})
        found.update(current_answers(store, version, frame, ("key", "pass")).iter_rows())
    return found


def _unreadable_before(store: Store) -> Callable[[Line], int]:
    """How often a line's item could not be read before; looked up when the first one is asked for."""
    known: dict[tuple[bytes, int, str], int] | None = None

    def times(line: Line) -> int:
        nonlocal known
        known = book.unreadable_before(store) if known is None else known
        item, request = line.request.items[0], line.request
        return known.get((item.key, request.pass_number, line.version.prompt_version), 0)

    return times


class _Writer:
    """Writes entries of a batch into the ledger, each under the version that its line was asked with."""

    def __init__(self, store: Store, batch: Batch, how: Asking, stack: AsyncExitStack) -> None:
        self._store, self._batch, self._how, self._stack = store, batch, how, stack
        self._ledgers: dict[Version, Ledger] = {}

    async def write(self, entries: Sequence[tuple[Line, Entry]]) -> None:
        """Returns when all of them are committed."""
        batch, writing = self._batch, []
        for line, entry in entries:
            version = self.version(line)
            if version not in self._ledgers:
                ledger = Ledger(self._store, version, batch.stage, batch.run_id, sleep=self._how.sleep)
                self._ledgers[version] = await self._stack.enter_async_context(ledger)
            writing.append(self._ledgers[version].write(replace(entry, batch_line=(batch.id, line.number))))
        await asyncio.gather(*writing)

    def version(self, line: Line) -> Version:
        """What final answers are kept under, also those that the first of two stages gave."""
        prompt = self._how.prompt
        if prompt.version_of(line.request) != line.version.prompt_version:
            return line.version
        return replace(line.version, prompt_version=prompt.version)


def _chunks(found: Iterator[Result | None], size: int) -> Iterator[list[Result | None]]:
    while chunk := list(islice(found, size)):
        yield chunk
