"""What becomes of a request once something came back: answers are kept, items asked again, given up or condemned.

Writes each outcome into the ledger before anybody may count on it. Knows nothing of connections, of money set
aside or of when the next request may leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tasks.errors import FatalTeacherError, RefusedTeacherError
from tasks.labeling.asking import Asking
from tasks.labeling.first_failures import SAME_FAILURES, FirstFailures
from tasks.labeling.grouping import Grouping, smaller
from tasks.labeling.ledger import Entry
from tasks.labeling.outcomes import outcome_of
from tasks.labeling.remedies import LOOK, remedy
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Item
from tasks.labeling.retries import Job, Schedule
from tasks.labeling.teacher import Reply

UNREADABLE_ATTEMPTS = 3
DOWN_AFTER = 20  # requests that gave up one after the other, with no reply in between

Progress = Callable[[int, int, float], None]


class Book(Protocol):
    """Where entries are kept; `write` returns when the entry is safe."""

    async def write(self, entry: Entry) -> None:
        """Keep one entry."""


@dataclass
class Asked:
    """What asking did. `calls` had a reply and were paid for; `stopped` is None, budget, teacher_down or fatal.

    `answered`, `invalid` and `failed` count answers, one an item and pass.
    """

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

    def add(self, other: Asked) -> None:
        """Count what was asked afterwards, too."""
        for name in ("answered", "invalid", "failed", "calls"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("cost_usd", "prompt_tokens", "cached_tokens", "completion_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.failed_keys |= other.failed_keys
        self.stopped, self.fatal = self.stopped or other.stopped, self.fatal or other.fatal


@dataclass
class Settling:
    """The state of one run: what its requests have come to; `close` lets nothing more be sent."""

    supply: Grouping
    total: int
    how: Asking
    ledger: Book
    schedule: Schedule
    close: Callable[[], None]
    progress: Progress | None
    on_finished: Callable[[Item, Answer, float], None] | None
    asked: Asked = field(default_factory=Asked)
    first: FirstFailures[tuple[Job, RefusedTeacherError]] = field(default_factory=FirstFailures)
    replies: int = 0
    gave_up_in_a_row: int = 0
    done: int = 0
    before_usd: dict[tuple[bytes, int], float] = field(default_factory=dict)  # of items between two stages

    def __post_init__(self) -> None:
        self.served_at = self.how.clock()
        self.down_after = max(3, min(DOWN_AFTER, self.how.concurrency))

    async def end(self) -> None:
        """Settle what was kept back, when nothing more is sent."""
        if self.asked.stopped == "fatal":
            for job, error in self.first.released():
                await self.give_up(job, error.error_class, None)
        else:
            await self._release()
        if self.asked.stopped is None and not self.replies and self.asked.failed:
            self.asked.stopped = "teacher_down"

    async def unsendable(self, job: Job, error: RefusedTeacherError) -> None:
        """A request that cannot even be written."""
        self.asked.errors[error.error_class] += 1
        if len(job.request.items) > 1:
            self._divide(job, range(len(job.request.items)))
        else:
            await self._dead(job, Answer(None, error_class=error.error_class), None, 0.0)

    async def fatal(self, job: Job, error: FatalTeacherError) -> None:
        """Every further request would fail as well."""
        self.stop("fatal", error)
        self.asked.errors[error.error_class] += 1
        await self.ledger.write(self._entry("failed", job, error.error_class))

    async def replied(self, job: Job, reply: Reply, cost_usd: float) -> None:
        """A reply was paid for: keep what is good in it, and ask again about the rest."""
        self._paid(job, reply, cost_usd)
        outcome = outcome_of(self.how.prompt, job.request, reply)
        if not outcome.bad:
            await self._keep(job, outcome.answers, outcome.good, None, reply, cost_usd)
            return
        for place in outcome.bad:
            self.asked.errors[str(outcome.answers[place].error_class)] += 1
        assert outcome.error_class is not None
        job.tries += 1
        job.unreadable += 1
        alone = len(job.request.items) == 1
        again = job.unreadable < UNREADABLE_ATTEMPTS and job.tries < self.how.max_attempts
        if again and outcome.worth_a_try and (alone or reply.problem is not None):
            await self.ledger.write(self._entry("invalid", job, outcome.error_class, reply, cost_usd))
            self.schedule.again(job)
        elif not alone:
            await self._keep(job, outcome.answers, outcome.good, outcome.error_class, reply, cost_usd)
            if outcome.good or not self._alike(outcome.error_class, None):
                self._divide(job, outcome.bad)
        elif reply.problem is not None:
            # What came was no completion but a gateway's page: that says nothing about the item.
            await self.give_up(job, outcome.error_class, reply)
        else:
            await self._dead(job, outcome.answers[0], reply, cost_usd)

    def _paid(self, job: Job, reply: Reply, cost_usd: float) -> None:
        each = cost_usd / len(job.request.items)
        job.costs_usd = [cost + each for cost in job.costs_usd]
        self.asked.cost_usd += cost_usd
        self.asked.calls += 1
        if reply.problem is None:
            self._served()
        self.asked.prompt_tokens += reply.prompt_tokens
        self.asked.cached_tokens += reply.cached_tokens
        self.asked.completion_tokens += reply.completion_tokens

    def _served(self) -> None:
        self.replies += 1
        self.gave_up_in_a_row = 0
        self.served_at = self.how.clock()

    async def _keep(
        self,
        job: Job,
        answers: Sequence[Answer],
        good: Sequence[int],
        error_class: str | None,
        reply: Reply,
        cost_usd: float,
    ) -> None:
        """Commit a reply with the answers that are good, and go on to what follows from each."""
        request = job.request
        branches = {place: self.how.branch_after(request, answers[place]) for place in good}
        said = {place: (request.items[place].key, request.pass_number, answers[place]) for place in good}
        await self.ledger.write(
            Entry(
                "ok" if good else "invalid",
                job.attempts,
                error_class,
                reply,
                cost_usd,
                [said[place] for place in good if branches[place] is None],
                request.pass_number,
                [said[place] for place in good if branches[place] is not None],
                self.how.prompt.version_of(request),
                items=len(request.items),
            )
        )
        for place in good:
            item, branch = request.items[place], branches[place]
            if branch is None:
                self.asked.answered += 1
                await self._finished(job, place, answers[place])
            else:
                self.first.succeeded()
                self.before_usd[item.key, request.pass_number] = self._cost_of(job, place)
                self.supply.follow(item, request.pass_number, branch)
        if self.first.proved:
            await self._release()

    def _divide(self, job: Job, places: Sequence[int]) -> None:
        """Ask about some items of a request again, in smaller company."""
        costs = {job.request.items[place].key: job.costs_usd[place] for place in places}
        for part in smaller(job.request, tuple(job.request.items[place] for place in places)):
            self.schedule.add(Job(part, job.attempts, costs_usd=[costs[item.key] for item in part.items]))

    async def refused(self, job: Job, error: RefusedTeacherError) -> None:
        """The teacher will not answer this request: one of its items is at fault, or the project is."""
        self._served()
        self.asked.errors[error.error_class] += 1
        stopped = self._alike(error.error_class, error)
        if len(job.request.items) > 1:
            await self.ledger.write(self._entry("failed", job, error.error_class))
            if not stopped:
                self._divide(job, range(len(job.request.items)))
        elif self.first.proved:
            await self._dead(job, Answer(None, error_class=error.error_class, reason=error.detail), None, 0.0)
        else:
            self.first.withhold((job, error))

    async def _dead(self, job: Job, answer: Answer, reply: Reply | None, cost_usd: float) -> None:
        """A failure that would repeat itself: kept as an answer without a label, never asked again."""
        assert answer.error_class is not None
        status = "invalid" if reply is not None else "failed"
        (item,) = job.request.items
        await self.ledger.write(
            self._entry(status, job, answer.error_class, reply, cost_usd, [(item.key, answer)])
        )
        self.asked.invalid += 1
        if reply is not None:
            self._alike(answer.error_class, None)
        await self._finished(job, 0, answer)

    async def give_up(self, job: Job, error_class: str, reply: Reply | None) -> None:
        """Given up for this run: only the call is kept, so the next run asks again."""
        await self.ledger.write(self._entry("failed", job, error_class, reply))
        self.gave_up_in_a_row += 1
        if self.gave_up_in_a_row >= self.down_after:
            self.stop("teacher_down")
        elif len(job.request.items) > 1:
            # One item may be what the teacher stumbles over: its neighbours shall not go without an answer.
            self._divide(job, range(len(job.request.items)))
            return
        for place, item in enumerate(job.request.items):
            self.asked.failed += 1
            self.asked.failed_keys.add(item.key)
            await self._finished(job, place, Answer(None, error_class=error_class))

    def _alike(self, error_class: str, error: RefusedTeacherError | None) -> bool:
        """Count a failure; whether the run stops because so many first requests failed this way."""
        stop = self.first.failed(error_class)
        if stop:
            detail = f"the first {SAME_FAILURES} requests all failed this way" + (
                f": {error.detail}" if error is not None else ""
            )
            self.stop("fatal", FatalTeacherError(error_class, detail, remedy(error_class) or LOOK))
        return stop

    async def _finished(self, job: Job, place: int, answer: Answer) -> None:
        item, number = job.request.items[place], job.request.pass_number
        self.supply.follow(item, number, None)
        self.done += 1
        if answer.label is not None:
            self.first.succeeded()
        cost_usd = self._cost_of(job, place)
        if self.on_finished is not None:
            self.on_finished(item, answer, cost_usd)
        if self.progress is not None:
            self.progress(self.done, self.total, self.asked.cost_usd)
        if self.first.proved:
            await self._release()

    async def _release(self) -> None:
        """Write down the refusals that were withheld: they are the items' own."""
        for job, error in self.first.released():
            await self._dead(job, Answer(None, error_class=error.error_class, reason=error.detail), None, 0.0)

    def _cost_of(self, job: Job, place: int) -> float:
        """What an item has cost in this run, the stages before included."""
        item = job.request.items[place]
        return job.costs_usd[place] + self.before_usd.pop((item.key, job.request.pass_number), 0.0)

    def _entry(
        self,
        status: str,
        job: Job,
        error_class: str | None,
        reply: Reply | None = None,
        cost_usd: float = 0.0,
        said: Sequence[tuple[bytes, Answer]] = (),
    ) -> Entry:
        number = job.request.pass_number
        answers = [(key, number, answer) for key, answer in said]
        items = len(job.request.items)
        return Entry(status, job.attempts, error_class, reply, cost_usd, answers, number, items=items)

    def stop(self, why: str, fatal: FatalTeacherError | None = None) -> None:
        """Send nothing more; the first reason stands."""
        if self.asked.stopped is None:
            self.asked.stopped, self.asked.fatal = why, fatal
        self.close()
