"""Sends requests to a teacher, many at once, until all are answered, money is out, or asking is pointless.

Decides which failures are worth another try and which end the run. Knows nothing of projects, of labels'
sources or of what the answers will be used for.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling.budget import Budget, Price
from tasks.labeling.ledger import Entry
from tasks.labeling.prompts import Prompt
from tasks.labeling.replies import UNPARSEABLE, Answer
from tasks.labeling.requests import Item, Request
from tasks.labeling.retries import Job, Schedule
from tasks.labeling.teacher import Reply, Teacher

UNREADABLE_ATTEMPTS = 3
SAME_FAILURES = 20  # so many first requests failing alike are a mistake in the project, not in the items
DOWN_AFTER = 20  # requests that gave up one after the other, with no reply in between

Progress = Callable[[int, int, float], None]
Sleep = Callable[[float], Awaitable[None]]


class Book(Protocol):
    """Where entries are kept; `write` returns when the entry is safe."""

    async def write(self, entry: Entry) -> None:
        """Keep one entry."""


@dataclass
class Asked:
    """What asking did. `calls` had a reply and were paid for; `stopped` is None, budget, teacher_down or fatal."""

    answered: int = 0
    invalid: int = 0
    failed: int = 0
    calls: int = 0
    cost_usd: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failed_keys: set[bytes] = field(default_factory=set)
    stopped: str | None = None
    fatal: FatalTeacherError | None = None

    @property
    def tokens(self) -> dict[str, int]:
        """Token counts by kind."""
        return {
            "prompt": self.prompt_tokens,
            "cached": self.cached_tokens,
            "completion": self.completion_tokens,
        }


async def ask_all(
    requests: Iterator[Request],
    total: int,
    prompt: Prompt,
    teacher: Teacher,
    ledger: Book,
    budget: Budget,
    price: Price,
    concurrency: int,
    max_attempts: int,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = asyncio.sleep,
    on_finished: Callable[[Item, Answer, float], None] | None = None,
) -> Asked:
    """Ask every request once; what was paid for is in the ledger when this returns, also when it raises.

    Args:
        requests: consumed as slots come free.
        total: how many there are, for `progress(done, total, cost_usd)`.
        prompt: how to ask.
        teacher: whom to ask.
        ledger: where calls and answers are kept.
        budget: the money of this run.
        price: what tokens cost.
        concurrency: slots; a slot is free again when its reply is committed.
        max_attempts: tries of one request before it is given up until the next run.
        seed: of the back-off's jitter.
        progress: called after every finished request.
        clock: monotonic seconds.
        sleep: waits.
        on_finished: called with each item, its answer and what it cost in this run.

    Raises:
        StoreError: the ledger cannot be written.
    """
    schedule = Schedule(requests, clock, sleep, seed, most_waiting=2 * concurrency)
    run = _Run(total, prompt, teacher, ledger, budget, price, max_attempts, schedule, progress)
    run.on_finished = on_finished
    run.down_after = max(3, min(DOWN_AFTER, concurrency))
    # One request goes ahead: a wrong key costs one call, and a provider's prompt cache is warm for the rest.
    await run.work(at_most=1)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, max(total, 1))):
                group.create_task(run.work())
    except BaseExceptionGroup as errors:
        # Every worker stops for the same reason (the ledger cannot be written): one of them says it.
        raise errors.exceptions[0] from None
    await run.close()
    return run.asked


@dataclass
class _Run:
    """The state of one `ask_all`."""

    total: int
    prompt: Prompt
    teacher: Teacher
    ledger: Book
    budget: Budget
    price: Price
    max_attempts: int
    schedule: Schedule
    progress: Progress | None
    down_after: int = DOWN_AFTER
    on_finished: Callable[[Item, Answer, float], None] | None = None
    asked: Asked = field(default_factory=Asked)
    replies: int = 0
    gave_up_in_a_row: int = 0
    done: int = 0
    # The first finished requests, as long as all failed alike. Refusals cost nothing and may come from a wrong
    # address, so they are only written down as the items' fault once something else has happened.
    alike: Counter[str] = field(default_factory=Counter)
    withheld: list[tuple[Job, RefusedTeacherError]] = field(default_factory=list)
    proved: bool = False

    async def work(self, at_most: int | None = None) -> None:
        sent = 0
        while (at_most is None or sent < at_most) and (job := await self.schedule.next()) is not None:
            await self._attempt(job)
            sent += 1

    async def close(self) -> None:
        if self.asked.stopped == "fatal":
            for job, error in self.withheld:
                await self._give_up(job, error.error_class, None)
        else:
            await self._release()
        if self.asked.stopped is None and not self.replies and self.asked.failed:
            self.asked.stopped = "teacher_down"

    async def _attempt(self, job: Job) -> None:
        request = job.request
        try:
            messages = self.prompt.messages(request)
        except RefusedTeacherError as error:
            self.asked.errors[error.error_class] += 1
            await self._dead(job, Answer(None, error_class=error.error_class), None, 0.0)
            return
        most_tokens = self.prompt.most_tokens(request)
        most_usd = self.price.cost_usd(most_tokens, 0, self.prompt.most_output_tokens(request))
        if not await self.budget.reserve(most_usd):
            self._stop("budget")
            return
        if self.asked.stopped is not None:  # while waiting for the reservation
            self.budget.settle(most_usd, 0.0)
            return
        job.attempts += 1
        cost_usd = 0.0
        try:
            reply = await self.teacher.ask(
                messages, self.prompt.response_format(request), request.pass_number
            )
            cost_usd = self.price.cost_usd(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
        except TransientTeacherError as error:
            await self._transient(job, error)
        except RefusedTeacherError as error:
            await self._refused(job, error)
        except FatalTeacherError as error:
            self._stop("fatal", error)
            self.asked.errors[error.error_class] += 1
            await self.ledger.write(Entry("failed", job.attempts, error.error_class, None, 0.0))
        else:
            await self._replied(job, reply, cost_usd)
        finally:
            self.budget.settle(most_usd, cost_usd)

    async def _transient(self, job: Job, error: TransientTeacherError) -> None:
        self.asked.errors[error.error_class] += 1
        if error.error_class == "rate_limited" and error.retry_after_seconds:
            self.schedule.hold(error.retry_after_seconds)
        if job.attempts < self.max_attempts:
            self.schedule.again(job, error.retry_after_seconds or 0.0)
        else:
            await self._give_up(job, error.error_class, None)

    async def _replied(self, job: Job, reply: Reply, cost_usd: float) -> None:
        self._paid(job, reply, cost_usd)
        if reply.problem is not None:
            answer = Answer(None, error_class=reply.problem)
        elif reply.refused:
            answer = Answer(None, error_class="teacher_refused", reason=reply.text[:200] or None)
        else:
            (answer,) = self.prompt.parse(job.request, reply.text, reply.finished)
        if answer.error_class is None:
            entry = Entry("ok", job.attempts, None, reply, cost_usd, self._answers(job, answer))
            await self.ledger.write(entry)
            self.asked.answered += 1
            await self._finished(job, answer)
            return
        self.asked.errors[answer.error_class] += 1
        job.unreadable += 1
        worth_a_try = answer.error_class in UNPARSEABLE or reply.problem is not None
        if worth_a_try and job.unreadable < UNREADABLE_ATTEMPTS and job.attempts < self.max_attempts:
            await self.ledger.write(Entry("invalid", job.attempts, answer.error_class, reply, cost_usd))
            self.schedule.again(job)
        elif reply.problem is not None:
            # What came was no completion but a gateway's page: that says nothing about the item.
            await self._give_up(job, answer.error_class, reply)
        else:
            await self._dead(job, answer, reply, cost_usd)

    def _paid(self, job: Job, reply: Reply, cost_usd: float) -> None:
        job.cost_usd += cost_usd
        self.asked.cost_usd += cost_usd
        self.asked.calls += 1
        if reply.problem is None:
            self.replies += 1
            self.gave_up_in_a_row = 0
        self.asked.prompt_tokens += reply.prompt_tokens
        self.asked.cached_tokens += reply.cached_tokens
        self.asked.completion_tokens += reply.completion_tokens

    async def _refused(self, job: Job, error: RefusedTeacherError) -> None:
        self.replies += 1
        self.gave_up_in_a_row = 0
        self.asked.errors[error.error_class] += 1
        if self._alike(error.error_class, error):
            self.withheld.append((job, error))
        else:
            await self._dead(job, Answer(None, error_class=error.error_class, reason=error.detail), None, 0.0)

    async def _dead(self, job: Job, answer: Answer, reply: Reply | None, cost_usd: float) -> None:
        """A failure that would repeat itself: kept as an answer without a label, never asked again."""
        assert answer.error_class is not None
        status = "invalid" if reply is not None else "failed"
        entry = Entry(status, job.attempts, answer.error_class, reply, cost_usd, self._answers(job, answer))
        await self.ledger.write(entry)
        self.asked.invalid += 1
        if reply is not None:
            self._alike(answer.error_class, None)
        await self._finished(job, answer)

    async def _give_up(self, job: Job, error_class: str, reply: Reply | None) -> None:
        """Given up for this run: only the call is kept, so the next run asks again."""
        await self.ledger.write(Entry("failed", job.attempts, error_class, reply, 0.0))
        self.asked.failed += 1
        self.asked.failed_keys.update(item.key for item in job.request.items)
        self.gave_up_in_a_row += 1
        if self.gave_up_in_a_row >= self.down_after:
            self._stop("teacher_down")
        await self._finished(job, Answer(None, error_class=error_class))

    def _alike(self, error_class: str, error: RefusedTeacherError | None) -> bool:
        """Whether every request finished so far failed as this one did; stops the run at the twentieth."""
        self.alike[error_class] += 1
        if self.proved or len(self.alike) > 1:
            self.proved = True
            return False
        if self.alike[error_class] >= SAME_FAILURES:
            detail = f"the first {SAME_FAILURES} requests all failed this way" + (
                f": {error.detail}" if error is not None else ""
            )
            remedy = "Look at the calls table; check teacher.model, teacher.base_url and the taxonomy."
            self._stop("fatal", FatalTeacherError(error_class, detail, remedy))
        return True

    async def _finished(self, job: Job, answer: Answer) -> None:
        self.done += 1
        if answer.label is not None:
            self.proved = True
        if self.on_finished is not None:
            for item in job.request.items:
                self.on_finished(item, answer, job.cost_usd / len(job.request.items))
        if self.progress is not None:
            self.progress(self.done, self.total, self.asked.cost_usd)
        if self.proved and self.withheld:
            await self._release()

    async def _release(self) -> None:
        """Write down the refusals that were withheld: they are the items' own."""
        withheld, self.withheld = self.withheld, []
        self.proved = self.proved or bool(withheld)
        for job, error in withheld:
            await self._dead(job, Answer(None, error_class=error.error_class, reason=error.detail), None, 0.0)

    def _answers(self, job: Job, answer: Answer) -> tuple[tuple[bytes, int, Answer], ...]:
        return tuple((item.key, job.request.pass_number, answer) for item in job.request.items)

    def _stop(self, why: str, fatal: FatalTeacherError | None = None) -> None:
        if self.asked.stopped is None:
            self.asked.stopped, self.asked.fatal = why, fatal
        self.schedule.close()
