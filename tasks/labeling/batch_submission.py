"""Sends requests as batches: written into files within the provider's limits and the budget, uploaded, created.

Every step is written down before the next one is made, so that whoever comes after a kill knows what may exist.
Waits for nothing and reads no results.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.errors import ConfigError, FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling import batch_book as book
from tasks.labeling.asking import Asking
from tasks.labeling.batch_client import BatchClient
from tasks.labeling.batch_files import InputFile, InputFiles
from tasks.labeling.dispatch import Asked
from tasks.labeling.ledger import Entry, Ledger, Version
from tasks.labeling.replies import Answer
from tasks.labeling.requests import Request
from tasks.labeling.teacher import OpenAITeacher
from tasks.store import Store


@dataclass(frozen=True)
class Terms:
    """How batches are sent: the provider's time window and limits of a file, and how many files at most.

    Where the money does not reach for as many as `least_requests`, nothing is sent.
    """

    window: str = "24h"
    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    most_batches: int | None = None
    least_requests: int = 0


@dataclass
class Submitted:
    """What was sent. `asked` has the requests that could not be sent, and why it stopped, if it did.

    `buried` are the items and passes that never can be sent: they have dead letters.
    """

    batches: int = 0
    requests: int = 0
    reserved_usd: float = 0.0
    buried: set[tuple[bytes, int]] = field(default_factory=set)
    asked: Asked = field(default_factory=Asked)


def batch_client(how: Asking) -> BatchClient:
    """The files and batches of the provider that a model is asked at; call it in the event loop.

    Raises:
        ConfigError: the environment holds no key, or the model is not asked through the OpenAI client.
    """
    teacher = how.connect()
    if not isinstance(teacher, OpenAITeacher):
        raise ConfigError("teacher", f"{how.model} cannot be asked in batches", "Leave out --batch.")
    return BatchClient(teacher, how.max_attempts, how.sleep)


async def submit(
    store: Store,
    how: Asking,
    requests: Iterator[Request],
    stage: str,
    run_id: int,
    budget_usd: float | None = None,
    terms: Terms | None = None,
    now: Callable[[], float] = time.time,
) -> Submitted:
    """Send requests as batches; afterwards they wait in open batches, or are due as before.

    Args:
        store: the open database.
        how: the model to ask.
        requests: consumed as files are filled.
        stage: kept with each call.
        run_id: the job's row in `runs`, which the money is counted under.
        budget_usd: the most that all of it may cost; what does not fit is not sent (stopped: budget).
        terms: the provider's limits.
        now: seconds since 1970.

    Raises:
        StoreError: the database cannot be written; what was created before is found again.
    """
    terms, submitted = terms or Terms(), Submitted()
    async with aclosing(batch_client(how)) as client:
        files = InputFiles(
            requests,
            lambda request: _body(how, client, request),
            lambda request: version_of(how, request),
            lambda request: most_usd(how, request),
            budget_usd,
            terms.most_requests,
            terms.most_bytes,
            lambda: uuid.uuid4().hex,
        )
        try:
            for file in files:
                if files.out_of_money and submitted.requests + len(file.lines) < terms.least_requests:
                    break
                await _send(store, client, file, stage, run_id, terms.window, now)
                submitted.batches += 1
                submitted.requests += len(file.lines)
                submitted.reserved_usd += file.most_usd
                if terms.most_batches is not None and submitted.batches >= terms.most_batches:
                    break
        except TransientTeacherError as error:
            submitted.asked.errors[error.error_class] += 1
            submitted.asked.stopped = "teacher_down"
        except (FatalTeacherError, RefusedTeacherError) as error:
            submitted.asked.errors[error.error_class] += 1
            submitted.asked.stopped = "fatal"
            submitted.asked.fatal = _fatal(error)
    if files.out_of_money:
        submitted.asked.stopped = submitted.asked.stopped or "budget"
    await _bury(store, how, files.refused, stage, run_id, submitted)
    return submitted


def most_usd(how: Asking, request: Request) -> float:
    """The most that a request can cost as a line of a batch."""
    tokens, output_tokens = how.prompt.most_tokens(request), how.prompt.most_output_tokens(request)
    price = how.price_of(request.pass_number)
    return price.batch * price.cost_usd(tokens, 0, output_tokens)


def version_of(how: Asking, request: Request) -> Version:
    """What the answers to a request are kept under."""
    return replace(how.version.of_pass(request.pass_number), prompt_version=how.prompt.version_of(request))


def _body(how: Asking, client: BatchClient, request: Request) -> dict[str, Any]:
    """The very body that the request would have online."""
    prompt, number = how.prompt, request.pass_number
    messages, form = prompt.messages(request), prompt.response_format(request)
    return client.teacher.body(messages, form, number, prompt.most_output_tokens(request))


async def _send(
    store: Store,
    client: BatchClient,
    file: InputFile,
    stage: str,
    run_id: int,
    window: str,
    now: Callable[[], float],
) -> None:
    batch_id = book.plan(store, file, client.teacher.base_url, stage, run_id, now())
    try:
        file_id = await client.upload(file.content, f"flywheel-{file.token}.jsonl")
    except (TransientTeacherError, RefusedTeacherError, FatalTeacherError):
        book.drop(store, batch_id)
        raise
    book.note(store, batch_id, now(), status="uploaded", input_file_id=file_id)
    try:
        made = await client.create(file_id, file.token, window)
    except (RefusedTeacherError, FatalTeacherError):
        book.drop(store, batch_id)
        await client.discard(file_id)
        raise
    book.note(store, batch_id, now(), status=made.status, remote_id=made.id)


def _fatal(error: FatalTeacherError | RefusedTeacherError) -> FatalTeacherError:
    if isinstance(error, FatalTeacherError):
        return error
    remedy = "What was sent before is kept; check teacher.batch and teacher.base_url, or leave out --batch."
    return FatalTeacherError(error.error_class, error.detail, remedy)


async def _bury(
    store: Store,
    how: Asking,
    refused: list[tuple[Request, RefusedTeacherError]],
    stage: str,
    run_id: int,
    submitted: Submitted,
) -> None:
    """Dead letters of what cannot be sent at all, such as an image that cannot be read."""
    if not refused:
        return
    async with Ledger(store, how.version, stage, run_id, sleep=how.sleep) as ledger:
        for request, error in refused:
            answer = Answer(None, error_class=error.error_class, reason=error.detail)
            answers = [(item.key, request.pass_number, answer) for item in request.items]
            await ledger.write(Entry("failed", 0, error.error_class, None, 0.0, answers, request.pass_number))
            submitted.asked.errors[error.error_class] += 1
            submitted.asked.invalid += len(request.items)
            submitted.buried.update((item.key, request.pass_number) for item in request.items)
