"""The client of an OpenAI-compatible API: one request in, one reply or one of three kinds of error out.

Knows nothing of retries, budgets or labels. The API key goes into the client and comes out nowhere: whatever a
provider says is bounded, and the key is struck out of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from tasks.errors import FatalTeacherError, RefusedTeacherError, TeacherError, TransientTeacherError
from tasks.labeling.limits import limit_headers
from tasks.labeling.prompts import Message
from tasks.labeling.replies import clean

MAX_DETAIL = 300
MAX_BODY_BYTES = 4 * 2**20  # of a reply; the longest proper one has some tens of thousands of tokens
BODY_START_BYTES = 2_000  # of an endless one, kept to be looked at
COMPLETIONS = "/chat/completions"
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_credits")
_SECRET = re.compile(r"\b(?:sk[-_]|Bearer )[A-Za-z0-9*_\-.]{6,}")


@dataclass(frozen=True)
class Reply:
    """What was paid for. `problem` is set when the body was no chat completion, `text` is the body then.

    `headers` are the provider's rate limits, names in small letters.
    """

    text: str
    model: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    latency_seconds: float
    finished: bool = True
    refused: bool = False
    problem: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Teacher(Protocol):
    """Whoever can be asked; `seed` is the number of the pass (1-based)."""

    async def ask(
        self,
        messages: list[Message],
        response_format: dict[str, Any] | None,
        seed: int,
        most_output_tokens: int | None = None,
    ) -> Reply:
        """The reply to one request, of at most `most_output_tokens` where they are given.

        Raises:
            TransientTeacherError: worth another try.
            RefusedTeacherError: this request would fail again.
            FatalTeacherError: every request would fail.
        """

    async def aclose(self) -> None:
        """Give back every connection."""


class OpenAITeacher:
    """A model behind an OpenAI-compatible API, through the SDK's client on its aiohttp transport.

    The SDK gives address, headers and transport; the request itself is written here and its reply read raw. Asked
    so, a request costs 0.45 ms of CPU; 0.85 by the SDK's low-level `post`, which builds the same request out of
    options each time, and four times as much by `create`, which builds objects of the reply, too.

    Args:
        base_url: up to and with /v1.
        api_key: sent, and shown to nobody.
        model: its name at the provider.
        temperature: None leaves it to the provider.
        max_output_tokens: of a reply, where a request does not say how many.
        timeout_seconds: of a whole request.
        concurrency: connections.
        by_pass: model and temperature of the passes that have their own.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        temperature: float | None,
        max_output_tokens: int,
        timeout_seconds: float,
        concurrency: int,
        by_pass: Mapping[int, tuple[str, float | None]] | None = None,
    ) -> None:
        import httpx2
        from aiohttp import ClientError
        from openai import AsyncOpenAI, DefaultAioHttpClient

        self._secret = api_key
        self._timeout_seconds = timeout_seconds
        self._request, self._timed_out = httpx2.Request, httpx2.TimeoutException
        self._cannot_connect = httpx2.ConnectTimeout  # also when the connection is refused
        # What is no HTTP at all comes out of the transport as it is.
        self._broken = (httpx2.HTTPError, ClientError)
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        timeout = httpx2.Timeout(timeout_seconds)
        self.base_url = base_url
        self._http = DefaultAioHttpClient(
            limits=limits, timeout=timeout, event_hooks={"response": [_bounding(MAX_BODY_BYTES)]}
        )
        self.client = AsyncOpenAI(
            base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout, http_client=self._http
        )
        self._url = httpx2.URL(f"{str(self.client.base_url).rstrip('/')}{COMPLETIONS}")
        said = {**self.client.default_headers, **self.client.auth_headers}
        self._headers = httpx2.Headers(
            {name: value for name, value in said.items() if isinstance(value, str)}
        )
        self._extensions = {"timeout": timeout.as_dict()}
        # OpenAI's newer models refuse `max_tokens`; other servers may not know `max_completion_tokens`.
        self._most = "max_completion_tokens" if "://api.openai.com" in base_url else "max_tokens"
        self._max_output_tokens = max_output_tokens
        self._model, self._temperature, self._by_pass = model, temperature, by_pass or {}

    async def ask(
        self,
        messages: list[Message],
        response_format: dict[str, Any] | None,
        seed: int,
        most_output_tokens: int | None = None,
    ) -> Reply:
        """See `Teacher.ask`."""
        body = self.body(messages, response_format, seed, most_output_tokens)
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        started = time.perf_counter()
        try:
            # The transport's own time-outs are between bytes; this one holds for a server that drips, too.
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._http.send(
                    self._request(
                        "POST", self._url, headers=self._headers, content=content, extensions=self._extensions
                    )
                )
        except _EndlessError as error:
            text = error.start.decode("utf-8", "replace")
            return Reply(text, None, 0, 0, 0, time.perf_counter() - started, problem="endless")
        except (TimeoutError, *self._broken) as error:
            # `from None`: the transport's exceptions carry the request with its headers.
            raise self._unanswered(error) from None
        if response.is_success:
            headers = limit_headers(response.headers.raw)
            return self.reply(response.content, time.perf_counter() - started, headers)
        raise self.error(response.status_code, _error_in(response.text), dict(response.headers))

    def body(
        self,
        messages: list[Message],
        response_format: dict[str, Any] | None,
        seed: int,
        most_output_tokens: int | None = None,
    ) -> dict[str, Any]:
        """The body of a chat-completions request, the same online and as a line of a batch."""
        model, temperature = self._by_pass.get(seed, (self._model, self._temperature))
        body = {
            "model": model,
            self._most: most_output_tokens or self._max_output_tokens,
            "messages": messages,
            "seed": seed,
        }
        if temperature is not None:
            body["temperature"] = temperature
        if response_format is not None:
            body["response_format"] = response_format
        return body

    def error_of(self, error: Exception) -> TeacherError:
        """Which of the three kinds an exception of the SDK is; its words are bounded and hold no key."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self.error(error.status_code, error.body, dict(error.response.headers))
        return self._unanswered(error.__cause__ or error)

    def _unanswered(self, error: BaseException) -> TransientTeacherError:
        if isinstance(error, TimeoutError | self._timed_out) and not isinstance(error, self._cannot_connect):
            return TransientTeacherError("timeout", f"no reply within {self._timeout_seconds:g} seconds")
        return TransientTeacherError("connection", self._bounded(error))

    async def aclose(self) -> None:
        """See `Teacher.aclose`."""
        await self.client.close()

    def reply(
        self, content: bytes, latency_seconds: float, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """What the body of a reply with status 200 says; `headers` are the rate limits that came with it.

        Raises:
            TeacherError: it wraps an error.
        """
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, dict) and isinstance(body.get("error"), dict) and not body.get("choices"):
            # Some gateways wrap an upstream error into a 200.
            code = body["error"].get("code")
            raise self.error(int(code) if str(code).isdigit() else 502, body["error"], headers or {})
        try:
            assert isinstance(body, dict)
            choice = body["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (AssertionError, KeyError, IndexError, TypeError, AttributeError):
            text = content.decode("utf-8", "replace")
            problem = "html" if text.lstrip().startswith("<") else "not_a_completion"
            return Reply(text, None, 0, 0, 0, latency_seconds, problem=problem, headers=headers or {})
        refused = finish == "content_filter" or bool(refusal and not text)
        usage = _object(body.get("usage"))
        details = _object(usage.get("prompt_tokens_details"))
        return Reply(
            text if isinstance(text, str) else str(refusal or ""),
            clean(body.get("model"), MAX_DETAIL),
            _count(usage.get("prompt_tokens")),
            _count(details.get("cached_tokens")),
            _count(usage.get("completion_tokens")),
            latency_seconds,
            finished=finish != "length",
            refused=refused,
            headers=headers or {},
        )

    def error(self, status: int, body: object, headers: Mapping[str, str]) -> TeacherError:
        """What a reply with another status than 200 means."""
        fields = body if isinstance(body, dict) else {}
        detail = self._bounded(fields.get("message") or body or f"status {status}")
        code = str(fields.get("code") or fields.get("type") or "")
        if status == 429 and code not in NO_MONEY:
            return TransientTeacherError("rate_limited", detail, retry_after(headers), headers)
        if status == 402 or code in NO_MONEY:
            return FatalTeacherError("no_money", detail, "Top up the account; what was paid for is kept.")
        if status in (408, 409, 425) or status >= 500:
            return TransientTeacherError(f"http_{status}", detail, retry_after(headers))
        if status == 403 and isinstance(fields.get("metadata"), dict) and "reasons" in fields["metadata"]:
            return RefusedTeacherError("moderated", detail)
        if status in (401, 403):
            remedy = "Check the environment variable named by teacher.api_key_env."
            return FatalTeacherError("unauthorized" if status == 401 else "forbidden", detail, remedy)
        if code == "model_not_found":
            return FatalTeacherError("model_not_found", detail, "Check teacher.model and teacher.base_url.")
        return RefusedTeacherError(f"http_{status}", detail)

    def _bounded(self, said: object) -> str:
        text = " ".join(str(said).replace(self._secret, "***").split())
        return clean(_SECRET.sub("***", text), MAX_DETAIL) or "no reason given"


def _error_in(text: str) -> object:
    """What an error's body says: the object under `error` where it is JSON, else its text."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return body.get("error") or body if isinstance(body, dict) else body


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a provider asks to wait (`retry-after-ms`, or `retry-after` in seconds or as a date)."""
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            return max(0.0, float(lower["retry-after-ms"]) / 1000)
        written = lower.get("retry-after")
        if written is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", written):
            return float(written)
        return max(0.0, parsedate_to_datetime(written).timestamp() - time.time())
    except ValueError:
        return None


class _EndlessError(Exception):
    """A reply was longer than any proper one; `start` is how it begins."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        super().__init__()


def _bounding(most_bytes: int) -> Callable[[Any], Awaitable[None]]:
    """A response hook of the HTTP client: what a teacher says beyond `most_bytes` is not read.

    Of an error the beginning is enough; a completion without end raises `_EndlessError`. Files and batches pass.
    """
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream, failed: bool) -> None:
            self._stream, self._failed = stream, failed

        async def __aiter__(self) -> AsyncIterator[bytes]:
            read, start = 0, b""
            async for part in self._stream:
                read += len(part)
                if read > most_bytes:
                    if self._failed:
                        return
                    raise _EndlessError((start + part)[:BODY_START_BYTES])
                if len(start) < BODY_START_BYTES:
                    start += part
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: httpx2.Response) -> None:
        if response.request.url.path.endswith(COMPLETIONS) and isinstance(
            response.stream, httpx2.AsyncByteStream
        ):
            response.stream = Bounded(response.stream, response.is_error)

    return bound


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
