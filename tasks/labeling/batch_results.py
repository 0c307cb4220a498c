"""What the results of a batch mean for the ledger: an entry a line, by the rules that hold online.

A line that failed for the moment is left without an answer, so that it is due again; one that would fail again is
a dead letter. Writes nothing and knows nothing of files or of the provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.errors import FatalTeacherError, RefusedTeacherError, TeacherError, TransientTeacherError
from tasks.labeling.asking import Asking
from tasks.labeling.batch_files import Line, Result
from tasks.labeling.dispatch import UNREADABLE_ATTEMPTS, Asked
from tasks.labeling.first_failures import SAME_FAILURES, FirstFailures
from tasks.labeling.ledger import Entry
from tasks.labeling.outcomes import Outcome, outcome_of
from tasks.labeling.remedies import LOOK, remedy
from tasks.labeling.replies import Answer
from tasks.labeling.teacher import OpenAITeacher, Reply

MOST_CODE = 60  # characters of an error class


@dataclass
class Reading:
    """The results of one batch as they are read: entries to write, and what they add up to in `asked`.

    Args:
        how: the model that the lines were asked of; a line of another version of its prompt is kept but not read.
        teacher: who reads replies and errors.
        asked: what is added to.
        failed: the items and passes that are due again, added to.
        unreadable: how often replies about a line's item could not be read before.
    """

    how: Asking
    teacher: OpenAITeacher
    asked: Asked
    failed: set[tuple[bytes, int]]
    unreadable: Callable[[Line], int]
    _first: FirstFailures[tuple[Line, RefusedTeacherError]] = field(default_factory=FirstFailures)

    def entry(self, line: Line, result: Result) -> Entry | None:
        """The entry of a line's result; None when it is withheld until more is known."""
        try:
            reply = self._reply(result)
        except RefusedTeacherError as error:
            self.asked.errors[error.error_class] += 1
            self._first.failed(error.error_class)
            if self._first.proved:
                return self._dead(line, Answer(None, error_class=error.error_class, reason=error.detail))
            self._first.withhold((line, error))
            return None
        except TeacherError as error:
            self.asked.errors[error.error_class] += 1
            if isinstance(error, FatalTeacherError):
                self.asked.stopped, self.asked.fatal = "fatal", self.asked.fatal or error
            return self._failed(line, error.error_class, None)
        self._first.succeeded()
        return self._replied(line, reply)

    def released(self) -> list[tuple[Line, Entry]]:
        """At the end of the results: the refusals that were the items' own after all.

        When every line was refused alike, the project is at fault and not so many items: there is none then,
        and `asked.fatal` says so.
        """
        held = self._first.released()
        if self._first.proved or len(held) < SAME_FAILURES:
            return [
                (line, self._dead(line, Answer(None, error_class=error.error_class, reason=error.detail)))
                for line, error in held
            ]
        for line, _ in held:
            self._give_up(line)
        error = held[0][1]
        detail = f"all {len(held)} requests of a batch failed this way: {error.detail}"
        todo = remedy(error.error_class) or LOOK
        self.asked.stopped, self.asked.fatal = "fatal", FatalTeacherError(error.error_class, detail, todo)
        return []

    def _reply(self, result: Result) -> Reply:
        if result.status == 200:
            return self.teacher.reply(json.dumps(result.body).encode(), 0.0)
        if result.status is None:
            # batch_expired, batch_cancelled, request_timeout: it was not executed, so it is worth another try.
            raise TransientTeacherError((result.code or "batch_error")[:MOST_CODE], result.message or "")
        said = result.body.get("error") if isinstance(result.body, dict) else None
        raise self.teacher.error(result.status, said or result.body, {})

    def _replied(self, line: Line, reply: Reply) -> Entry:
        request, price = line.request, self.how.price_of(line.request.pass_number)
        cost_usd = price.batch * price.cost_usd(
            reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens
        )
        self.asked.calls += 1
        self.asked.cost_usd += cost_usd
        self.asked.prompt_tokens += reply.prompt_tokens
        self.asked.cached_tokens += reply.cached_tokens
        self.asked.completion_tokens += reply.completion_tokens
        if self.how.prompt.version_of(request) != line.version.prompt_version:
            # Paid for, and of no use since the prompt changed: the reply itself stays in the ledger.
            self.asked.errors["prompt_changed"] += 1
            return _entry(line, "failed", 1, "prompt_changed", reply, cost_usd)
        outcome = outcome_of(self.how.prompt, request, reply)
        for answer in outcome.answers:
            if answer.error_class is not None:
                self.asked.errors[answer.error_class] += 1
        if reply.problem is not None:
            return self._failed(line, reply.problem, reply)
        before = self.unreadable(line) if outcome.bad else 0
        # Only a request about one item can condemn it, and not at once when another try may help.
        final = len(request.items) == 1 and (not outcome.worth_a_try or before + 1 >= UNREADABLE_ATTEMPTS)
        if outcome.bad and final:
            self.asked.invalid += 1
        elif outcome.bad:
            self._give_up(line, outcome.bad)
        kept = self._kept(line, outcome, outcome.good + (outcome.bad if final else []))
        status = "invalid" if outcome.bad else "ok"
        return replace(_entry(line, status, before + 1, outcome.error_class, reply, cost_usd), **kept)

    def _kept(self, line: Line, outcome: Outcome, places: list[int]) -> dict[str, Any]:
        """The answers of an entry: those of the first of two stages apart, unless nothing is left to ask."""
        request = line.request
        final: list[tuple[bytes, int, Answer]] = []
        first: list[tuple[bytes, int, Answer]] = []
        for place in places:
            answer = outcome.answers[place]
            said = request.items[place].key, request.pass_number, answer
            begun = answer.error_class is None and self.how.branch_after(request, answer) is not None
            (first if begun else final).append(said)
        self.asked.answered += sum(answer.error_class is None for *_, answer in final)
        return {
            "answers": final,
            "first_stage": first,
            "first_stage_version": line.version.prompt_version if first else "",
        }

    def _dead(self, line: Line, answer: Answer) -> Entry:
        if len(line.request.items) > 1:  # the fault may be a neighbour's: each is asked about alone
            self._give_up(line)
            return _entry(line, "invalid", 1, answer.error_class, None)
        self.asked.invalid += 1
        (item,), number = line.request.items, line.request.pass_number
        return replace(
            _entry(line, "failed", 1, answer.error_class, None), answers=[(item.key, number, answer)]
        )

    def _failed(self, line: Line, error_class: str, reply: Reply | None) -> Entry:
        """Due again: only the call is kept."""
        self._give_up(line)
        return _entry(line, "failed", 1, error_class, reply)

    def _give_up(self, line: Line, places: list[int] | None = None) -> None:
        request = line.request
        self.failed.update(
            (request.items[at].key, request.pass_number) for at in places or range(len(request.items))
        )


def _entry(
    line: Line,
    status: str,
    attempts: int,
    error_class: str | None,
    reply: Reply | None,
    cost_usd: float = 0.0,
) -> Entry:
    return Entry(
        status,
        attempts,
        error_class,
        reply,
        cost_usd,
        pass_number=line.request.pass_number,
        items=len(line.request.items),
    )
