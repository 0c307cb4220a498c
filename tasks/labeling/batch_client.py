"""The provider's files and batches, through the official SDK: upload, create, look, cancel, download.

Maps every failure to the three kinds of error that online requests have, and repeats what is worth repeating.
Knows nothing of the database or of what stands in the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from tasks.errors import FatalTeacherError, RefusedTeacherError, TransientTeacherError
from tasks.labeling.replies import clean
from tasks.labeling.retries import BASE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_SECONDS
from tasks.labeling.teacher import MAX_DETAIL, OpenAITeacher

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

ENDPOINT: Final = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
NO_BATCH_API = "no_batch_api"
TOKEN = "flywheel"  # the name of the token in a batch's metadata
PAGE = 100
CHUNK_BYTES = 2**16
TRANSFER_SECONDS = 600.0  # of a file of up to 200 MB
CLOCKS_SECONDS = 24 * 3600  # no clocks are further apart than this

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class Remote:
    """What the provider says about a batch; `problem` is why its validation failed."""

    id: str
    status: str
    input_file_id: str
    created_at: int
    token: str | None = None
    total: int = 0
    done: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    problem: str | None = None
    problem_code: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ENDED


class BatchClient:
    """Files and batches of one provider; every method raises the errors of `Teacher.ask`."""

    def __init__(self, teacher: OpenAITeacher, max_attempts: int = 6, sleep: Sleep = asyncio.sleep) -> None:
        import httpx2

        self.teacher = teacher
        self._broken = httpx2.HTTPError
        self._max_attempts, self._sleep = max_attempts, sleep

    async def upload(self, content: IO[bytes], name: str) -> str:
        """Upload an input file; returns its id."""

        async def upload() -> str:
            content.seek(0)
            file = (name, content, "application/jsonl")
            files = self.teacher.client.files
            return (await files.create(file=file, purpose="batch", timeout=TRANSFER_SECONDS)).id

        return await self._repeated(upload, has_batches=True)

    async def create(self, input_file_id: str, token: str, window: str) -> Remote:
        """Create a batch of an uploaded file, once.

        A request whose reply got lost may have created it: the batch is looked for before it is tried again.
        """
        for attempt in range(1, self._max_attempts + 1):
            try:
                return await self._once(lambda: self._create(input_file_id, token, window), has_batches=True)
            except TransientTeacherError as error:
                if attempt == self._max_attempts:
                    raise
                await self._pause(attempt, error)
            if (found := await self.find(token, input_file_id)) is not None:
                return found
        raise AssertionError("the last attempt returns or raises")

    async def _create(self, input_file_id: str, token: str, window: Any) -> Remote:
        made = await self.teacher.client.batches.create(
            input_file_id=input_file_id,
            endpoint=ENDPOINT,
            completion_window=window,
            metadata={TOKEN: token},
        )
        return self._remote(made)

    async def find(self, token: str, input_file_id: str, since: float | None = None) -> Remote | None:
        """The batch with this token, or of this file; only those created after `since` are looked at."""

        async def find() -> Remote | None:
            async for one in self.teacher.client.batches.list(limit=PAGE):
                if (one.metadata or {}).get(TOKEN) == token or one.input_file_id == input_file_id:
                    return self._remote(one)
                if since is not None and one.created_at < since - CLOCKS_SECONDS:
                    return None
            return None

        return await self._repeated(find, has_batches=True)

    async def look(self, id: str) -> Remote | None:
        """A batch as it is now; None when the provider does not know it."""

        async def look() -> Remote:
            return self._remote(await self.teacher.client.batches.retrieve(id))

        return await self._unless_gone(look)

    async def cancel(self, id: str) -> None:
        """Afterwards the batch ends soon, or had ended before."""

        async def cancel() -> None:
            await self.teacher.client.batches.cancel(id)

        try:
            await self._once(cancel)
        except RefusedTeacherError:
            return  # it had ended
        except TransientTeacherError as error:
            # 409 is worth another try elsewhere; here it says that nothing is left to cancel.
            if error.error_class != "http_409":
                raise

    async def download(self, file_id: str, into: IO[bytes]) -> bool:
        """Write a whole file; False when the provider does not have it (any more)."""

        async def download() -> bool:
            into.seek(0)
            into.truncate()
            streamed = self.teacher.client.files.with_streaming_response
            async with streamed.content(file_id, timeout=TRANSFER_SECONDS) as response:
                async for chunk in response.iter_bytes(CHUNK_BYTES):
                    into.write(chunk)
            into.seek(0)
            return True

        return await self._unless_gone(download) or False

    async def discard(self, file_id: str) -> None:
        """Delete an input file that is of no more use; when that fails the provider deletes it in its time."""

        async def discard() -> None:
            await self.teacher.client.files.delete(file_id)

        try:
            await self._once(discard)
        except (TransientTeacherError, RefusedTeacherError, FatalTeacherError):
            return

    async def aclose(self) -> None:
        """Give back every connection."""
        await self.teacher.aclose()

    async def _unless_gone(self, call: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await self._repeated(call)
        except RefusedTeacherError as error:
            if error.error_class in ("http_404", "http_410"):
                return None
            raise

    async def _repeated(self, call: Callable[[], Awaitable[T]], has_batches: bool = False) -> T:
        for attempt in range(1, self._max_attempts):
            try:
                return await self._once(call, has_batches)
            except TransientTeacherError as error:
                await self._pause(attempt, error)
        return await self._once(call, has_batches)

    async def _pause(self, attempt: int, error: TransientTeacherError) -> None:
        nominal = min(LONGEST_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))
        await self._sleep(max(nominal, min(error.retry_after_seconds or 0.0, LONGEST_PAUSE_SECONDS)))

    async def _once(self, call: Callable[[], Awaitable[T]], has_batches: bool = False) -> T:
        """One call; with `has_batches` an address that does not exist says that there is no Batch API."""
        import openai

        try:
            return await call()
        except openai.APIStatusError as error:
            # `from None` everywhere: the SDK's exceptions carry the request with its headers.
            mapped = self.teacher.error_of(error)
            if has_batches and error.status_code in (404, 405, 501):
                remedy = "This provider has no Batch API at teacher.base_url: leave out --batch."
                raise FatalTeacherError(NO_BATCH_API, mapped.detail, remedy) from None
            raise mapped from None
        except (openai.APIError, TimeoutError) as error:
            raise self.teacher.error_of(error) from None
        except self._broken as error:
            # A transfer that broke off in the middle, which the SDK hands on as it is.
            raise TransientTeacherError("connection", type(error).__name__) from None

    def _remote(self, batch: RemoteBatch) -> Remote:
        counts = batch.request_counts
        problems = batch.errors.data if batch.errors is not None and batch.errors.data else []
        said = "; ".join(
            f"{problem.message or problem.code}" + (f" (line {problem.line})" if problem.line else "")
            for problem in problems[:3]
        )
        return Remote(
            id=batch.id,
            status=str(batch.status),
            input_file_id=batch.input_file_id,
            created_at=batch.created_at or 0,
            token=(batch.metadata or {}).get(TOKEN),
            total=counts.total if counts else 0,
            done=counts.completed + counts.failed if counts else 0,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            problem=clean(said, MAX_DETAIL),
            problem_code=problems[0].code if problems else None,
        )
