"""The Batch API of the simulated teacher on the wire: files go in, batches are made of them, files come out.

It owns the routes /v1/files and /v1/batches and what is kept for them, in memory: nothing survives a restart. How
a batch is worked off is `batch_work`'s; keys and the form of errors are the application's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, web

from deployments.teacher_sim.batch_work import ENDPOINT, OPEN, Batch, BatchWork, new_batch
from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.replies import RefusedRequestError, Scribe
from deployments.teacher_sim.settings import TeacherSettings

CHUNK_BYTES = 2**16

Handle = Callable[[web.Request], Awaitable[dict[str, Any] | web.StreamResponse]]


@dataclass(frozen=True)
class _File:
    """A file, and how OpenAI describes it."""

    id: str
    name: str
    purpose: str
    content: bytes
    created_at: int

    @property
    def body(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class BatchDesk:
    """Takes files and batches, and has batches worked off in the background of the running event loop."""

    def __init__(self, scribe: Scribe, settings: TeacherSettings, counts: Counts) -> None:
        self._settings, self._counts = settings, counts
        self._work = BatchWork(scribe, settings, counts)
        self._files: dict[str, _File] = {}
        self._batches: dict[str, Batch] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._files_made = 0

    def routes(self) -> Iterator[tuple[str, str, Handle]]:
        """Method, path and handler of everything it serves; handlers raise `RefusedRequestError`."""
        yield "POST", "/v1/files", self._upload
        yield "GET", "/v1/files", self._list_files
        yield "GET", "/v1/files/{id}", self._describe_file
        yield "DELETE", "/v1/files/{id}", self._delete_file
        yield "GET", "/v1/files/{id}/content", self._download
        yield "POST", "/v1/batches", self._create
        yield "GET", "/v1/batches", self._list_batches
        yield "GET", "/v1/batches/{id}", self._describe_batch
        yield "POST", "/v1/batches/{id}/cancel", self._cancel

    async def stop(self, _: web.Application) -> None:
        """End whatever is still worked on."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _upload(self, http: web.Request) -> dict[str, Any]:
        name, purpose, content = "", "", None
        if not http.content_type.startswith("multipart/"):
            raise _invalid("a file is uploaded as multipart/form-data")
        async for part in await http.multipart():
            if not isinstance(part, BodyPartReader):
                raise _invalid("a part of the upload is itself multipart")
            if part.name == "file":
                name, content = part.filename or "", await self._read(part)
            elif part.name == "purpose":
                purpose = (await part.text()).strip()
        if content is None or purpose != "batch":
            raise _invalid("an upload needs a file and the purpose batch")
        return self._keep(name, purpose, content).body

    async def _read(self, part: BodyPartReader) -> bytes:
        content = bytearray()
        while chunk := await part.read_chunk(CHUNK_BYTES):
            content += chunk
            if len(content) > self._settings.batch_most_bytes:
                raise _invalid("File is too large.")
        return bytes(content)

    def _keep(self, name: str, purpose: str, content: bytes) -> _File:
        self._files_made += 1
        file = _File(f"file-sim-{self._files_made:012d}", name, purpose, content, int(time.time()))
        self._files[file.id] = file
        return file

    async def _list_files(self, http: web.Request) -> dict[str, Any]:
        purpose = http.query.get("purpose")
        found = [file.body for file in self._files.values() if purpose in (None, file.purpose)]
        return _page(http, found[::-1])

    async def _describe_file(self, http: web.Request) -> dict[str, Any]:
        return self._file(http.match_info["id"], 404).body

    async def _delete_file(self, http: web.Request) -> dict[str, Any]:
        file = self._file(http.match_info["id"], 404)
        del self._files[file.id]
        return {"id": file.id, "object": "file", "deleted": True}

    async def _download(self, http: web.Request) -> web.Response:
        file = self._file(http.match_info["id"], 404)
        return web.Response(body=file.content, content_type="application/octet-stream")

    def _file(self, id: str, status: int) -> _File:
        if id not in self._files:
            raise RefusedRequestError(status, "invalid_request_error", f"No such File object: {id}")
        return self._files[id]

    async def _create(self, http: web.Request) -> dict[str, Any]:
        try:
            asked = json.loads(await http.read())
        except ValueError as error:
            raise _invalid(f"the body is not JSON ({error})") from error
        if not isinstance(asked, dict):
            raise _invalid("the body is not a JSON object")
        if asked.get("endpoint") != ENDPOINT or asked.get("completion_window") != "24h":
            raise _invalid(f"endpoint must be {ENDPOINT} and completion_window 24h")
        file = self._file(str(asked.get("input_file_id")), 400)
        if file.purpose != "batch":
            raise _invalid("the input file was not uploaded for a batch")
        batch = new_batch(len(self._batches) + 1, file.id, file.content, _metadata(asked.get("metadata")))
        self._batches[batch.body["id"]] = batch
        self._counts.batches += 1
        task = asyncio.create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return batch.body

    async def _run(self, batch: Batch) -> None:
        others = [other for other in self._batches.values() if other is not batch]
        status = await self._work.work_off(batch, others)
        for name, rows in (("output", batch.output), ("error", batch.errors)):
            if rows:
                made = self._keep(f"{batch.body['id']}_{name}.jsonl", "batch_output", b"".join(rows))
                batch.body[f"{name}_file_id"] = made.id
        batch.become(status)

    async def _list_batches(self, http: web.Request) -> dict[str, Any]:
        return _page(http, [batch.body for batch in self._batches.values()][::-1])

    async def _describe_batch(self, http: web.Request) -> dict[str, Any]:
        return self._batch(http).body

    async def _cancel(self, http: web.Request) -> dict[str, Any]:
        batch = self._batch(http)
        if batch.body["status"] not in OPEN:
            status = batch.body["status"]
            raise RefusedRequestError(
                409, "invalid_request_error", f"Cannot cancel a batch that is {status}."
            )
        batch.become("cancelling")
        batch.cancelled.set()
        return batch.body

    def _batch(self, http: web.Request) -> Batch:
        id = http.match_info["id"]
        if id not in self._batches:
            raise RefusedRequestError(404, "invalid_request_error", f"No batch found with id '{id}'.")
        return self._batches[id]


def _metadata(given: object) -> dict[str, str]:
    """Metadata within OpenAI's limits: 16 pairs, names of 64 characters, values of 512."""
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > 16:
        raise _invalid("metadata is an object of at most 16 pairs")
    for name, value in given.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512:
            raise _invalid("metadata has names of at most 64 characters and strings of at most 512")
    return given


def _page(http: web.Request, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A page of a list whose newest entry stands first: `limit` entries that follow the one named `after`."""
    after = http.query.get("after")
    if after is not None:
        found = found[next((at for at, one in enumerate(found, start=1) if one["id"] == after), len(found)) :]
    try:
        limit = min(max(int(http.query.get("limit", 20)), 1), 100)
    except ValueError as error:
        raise _invalid("limit must be a number from 1 to 100") from error
    page = found[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > limit,
    }


def _invalid(message: str) -> RefusedRequestError:
    return RefusedRequestError(400, "invalid_request_error", message)
