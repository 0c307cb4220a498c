"""The HTTP side of the simulated teacher: routes, statuses and headers of an OpenAI-compatible API.

It owns what a client sees on the wire. What is said comes from `replies`, what goes wrong from `faults`. The
Batch API of a later issue adds its routes (/v1/files, /v1/batches) in `create_application` and its own module
beside this one; `Scribe.reply` is what it calls for each line.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

from aiohttp import web

from deployments.teacher_sim.answers import AnswerBook
from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.faults import GARBAGE, Fate, RequestBucket, cast
from deployments.teacher_sim.replies import RefusedRequestError, Scribe
from deployments.teacher_sim.settings import TeacherSettings

LARGEST_BODY_BYTES = 64 * 2**20


def create_application(book: AnswerBook, settings: TeacherSettings, counts: Counts) -> web.Application:
    """The application: chat completions, models, health and statistics."""
    teacher = _Teacher(book, settings, counts)
    application = web.Application(client_max_size=LARGEST_BODY_BYTES)
    application.add_routes(
        [
            web.post("/v1/chat/completions", teacher.chat_completions),
            web.get("/v1/models", teacher.models),
            web.get("/healthz", teacher.health),
            web.get("/stats", teacher.stats),
        ]
    )
    return application


class _Teacher:
    def __init__(self, book: AnswerBook, settings: TeacherSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._scribe = Scribe(book, settings.model)
        self._bucket = RequestBucket(settings.requests_per_minute, time.monotonic)
        self._recorded = len(book)

    async def chat_completions(self, http: web.Request) -> web.Response:
        with self._counts.request() as number:
            body = await http.read()
            try:
                response = await self._answered(http, body, number)
            except RefusedRequestError as refusal:
                response = _error(refusal.status, refusal.code, refusal.message)
            self._counts.by_status[response.status] += 1
            return response

    async def _answered(self, http: web.Request, body: bytes, number: int) -> web.Response:
        self._authorise(http)
        settings = self._settings
        limits = self._limits()
        wait = self._bucket.take()
        if wait:
            return _error(429, "rate_limit_exceeded", "too many requests a minute", limits | _retry(wait))
        fortune = cast(settings, number)
        if fortune.fate is Fate.HUNG:
            self._counts.hung += 1
            await asyncio.Event().wait()
        if fortune.fate is Fate.RATE_LIMITED:
            retry = _retry(settings.retry_after_seconds)
            return _error(429, "rate_limit_exceeded", "the simulated teacher is busy", limits | retry)
        if fortune.fate is Fate.FAILED:
            return _error(500, "server_error", "the simulated teacher failed by chance")
        if settings.budget_calls is not None and self._counts.paid >= settings.budget_calls:
            raise RefusedRequestError(
                402, "insufficient_quota", "the budget of the simulated teacher is used up"
            )

        request = _decoded(body)
        reply = self._scribe.reply(request, number, int(time.time()))
        # Paid before the latency: a provider charges a client that hung up while waiting.
        seed = request.get("seed")
        self._counts.pay(reply.items, seed if isinstance(seed, int) else 0, reply.body["usage"])
        if fortune.delay_seconds:
            await asyncio.sleep(fortune.delay_seconds)
        headers = self._limits() | {"x-request-id": reply.body["id"]}
        if fortune.fate is Fate.GARBLED:
            content_type, text = GARBAGE[fortune.garbage](reply.body)
            return web.Response(text=text, content_type=content_type, headers=headers)
        return _json(200, reply.body, headers)

    async def models(self, http: web.Request) -> web.Response:
        try:
            self._authorise(http)
        except RefusedRequestError as refusal:
            return _error(refusal.status, refusal.code, refusal.message)
        model = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": "teacher-sim"}
        return _json(200, {"object": "list", "data": [model]})

    async def health(self, http: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "recorded": self._recorded})

    async def stats(self, http: web.Request) -> web.Response:
        return _json(200, self._counts.as_dict())

    def _authorise(self, http: web.Request) -> None:
        key = self._settings.api_key
        if key is not None and http.headers.get("Authorization") != f"Bearer {key}":
            raise RefusedRequestError(401, "invalid_api_key", "the API key is missing or wrong")

    def _limits(self) -> dict[str, str]:
        if not self._bucket.size:
            return {}
        return {
            "x-ratelimit-limit-requests": f"{self._bucket.size:g}",
            "x-ratelimit-remaining-requests": str(self._bucket.remaining),
            "x-ratelimit-reset-requests": f"{60 / self._bucket.size:.3f}s",
        }


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RefusedRequestError(400, "invalid_request_error", f"the body is not JSON ({error})") from error
    if not isinstance(request, dict):
        raise RefusedRequestError(400, "invalid_request_error", "the body is not a JSON object")
    return request


def _retry(seconds: float) -> dict[str, str]:
    return {
        "retry-after": str(math.ceil(seconds)),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    encoded = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return web.Response(status=status, body=encoded, content_type="application/json", headers=headers)


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    kind = {401: "authentication_error", 402: "insufficient_quota", 429: "rate_limit_error"}.get(status)
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    return _json(status, {"error": error}, headers)
