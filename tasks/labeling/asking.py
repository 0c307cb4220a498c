"""How one model is asked: its prompt, its client and the terms, put together from values of the project file.

Sends nothing itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from tasks import project as settings
from tasks.labeling.budget import Price
from tasks.labeling.ledger import Version
from tasks.labeling.pace import HEAD_START_SECONDS
from tasks.labeling.prompts import Prompt, parameters_hash
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Request
from tasks.labeling.teacher import OpenAITeacher, Teacher
from tasks.labeling.waiting import Clock, Sleep
from tasks.taxonomy import Taxonomy

if TYPE_CHECKING:
    from tasks.labeling.beside import Bring
    from tasks.store import Store


@dataclass(frozen=True)
class OtherPass:
    """What one pass is asked with instead of the model's own settings."""

    model: str
    temperature: float | None
    price: Price


@dataclass(frozen=True)
class Asking:
    """How one model is asked: the prompt, the model, and the terms. `connect` is called in the event loop.

    `by_pass` are passes (1-based) with a model or temperature of their own. Where all passes have answered and
    differ, one more vote is asked for: of the `tie_breaker`, or with `third_vote` of the same model. `bring` gives
    the items that are due their candidates and examples, where the prompt shows any.
    """

    prompt: Prompt
    connect: Callable[[], Teacher]
    model: str
    price: Price
    concurrency: int
    max_attempts: int
    temperature: float | None
    max_output_tokens: int
    clock: Clock = time.monotonic
    sleep: Sleep = asyncio.sleep
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    head_start_seconds: float = HEAD_START_SECONDS
    by_pass: Mapping[int, OtherPass] = field(default_factory=dict)
    passes: int | None = None
    third_vote: bool = False
    tie_breaker: Asking | None = None
    bring: Bring | None = None

    @property
    def version(self) -> Version:
        """What answers are kept under, those of a tie-breaker included where `passes` is known."""
        own = self._version(self.model, self.temperature)
        passes = {number: self._version(one.model, one.temperature) for number, one in self.by_pass.items()}
        if self.tie_breaker is not None and self.passes is not None:
            passes[self.passes + 1] = self.tie_breaker.version
        return replace(own, by_pass=tuple(sorted(passes.items())))

    @property
    def breaks_ties(self) -> bool:
        """Whether one more vote is asked for where passes differ."""
        return self.third_vote or self.tie_breaker is not None

    def price_of(self, pass_number: int) -> Price:
        """What tokens cost in a pass."""
        other = self.by_pass.get(pass_number)
        return self.price if other is None else other.price

    @property
    def items_per_call(self) -> int:
        """The most items of one request."""
        return self.prompt.items_per_call

    @property
    def stages(self) -> int:
        """1, or 2 where the first level is asked about first."""
        return self.prompt.stages

    def branch_after(self, request: Request, answer: Answer) -> str | None:
        """The branch to ask about next after an answer; None when it is final."""
        return self.prompt.follow_up(request, answer)

    def _version(self, model: str, temperature: float | None) -> Version:
        return Version(self.prompt.version, model, parameters_hash(temperature, self.max_output_tokens))


def asking(
    taxonomy: Taxonomy,
    instructions: str,
    modality: str,
    model: settings.Model,
    price: settings.Price | None = None,
    prompting: settings.Prompting | None = None,
    by_pass: Mapping[int, OtherPass] = MappingProxyType({}),
) -> Asking:
    """How a model of the project file is asked; its API key is read when the first request leaves.

    Without `prompting` it is asked about one item at a time, in one stage.

    Raises:
        ConfigError: by `connect`, when the environment holds no key.
    """

    def connect() -> Teacher:
        return OpenAITeacher(
            model.base_url,
            model.api_key,
            model.model,
            model.temperature,
            model.max_output_tokens,
            model.timeout_seconds,
            model.concurrency,
            {number: (other.model, other.temperature) for number, other in by_pass.items()},
        )

    form = prompting or settings.Prompting()
    return Asking(
        Prompt(
            taxonomy,
            instructions,
            modality,
            model.structured,
            model.max_output_tokens,
            form.items_per_call,
            form.stages,
            form.shortlist,
            form.examples,
            form.reasons,
            form.image_side,
        ),
        connect,
        model.model,
        _price(price or model.price or settings.Price()),
        model.concurrency,
        model.max_attempts,
        model.temperature,
        model.max_output_tokens,
        requests_per_minute=model.requests_per_minute,
        tokens_per_minute=model.tokens_per_minute,
        by_pass=by_pass,
    )


def _price(price: settings.Price) -> Price:
    return Price(price.input, price.output, price.cached_input, price.batch)


def bring_of(project: settings.Project, store: Store) -> Bring | None:
    """What gives items their candidates and examples; None where the prompt shows neither."""
    form = project.labeling.prompt
    if not form.shortlist and not form.examples:
        return None
    from tasks.embedding.vectors import encoder_settings
    from tasks.labeling.beside import bringing
    from tasks.sources import read_gold

    return bringing(
        store,
        project.taxonomy,
        encoder_settings(project.encoder),
        project.cache_root,
        read_gold(project),
        form.shortlist,
        form.examples,
        project.routing.audit_window_days,
    )


def asking_teacher(project: settings.Project, bring: Bring | None = None) -> Asking:
    """How a project's own teacher is asked; `bring` is for the tie-breaker, too.

    Raises:
        ConfigError: the taxonomy cannot be read.
    """
    teacher, task, form = project.teacher, project.task, project.labeling.prompt
    by_pass = {
        number: OtherPass(
            other.model or teacher.model,
            teacher.temperature if other.temperature is None else other.temperature,
            _price(
                project.price_of(teacher)
                if other.model is None
                else project.prices.get(other.model, settings.Price())
            ),
        )
        for number, other in teacher.by_pass.items()
    }
    price = project.price_of(teacher)
    own = asking(project.taxonomy, task.instructions, task.modality, teacher, price, form, by_pass)
    breaker = teacher.tie_breaker
    if breaker is not None:
        price = project.price_of(breaker)
        own = replace(
            own,
            tie_breaker=replace(
                asking(project.taxonomy, task.instructions, task.modality, breaker, price, form), bring=bring
            ),
        )
    return replace(own, passes=teacher.passes, third_vote=teacher.third_vote, bring=bring)
