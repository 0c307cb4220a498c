"""A man in the middle: hands requests on to a simulated teacher, over real HTTP, and may spoil what comes back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import ClientSession, web


@dataclass(frozen=True)
class Passing:
    """A reply on its way to the client; `place` counts the requests with the same method and path, from 1."""

    method: str
    path: str
    place: int
    status: int
    body: bytes
    cut: bool = False  # the connection ends in the middle of the body
    drop: bool = False  # the connection ends before any reply


Meddle = Callable[[Passing], Passing]


@dataclass
class Meddler:
    """Stands before the server at `target` (ending in /v1), in a thread of its own."""

    target: str
    meddle: Meddle
    seen: list[tuple[str, str]] = field(default_factory=list)
    _counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def times(self, method: str, path: str) -> int:
        """How often a path was asked for."""
        return self.seen.count((method, path))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        application = web.Application(client_max_size=2**28)
        application.router.add_route("*", "/v1/{tail:.*}", self._hand_on)
        async with ClientSession() as self._client:
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _hand_on(self, http: web.Request) -> web.StreamResponse:
        method, path = http.method, "/" + http.match_info["tail"]
        self.seen.append((method, path))
        place = self._counts[method, path] = self._counts.get((method, path), 0) + 1
        headers = {
            name: http.headers[name] for name in ("Authorization", "Content-Type") if name in http.headers
        }
        async with self._client.request(
            method, self.target + path, params=http.query, data=await http.read(), headers=headers
        ) as response:
            passing = Passing(method, path, place, response.status, await response.read())
            kind = response.content_type
        passing = self.meddle(passing)
        if passing.drop or passing.cut:
            assert http.transport is not None
            if passing.cut:
                half = passing.body[: len(passing.body) // 2]
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(passing.body)}\r\n\r\n"
                http.transport.write(head.encode() + half)
            http.transport.close()
            return web.Response()
        return web.Response(status=passing.status, body=passing.body, content_type=kind)
