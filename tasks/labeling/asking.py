"""How one model is asked: its prompt, its client and the terms, put together from values of the project file.

Sends nothing itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks import project as settings
from tasks.labeling.budget import Price
from tasks.labeling.dispatch import Sleep
from tasks.labeling.ledger import Version
from tasks.labeling.prompts import Prompt, parameters_hash
from tasks.labeling.teacher import OpenAITeacher, Teacher
from tasks.taxonomy import Taxonomy


@dataclass(frozen=True)
class Asking:
    """How one model is asked: the prompt, the model, and the terms. `connect` is called in the event loop."""

    prompt: Prompt
    connect: Callable[[], Teacher]
    model: str
    price: Price
    concurrency: int
    max_attempts: int
    temperature: float | None
    max_output_tokens: int
    clock: Callable[[], float] = time.monotonic
    sleep: Sleep = asyncio.sleep

    @property
    def version(self) -> Version:
        """What answers are kept under."""
        parameters = parameters_hash(self.temperature, self.max_output_tokens)
        return Version(self.prompt.version, self.model, parameters)


def asking(
    taxonomy: Taxonomy,
    instructions: str,
    modality: str,
    model: settings.Model,
    price: settings.Price | None = None,
    prompting: settings.Prompting | None = None,
) -> Asking:
    """How a model of the project file is asked; its API key is read when the first request leaves.

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
        )

    price = price or model.price or settings.Price()
    return Asking(
        Prompt(taxonomy, instructions, modality, model.structured, model.max_output_tokens),
        connect,
        model.model,
        Price(price.input, price.output, price.cached_input),
        model.concurrency,
        model.max_attempts,
        model.temperature,
        model.max_output_tokens,
    )


def asking_teacher(project: settings.Project) -> Asking:
    """How a project's own teacher is asked.

    Raises:
        ConfigError: the taxonomy cannot be read.
    """
    teacher, task = project.teacher, project.task
    price = project.price_of(teacher)
    return asking(project.taxonomy, task.instructions, task.modality, teacher, price, project.labeling.prompt)
