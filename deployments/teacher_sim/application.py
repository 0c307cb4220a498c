"""The HTTP side of the simulated teacher: routes, statuses and headers of an OpenAI-compatible API.

It owns what a client sees on the wire. What is said comes from `replies`, what goes wrong from `faults`, and the
Batch API from `batches`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from deployments.teacher_sim.answers import AnswerBook
from deployments.teacher_sim.batches import BatchDesk, Handle
from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.embeddings import embeddings_of
from deployments.teacher_sim.faults import GARBAGE, Cast, Fate, MinuteBucket, Storm, cast, written_duration
from deployments.teacher_sim.replies import RefusedRequestError, Scribe
from deployments.teacher_sim.settings import TeacherSettings

LARGEST_BODY_BYTES = 64 * 2**20


def create_application(book: AnswerBook, settings: TeacherSettings, counts: Counts) -> web.Application:
    """The application: chat completions, embeddings, batches and their files, models, health and statistics."""
    teacher = _Teacher(book, settings, counts)
    application = web.Application(client_max_size=LARGEST_BODY_BYTES)
    application.add_routes(
        [
            web.post("/v1/chat/completions", teacher.chat_completions),
            web.post("/v1/embeddings", teacher.embeddings),
            web.get("/v1/models", teacher.models),
            web.get("/healthz", teacher.health),
            web.get("/stats", teacher.stats),
            *(
                web.route(method, path, teacher.guarded(handle))
                for method, path, handle in teacher.desk.routes()
            ),
        ]
    )
    application.on_cleanup.append(teacher.desk.stop)
    return application


class _Teacher:
    def __init__(self, book: AnswerBook, settings: TeacherSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._scribe = Scribe(book, settings.model)
        self.desk = BatchDesk(self._scribe, settings, counts)
        self._requests = MinuteBucket(settings.requests_per_minute, time.monotonic)
        self._tokens = MinuteBucket(settings.tokens_per_minute, time.monotonic)
        self._storm = Storm(settings.storm_start_seconds, settings.storm_seconds, time.monotonic)
        self._recorded = len(book)

    async def chat_completions(self, http: web.Request) -> web.Response:
        return await self._counted(http, self._answered)

    async def embeddings(self, http: web.Request) -> web.Response:
        return await self._counted(http, self._embedded)

    async def _counted(
        self, http: web.Request, answer: Callable[[web.Request, bytes, int], Awaitable[web.Response]]
    ) -> web.Response:
        with self._counts.request() as number:
            body = await http.read()
            try:
                response = await answer(http, body, number)
            except RefusedRequestError as refusal:
                response = _error(refusal.status, refusal.code, refusal.message)
            self._counts.replied(response.status)
            return response

    async def _embedded(self, http: web.Request, body: bytes, number: int) -> web.Response:
        fortune = await self._fortune(http, number)
        if isinstance(fortune, web.Response):
            return fortune
        said = embeddings_of(_decoded(body))
        if fortune.delay_seconds:
            await asyncio.sleep(fortune.delay_seconds)
        if fortune.fate is Fate.GARBLED:
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        return _json(200, said, self._limits())

    async def _fortune(self, http: web.Request, number: int) -> Cast | web.Response:
        """What becomes of a request that is served; or the response of one that is not."""
        self._authorise(http)
        settings = self._settings
        if self._storm.rages():
            retry = _retry(settings.retry_after_seconds)
            return _error(429, "rate_limit_exceeded", "nobody is served now", self._limits() | retry)
        wait = self._requests.take()
        limits = self._limits()
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
        return fortune

    async def _answered(self, http: web.Request, body: bytes, number: int) -> web.Response:
        settings = self._settings
        fortune = await self._fortune(http, number)
        if isinstance(fortune, web.Response):
            return fortune
        if settings.budget_calls is not None and self._counts.paid >= settings.budget_calls:
            raise RefusedRequestError(
                402, "insufficient_quota", "the budget of the simulated teacher is used up"
            )

        request = _decoded(body)
        reply = self._scribe.reply(request, number, int(time.time()))
        wait = self._tokens.take(reply.body["usage"]["total_tokens"])
        if wait:
            retry = _retry(wait)
            return _error(429, "rate_limit_exceeded", "too many tokens a minute", self._limits() | retry)
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

    def guarded(self, handle: Handle) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler that asks for the key first, and words refusals and bodies as this API does."""

        async def handled(http: web.Request) -> web.StreamResponse:
            try:
                self._authorise(http)
                said = await handle(http)
            except RefusedRequestError as refusal:
                return _error(refusal.status, refusal.code, refusal.message)
            return said if isinstance(said, web.StreamResponse) else _json(200, said)

        return handled

    def _authorise(self, http: web.Request) -> None:
        key = self._settings.api_key
        if key is not None and http.headers.get("Authorization") != f"Bearer {key}":
            raise RefusedRequestError(401, "invalid_api_key", "the API key is missing or wrong")

    def _limits(self) -> dict[str, str]:
        headers = {}
        for what, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket.size:
                headers[f"x-ratelimit-limit-{what}"] = f"{bucket.size:.0f}"
                headers[f"x-ratelimit-remaining-{what}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{what}"] = written_duration(bucket.seconds_to_full)
        return headers


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RefusedRequestError(400, "invalid_request_error", f"the body is not JSON ({error})") from error
    if not isinstance(request, dict):
        raise RefusedRequestError(400, "invalid_request_error", "the body is not a JSON object")
    return request


def _retry(seconds: float) -> dict[str, str]:
    if not seconds:
        return {}
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
