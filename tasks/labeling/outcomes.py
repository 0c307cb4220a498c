"""What a reply amounts to, item by item: which answers are kept, and who is asked about again in which company.

Only a request about one item can condemn it: in company, the fault may be a neighbour's. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.labeling.prompts import Prompt
from tasks.labeling.replies import UNPARSEABLE, Answer
from tasks.labeling.requests import Request
from tasks.labeling.teacher import Reply


@dataclass(frozen=True)
class Outcome:
    """The answers to a request in the order of its items; `worth_a_try` when asking the same again may help."""

    answers: tuple[Answer, ...]
    worth_a_try: bool

    @property
    def good(self) -> list[int]:
        """Places of the items that were answered."""
        return [place for place, answer in enumerate(self.answers) if answer.error_class is None]

    @property
    def bad(self) -> list[int]:
        """Places of the items that were not."""
        return [place for place, answer in enumerate(self.answers) if answer.error_class is not None]

    @property
    def error_class(self) -> str | None:
        """Of the first item that was not answered."""
        return next((answer.error_class for answer in self.answers if answer.error_class is not None), None)


def outcome_of(prompt: Prompt, request: Request, reply: Reply) -> Outcome:
    """What a reply that was paid for says about each item of a request."""
    if reply.problem is not None:
        answers = (Answer(None, error_class=reply.problem),) * len(request.items)
    elif reply.refused:
        refusal = Answer(None, error_class="teacher_refused", reason=reply.text[:200] or None)
        answers = (refusal,) * len(request.items)
    else:
        answers = prompt.parse(request, reply.text, reply.finished)
    assert len(answers) == len(request.items)
    worth_a_try = reply.problem is not None or any(answer.error_class in UNPARSEABLE for answer in answers)
    return Outcome(answers, worth_a_try)
