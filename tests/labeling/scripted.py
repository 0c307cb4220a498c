"""A teacher whose every reply is scripted, over real HTTP; and what the labelling tests share."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import polars as pl
from aiohttp import web

from tasks.labeling.asking import Asking
from tasks.labeling.budget import Price
from tasks.labeling.prompts import Prompt
from tasks.labeling.teacher import OpenAITeacher
from tasks.records import text_key
from tasks.store import Store
from tasks.store.items import append_items
from tasks.taxonomy import Taxonomy, build_taxonomy

TREE = {
    "Kitchen": {"_about": "things to cook with", "Kettles": "to boil water in", "Knives": None},
    "Garden": {"Hoses": None, "Seeds": {"Flowers": None, "Vegetables": None}},
}
KETTLES, KNIVES, HOSES = "Kitchen > Kettles", "Kitchen > Knives", "Garden > Hoses"
KEY = "sk-very-secret-0123456789"
NO_KEYS = pl.DataFrame(schema={"key": pl.Binary})

Script = Callable[[str, int, int], "Said"]


class Said:
    """One HTTP reply of the script: what the teacher says, or a raw body with any status."""

    def __init__(
        self,
        content: str | None = "",
        *,
        status: int = 200,
        body: str | None = None,
        headers: dict[str, str] | None = None,
        finish: str = "stop",
        model: str = "echoed-1",
        usage: Any = None,
        never: bool = False,
        endless: int | None = None,
    ) -> None:
        self.status, self.headers, self.never, self.endless = status, headers, never, endless
        usage = usage or {
            "prompt_tokens": 1000,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 400},
        }
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
        self.body = body or json.dumps({"model": model, "choices": [choice], "usage": usage})


def says(label: str, **more: Any) -> Said:
    """A proper answer with a label."""
    return Said(json.dumps({"label": label, "confidence": 0.9, "reason": "it looks like one"} | more))


def lists(labels: Sequence[str | None], **more: Any) -> Said:
    """Proper answers about several items; None leaves an item out."""
    answers = [
        {"item": number, "label": label, "confidence": 0.9, "reason": "so"}
        for number, label in enumerate(labels, start=1)
        if label is not None
    ]
    return Said(json.dumps({"answers": answers}), **more)


def fails(status: int, message: str = "no", code: str = "", **headers: str) -> Said:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": code, "code": code}})
    return Said(status=status, body=body, headers=headers)


class ScriptedTeacher:
    """Serves `script(item text, pass, how often this item and pass was asked)` in a thread of its own."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.bodies: list[dict[str, Any]] = []
        self.dripped = 0
        self.peers: set[Any] = set()
        self._asked: dict[tuple[str, int], int] = {}
        self._started, self._stop = threading.Event(), asyncio.Event()

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, http: web.Request) -> web.Response:
        body = await http.json()
        self.bodies.append(body)
        self.peers.add(http.transport.get_extra_info("peername") if http.transport else None)
        said = self._said(body)
        if said.never:
            await self._stop.wait()
        if said.endless is not None:
            return await self._drip(http, said)
        kind = "text/html" if said.body.startswith("<") else "application/json"
        return web.Response(text=said.body, status=said.status, headers=said.headers, content_type=kind)

    def _said(self, body: dict[str, Any]) -> Said:
        content = body["messages"][-1]["content"]
        text = content.split("\n")[1] if isinstance(content, str) else "image"
        asked = self._asked[text, body["seed"]] = self._asked.get((text, body["seed"]), 0) + 1
        return self._script(text, body["seed"], asked)

    async def _drip(self, http: web.Request, said: Said) -> web.Response:
        """A body that goes on for as long as anybody listens: this many bytes at a time."""
        assert said.endless is not None
        response = web.StreamResponse(status=said.status, headers={"Content-Type": "application/json"})
        await response.prepare(http)
        try:
            await response.write(said.body[:-1].encode())
            while not self._stop.is_set():
                await response.write(b" " * said.endless)
                self.dripped += said.endless
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.CancelledError):
            pass  # nobody listens any more
        return response  # type: ignore[return-value]


class SeveralTeacher(ScriptedTeacher):
    """The same for several items in a request: `say(items' texts, pass, body)`."""

    def __init__(self, say: Callable[[list[str], int, dict[str, Any]], Said]) -> None:
        super().__init__(lambda *_: Said())
        self._say = say

    def _said(self, body: dict[str, Any]) -> Said:
        return self._say(items_in(body), body["seed"], body)


class FakeTime:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def taxonomy() -> Taxonomy:
    return build_taxonomy(TREE, other="none of these")


def how(
    base_url: str,
    *,
    instructions: str = "Classify the product by its name.",
    labels: Taxonomy | None = None,
    time: FakeTime | None = None,
    concurrency: int = 8,
    max_attempts: int = 4,
    structured: bool = True,
    model: str = "some-model",
    modality: str = "text",
    timeout_seconds: float = 10.0,
    **form: Any,
) -> Asking:
    """An `Asking` of the real client against a server of the tests; `form` is of the prompt."""
    time = time or FakeTime()
    return Asking(
        Prompt(labels or taxonomy(), instructions, modality, structured, **form),
        lambda: OpenAITeacher(base_url, KEY, model, 0.0, 100, timeout_seconds, concurrency),
        model,
        Price(1.0, 10.0, 0.1),
        concurrency,
        max_attempts,
        0.0,
        100,
        time.clock,
        time.sleep,
        head_start_seconds=float("inf"),  # however slow this machine is: the first request goes alone
    )


COST_USD = (600 * 1.0 + 400 * 0.1 + 20 * 10.0) / 1e6


def put_texts(store: Store, texts: Sequence[str]) -> list[bytes]:
    """Items in the database; returns their keys."""
    keys = [text_key(text) for text in texts]
    frame = pl.DataFrame(
        {"key": keys, "source_id": [f"id-{text}" for text in texts], "text": list(texts), "image": None},
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    append_items(store, frame, "source", 1)
    return keys


def item_in(body: dict[str, Any]) -> str:
    """What stands inside the delimiter of a request."""
    found = re.fullmatch(r"<(item-[0-9]+)>\n(.*)\n</\1>", body["messages"][-1]["content"], re.DOTALL)
    assert found
    return found.group(2)


def items_in(body: dict[str, Any]) -> list[str]:
    """What stands behind the marks of a request about several items, in order."""
    content = body["messages"][-1]["content"]
    return re.findall(r"<item-[0-9]+ [0-9]+>\n(.*?)(?=\n</?item-)", content, re.DOTALL)
