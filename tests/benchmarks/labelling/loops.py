"""The clients to compare with: a plain loop over `AsyncOpenAI` with a semaphore, and one over bare aiohttp.

Run as `python -m tests.benchmarks.labelling.loops openai|aiohttp BASE_URL ANSWERS --passes N --concurrency N`. Neither
keeps anything: the first is what most scripts are, the second is what Python can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import polars as pl
from openai import AsyncOpenAI

from tests.benchmarks.labelling.marks import mark, mark_idle
from tests.benchmarks.labelling.plain_requests import body, schema, system_prompt
from tests.benchmarks.labelling.scene import LEAVES

KEY = "none-needed-on-loopback"


def bodies(texts: list[str], passes: int) -> Iterator[dict[str, Any]]:
    """Every request of the job."""
    form = schema(LEAVES)
    for pass_number in range(1, passes + 1):
        system = system_prompt(LEAVES, pass_number)
        for text in texts:
            yield body(system, text, form, pass_number)


async def plain_openai(base_url: str, requests: Iterator[dict[str, Any]], concurrency: int) -> int:
    """All requests at once, held back by a semaphore; the number of answers."""
    slots = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=base_url, api_key=KEY) as client:

        async def ask(request: dict[str, Any]) -> str:
            async with slots:
                reply = await client.chat.completions.create(**request)
            return str(json.loads(reply.choices[0].message.content)["label"])

        return len(await asyncio.gather(*(ask(request) for request in requests)))


async def bare_aiohttp(base_url: str, requests: Iterator[dict[str, Any]], concurrency: int) -> int:
    """As many workers as slots, over one session; the number of answers."""
    answered = 0
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            nonlocal answered
            for request in requests:
                async with session.post(f"{base_url}/chat/completions", json=request) as response:
                    response.raise_for_status()
                    reply = await response.json()
                answered += bool(json.loads(reply["choices"][0]["message"]["content"])["label"])

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return answered


LOOPS: dict[str, Callable[[str, Iterator[dict[str, Any]], int], Awaitable[int]]] = {
    "openai": plain_openai,
    "aiohttp": bare_aiohttp,
}


def main() -> None:
    """Ask everything once, between two marks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=sorted(LOOPS))
    parser.add_argument("base_url")
    parser.add_argument("answers")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    texts = pl.read_parquet(options.answers)["text"].to_list()

    async def run() -> int:
        return await LOOPS[options.loop](options.base_url, bodies(texts, options.passes), options.concurrency)

    mark_idle(("openai.resources.chat.completions", "openai._legacy_response"))
    mark("begin")
    answered = asyncio.run(run())
    mark("end", result={"answered": answered})


if __name__ == "__main__":
    main()
