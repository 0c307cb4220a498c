"""How the simulated teacher works a batch off: it validates the file, answers line by line, sorts the results.

It owns the states of a batch and the rows of its result files as OpenAI words them. What a line is answered comes
from `replies`; HTTP and the keeping of files belong to `batches`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.replies import CHARACTERS_PER_TOKEN, RefusedRequestError, Scribe
from deployments.teacher_sim.settings import TeacherSettings

ENDPOINT = "/v1/chat/completions"
WINDOW_SECONDS = 24 * 3600
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
LINES_AT_ONCE = 20  # before other requests get a turn
AROUND = 0.1  # of a batch's time goes to validating, and as much to finalizing
MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@dataclass
class Batch:
    """A batch: its object on the wire, what it has to do, and the rows of its results."""

    number: int
    body: dict[str, Any]
    content: bytes
    tokens: int = 0
    output: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def become(self, status: str) -> None:
        """Change the status, and say when."""
        self.body["status"] = status
        self.body[f"{status}_at"] = int(time.time())


def new_batch(number: int, input_file_id: str, content: bytes, metadata: dict[str, str]) -> Batch:
    """A batch that is about to be validated."""
    now = int(time.time())
    body = {
        "id": f"batch_sim_{number:012d}",
        "object": "batch",
        "endpoint": ENDPOINT,
        "errors": None,
        "input_file_id": input_file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": now + WINDOW_SECONDS,
        **{f"{moment}_at": None for moment in MOMENTS},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
    }
    return Batch(number, body, content)


class BatchWork:
    """Works batches off; all chance comes from the seed, the batch's number and the line's."""

    def __init__(self, scribe: Scribe, settings: TeacherSettings, counts: Counts) -> None:
        self._scribe, self._settings, self._counts = scribe, settings, counts
        self._lines_answered = 0

    async def work_off(self, batch: Batch, others: Iterable[Batch]) -> str:
        """Validate and answer a batch; returns the status it ends with once its result files are kept.

        `failed` is there at once, with the reasons in the body; otherwise the rows are in `output` and `errors`.
        """
        lines = batch.content.splitlines()
        await _unless(batch.cancelled, AROUND * self._settings.batch_seconds)
        if problems := await self._problems(batch, lines) or self._too_many_tokens(batch, others):
            batch.body["errors"] = {"object": "list", "data": problems}
            return "failed"
        batch.body["request_counts"]["total"] = len(lines)
        if not batch.cancelled.is_set():
            batch.become("in_progress")
        expired = await self._answer_all(batch, lines)
        if not batch.cancelled.is_set():
            batch.become("finalizing")
            await _unless(batch.cancelled, AROUND * self._settings.batch_seconds)
        # The order of a real result file is nobody's promise.
        random.Random(f"{self._settings.seed}:{batch.number}").shuffle(batch.output)
        return "cancelled" if batch.cancelled.is_set() else "expired" if expired else "completed"

    async def _answer_all(self, batch: Batch, lines: list[bytes]) -> bool:
        """Answer line by line, evenly over the time there is; whether any line was left to expire."""
        clock = asyncio.get_running_loop().time
        began, seconds = clock(), (1 - 2 * AROUND) * self._settings.batch_seconds
        expired = False
        for place, line in enumerate(lines, start=1):
            if (wait := began + seconds * place / len(lines) - clock()) > 0:
                await _unless(batch.cancelled, wait)
            elif place % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
            asked = json.loads(line)
            chance = random.Random(f"{self._settings.seed}:{batch.number}:{place}").random()
            if batch.cancelled.is_set():
                self._not_done(
                    batch, asked, "batch_cancelled", "The batch was cancelled before this request."
                )
            elif chance < self._settings.batch_expired_rate:
                self._not_done(batch, asked, "batch_expired", "This request could not be executed in time.")
                expired = True
            else:
                chance -= self._settings.batch_expired_rate
                self._answer(batch, asked, chance < self._settings.batch_error_rate)
        return expired

    def _answer(self, batch: Batch, asked: dict[str, Any], failed: bool) -> None:
        self._lines_answered += 1
        status, budget = 200, self._settings.budget_calls
        try:
            if failed:
                raise RefusedRequestError(500, "server_error", "the simulated teacher failed by chance")
            if budget is not None and self._counts.paid >= budget:
                raise RefusedRequestError(429, "insufficient_quota", "the budget is used up")
            # Numbers that no online request will reach, so that every reply has an id of its own.
            reply = self._scribe.reply(asked["body"], 10**9 + self._lines_answered, int(time.time()))
        except RefusedRequestError as refusal:
            kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
            error = {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}
            status, body = refusal.status, {"error": error}
        else:
            seed, body = asked["body"].get("seed"), reply.body
            self._counts.pay(reply.items, seed if isinstance(seed, int) else 0, body["usage"])
            self._counts.batch_paid += 1
        request_id = f"req_sim_{self._lines_answered:012d}"
        _write(batch, asked, {"status_code": status, "request_id": request_id, "body": body}, None)

    def _not_done(self, batch: Batch, asked: dict[str, Any], code: str, message: str) -> None:
        _write(batch, asked, None, {"code": code, "message": message})

    async def _problems(self, batch: Batch, lines: list[bytes]) -> list[dict[str, Any]]:
        """Why the file cannot be worked off, as OpenAI's validation words it; empty when it can."""
        most = self._settings.batch_most_requests
        if not lines:
            return [_problem("empty_file", "The input file is empty.")]
        if len(lines) > most:
            return [_problem("invalid_request", f"The file has {len(lines)} requests; the most is {most}.")]
        seen: set[str] = set()
        models: set[str] = set()
        for number, line in enumerate(lines, start=1):
            try:
                asked = json.loads(line)
                custom_id, body = asked["custom_id"], asked["body"]
                rightly = asked["method"] == "POST" and asked["url"] == ENDPOINT
                rightly = rightly and isinstance(custom_id, str) and isinstance(body, dict)
            except (ValueError, KeyError, TypeError):
                return [_problem("invalid_json_line", "This line is not parseable as valid JSON.", number)]
            if not rightly:
                return [_problem("invalid_request", f"Every line is a POST to {ENDPOINT}.", number)]
            if custom_id in seen:
                return [_problem("duplicate_custom_id", f"{custom_id} is used twice.", number)]
            seen.add(custom_id)
            models.add(str(body.get("model")))
            if number % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        if len(models) > 1:
            return [_problem("mismatched_model", f"The file names several models: {sorted(models)}.")]
        batch.body["model"] = models.pop()
        return []

    def _too_many_tokens(self, batch: Batch, others: Iterable[Batch]) -> list[dict[str, Any]]:
        most = self._settings.batch_most_tokens
        before = sum(other.tokens for other in others if other.body["status"] in OPEN)
        tokens = -(-len(batch.content) // CHARACTERS_PER_TOKEN)
        if most and before + tokens > most:
            said = (
                f"Enqueued token limit reached for {batch.body['model']}. Limit: {most:,.0f} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            return [_problem("token_limit_exceeded", said)]
        batch.tokens = tokens
        return []


def _write(
    batch: Batch, asked: dict[str, Any], response: dict[str, Any] | None, error: dict[str, Any] | None
) -> None:
    done = response is not None and response["status_code"] == 200
    number = len(batch.output) + len(batch.errors) + 1
    id = f"batch_req_sim_{batch.number:06d}_{number:06d}"
    row = {"id": id, "custom_id": asked["custom_id"], "response": response, "error": error}
    written = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    (batch.output if done else batch.errors).append(written)
    batch.body["request_counts"]["completed" if done else "failed"] += 1


def _problem(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Let time pass, unless the event ends the waiting."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
