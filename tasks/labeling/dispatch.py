"""Sends requests to a teacher, many at once, until all are answered, money is out, or asking is pointless.

Waits for money and for a place, sends, and says what kind of thing came back. Knows nothing of projects, and
leaves to `settling` what becomes of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling.asking import Asking
from tasks.labeling.budget import Budget
from tasks.labeling.grouping import Grouping
from tasks.labeling.pace import Pace
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item
from tasks.labeling.retries import Job, Schedule
from tasks.labeling.settling import UNREADABLE_ATTEMPTS as UNREADABLE_ATTEMPTS
from tasks.labeling.settling import Asked as Asked
from tasks.labeling.settling import Book, Settling
from tasks.labeling.settling import Progress as Progress
from tasks.labeling.teacher import Teacher

LONGEST_SILENCE_SECONDS = 900.0  # after that the teacher is down, however long it asks to wait
NO_TIME = frozenset({"rate_limited", "timeout", "connection", "http_503", "http_529"})


async def ask_all(
    supply: Grouping,
    total: int,
    how: Asking,
    teacher: Teacher,
    ledger: Book,
    budget: Budget,
    seed: int = 0,
    progress: Progress | None = None,
    on_finished: Callable[[Item, Answer, float], None] | None = None,
) -> Asked:
    """Ask every request once; what was paid for is in the ledger when this returns, also when it raises.

    A request keeps its place at the teacher until its reply is committed, so that at most `how.concurrency` are
    paid for and not safe at any moment.

    Args:
        supply: the requests, taken as slots come free.
        total: how many answers are wanted (one an item and pass), for `progress(done, total, cost_usd)`.
        how: the prompt and the terms.
        teacher: whom to ask.
        ledger: where calls and answers are kept.
        budget: the money of this run.
        seed: of the back-off's jitter.
        progress: called after every finished answer.
        on_finished: called with each item, its answer and what it cost in this run.

    Raises:
        StoreError: the ledger cannot be written.
    """
    schedule = Schedule(supply, how.clock, how.sleep, seed, most_waiting=2 * how.concurrency)
    pace = Pace(
        how.concurrency,
        how.clock,
        how.sleep,
        how.requests_per_minute,
        how.tokens_per_minute,
        seed,
        how.head_start_seconds,
    )

    def close() -> None:
        schedule.close()
        pace.close()

    settling = Settling(supply, total, how, ledger, schedule, close, progress, on_finished)
    run = _Sending(how, teacher, budget, schedule, pace, settling)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(how.concurrency, max(total, 1))):
                group.create_task(run.work())
    except BaseExceptionGroup as errors:
        # Every worker stops for the same reason (the ledger cannot be written): one of them says it.
        raise errors.exceptions[0] from None
    finally:
        close()
    await settling.end()
    return settling.asked


@dataclass
class _Sending:
    """The workers of one `ask_all`: each has one request under way at a time."""

    how: Asking
    teacher: Teacher
    budget: Budget
    schedule: Schedule
    pace: Pace
    settling: Settling

    async def work(self) -> None:
        while (job := await self.schedule.next()) is not None:
            try:
                await self._attempt(job)
            finally:
                self.schedule.done()

    async def _attempt(self, job: Job) -> None:
        request, prompt = job.request, self.how.prompt
        try:
            messages = prompt.messages(request)
        except RefusedTeacherError as error:
            await self.settling.unsendable(job, error)
            return
        most_tokens, most_output = prompt.most_tokens(request), prompt.most_output_tokens(request)
        price = self.how.price_of(request.pass_number)
        most_usd = price.cost_usd(most_tokens, 0, most_output)
        if not await self.budget.reserve(most_usd):
            self.settling.stop("budget")
            return
        ticket, cost_usd, used_tokens = None, 0.0, None
        try:
            ticket = await self.pace.enter(most_tokens + most_output)
            if (
                ticket is None or self.settling.asked.stopped is not None
            ):  # while waiting for money or a place
                return
            job.attempts += 1
            try:
                form = prompt.response_format(request)
                reply = await self.teacher.ask(messages, form, request.pass_number, most_output)
            except TransientTeacherError as error:
                self.pace.told(error.headers)
                if error.error_class in NO_TIME:
                    self.pace.turned_away(ticket, error.retry_after_seconds)
                else:
                    self.pace.served(ticket)
                await self._transient(job, error)
            except RefusedTeacherError as error:
                self.pace.served(ticket)
                await self.settling.refused(job, error)
            except FatalTeacherError as error:
                await self.settling.fatal(job, error)
            else:
                self.pace.served(ticket)
                self.pace.told(reply.headers)
                used_tokens = reply.prompt_tokens + reply.completion_tokens
                cost_usd = price.cost_usd(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
                await self.settling.replied(job, reply, cost_usd)
        except BaseException:
            self.settling.close()  # what cannot be kept must not be paid for
            raise
        finally:
            self.budget.settle(most_usd, cost_usd)
            if ticket is not None:
                self.pace.leave(ticket, used_tokens)

    async def _transient(self, job: Job, error: TransientTeacherError) -> None:
        self.settling.asked.errors[error.error_class] += 1
        if error.error_class == "rate_limited":
            # No try of the request: the teacher would not even look at it. It waits as long as it is asked to.
            self.schedule.after(job, error.retry_after_seconds)
            if self.how.clock() - self.settling.served_at > LONGEST_SILENCE_SECONDS:
                self.settling.stop("teacher_down")
            return
        job.tries += 1
        if job.tries < self.how.max_attempts:
            self.schedule.again(job, error.retry_after_seconds or 0.0)
        else:
            await self.settling.give_up(job, error.error_class, None)
