"""Asks a teacher to write examples: one wish, one reply, under the ledger, the budget and the pace of labelling.

Decides what is worth another try and what ends the run. Knows nothing of what becomes of the examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling.asking import Asking
from tasks.labeling.budget import Budget
from tasks.labeling.ledger import Entry, Ledger
from tasks.labeling.pace import Pace
from tasks.labeling.synthesis_prompts import Wish, Written, messages, most_tokens, read_reply, response_format
from tasks.labeling.teacher import Reply, Teacher
from tasks.project import Model
from tasks.taxonomy import Taxonomy

TEMPERATURE = 1.0  # the one of labelling, 0, would write the same again
OUTPUT_TOKENS = 2_000  # room for the examples of one request, of a long kind
DOWN_AFTER = 20  # requests that gave up one after the other, with no reply in between
BASE_SECONDS, LONGEST_SECONDS, LONGEST_ASKED_SECONDS = 0.5, 30.0, 120.0


def as_writer(model: Model) -> Model:
    """The model with what writing needs: a temperature (where it takes one) and room for a longer reply."""
    temperature = None if model.temperature is None else TEMPERATURE
    tokens = max(model.max_output_tokens, OUTPUT_TOKENS)
    return model.model_copy(update={"temperature": temperature, "max_output_tokens": tokens})


class Writer:
    """Lives in one event loop; counts what asking did.

    Attributes:
        calls: requests with a reply, which were paid for.
        cost_usd: of them.
        errors: how often what went wrong, by error class.
        refused: labels that the teacher or its provider will not write for.
        stopped: None, budget, teacher_down, refused or fatal; then nothing is asked any more.
        fatal: why no call can succeed.
    """

    def __init__(
        self,
        how: Asking,
        taxonomy: Taxonomy,
        instructions: str,
        structured: bool,
        teacher: Teacher,
        ledger: Ledger,
        budget_usd: float | None,
        seed: int,
    ) -> None:
        self._how, self._taxonomy, self._instructions, self._structured = (
            how,
            taxonomy,
            instructions,
            structured,
        )
        self._teacher, self._ledger, self._seed = teacher, ledger, seed
        self._budget, self._random = Budget(budget_usd), Random(seed)
        self._pace = Pace(
            how.concurrency, how.clock, how.sleep, how.requests_per_minute, how.tokens_per_minute, seed
        )
        self._gave_up_in_a_row = 0
        self.calls, self.cost_usd = 0, 0.0
        self.errors: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.stopped: str | None = None
        self.fatal: FatalTeacherError | None = None

    async def ask(self, wish: Wish) -> Written | None:
        """What the teacher wrote, its call in the ledger; None where there was no reply worth its name.

        Raises:
            StoreError: the ledger cannot be written.
        """
        asked = messages(self._taxonomy, self._instructions, wish)
        for attempt in range(1, self._how.max_attempts + 1):
            again, said = await self._attempt(wish, asked, attempt)
            if again is None:
                return said
            if attempt < self._how.max_attempts:
                await self._how.sleep(again)
        self._gave_up_in_a_row += 1
        if self._gave_up_in_a_row >= max(3, min(DOWN_AFTER, self._how.concurrency)):
            self._stop("teacher_down")
        return None

    def close(self) -> None:
        """Ask nothing more; says in `stopped` when not one request had a reply."""
        self._pace.close()
        if self.stopped is None and self.errors and not self.calls:
            self.stopped = "teacher_down" if self._gave_up_in_a_row else "refused"

    async def _attempt(
        self, wish: Wish, asked: Sequence[dict[str, object]], attempt: int
    ) -> tuple[float | None, Written | None]:
        """Seconds until another try (None: no other), and what was written."""
        how, most = self._how, most_tokens(asked)
        most_usd = how.price.cost_usd(most, 0, how.max_output_tokens)
        if not await self._budget.reserve(most_usd):
            self._stop("budget")
            return None, None
        ticket, cost_usd, used_tokens = None, 0.0, None
        try:
            ticket = await self._pace.enter(most + how.max_output_tokens)
            if ticket is None or self.stopped is not None:  # while waiting for money or a place
                return None, None
            form = response_format(wish.label, self._structured)
            try:
                reply = await self._teacher.ask(list(asked), form, self._seed * 100 + wish.number)
            except TransientTeacherError as error:
                self.errors[error.error_class] += 1
                self._pace.turned_away(ticket, error.retry_after_seconds)
                if attempt == how.max_attempts:
                    await self._failed(error.error_class, attempt)
                return self._pause(attempt, error.retry_after_seconds), None
            except RefusedTeacherError as error:
                self.errors[error.error_class] += 1
                self._pace.served(ticket)
                self._gave_up_in_a_row = 0
                self.refused.add(wish.label)
                await self._failed(error.error_class, attempt)
                return None, None
            except FatalTeacherError as error:
                self.fatal = error
                self._stop("fatal")
                await self._failed(error.error_class, attempt)
                return None, None
            self._pace.served(ticket)
            self._pace.told(reply.headers)
            used_tokens = reply.prompt_tokens + reply.completion_tokens
            cost_usd = self._paid(reply)
            return None, await self._read(wish, reply, attempt, cost_usd)
        finally:
            self._budget.settle(most_usd, cost_usd)
            if ticket is not None:
                self._pace.leave(ticket, used_tokens)

    def _paid(self, reply: Reply) -> float:
        price = self._how.price
        cost_usd = price.cost_usd(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
        self.calls += 1
        self.cost_usd += cost_usd
        if reply.problem is None:
            self._gave_up_in_a_row = 0
        return cost_usd

    async def _read(self, wish: Wish, reply: Reply, attempt: int, cost_usd: float) -> Written | None:
        if reply.problem is not None:
            said = Written(error_class=reply.problem)
        elif reply.refused:
            said = Written(error_class="teacher_refused")
            self.refused.add(wish.label)
        else:
            said = read_reply(reply.text, wish, self._taxonomy, reply.finished)
        # No answers: the call is kept and counted, the examples become items of their own.
        status = "ok" if said.error_class is None else "invalid"
        await self._ledger.write(Entry(status, attempt, said.error_class, reply, cost_usd))
        if said.error_class is not None:
            self.errors[said.error_class] += 1
            return None
        return said

    async def _failed(self, error_class: str, attempt: int) -> None:
        await self._ledger.write(Entry("failed", attempt, error_class, None, 0.0))

    def _pause(self, attempt: int, retry_after_seconds: float | None) -> float:
        backing_off = BASE_SECONDS * 2 ** (attempt - 1) * self._random.uniform(0.5, 1.5)
        asked_for = min(LONGEST_ASKED_SECONDS, retry_after_seconds or 0.0)
        return max(min(LONGEST_SECONDS, backing_off), asked_for)

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._pace.close()
