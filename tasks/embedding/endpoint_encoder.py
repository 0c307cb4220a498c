"""Encodes texts by an OpenAI-compatible endpoint: several batches in flight, patience, and nobody's fault another's.

Knows retries and batches; what a reply means, the endpoint knows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.encoding import Encoded, Told, all_or_none, lengthened, shortened
from tasks.embedding.endpoint import Endpoint, FatalError, RefusedError, TransientError
from tasks.embedding.reading_texts import readable
from tasks.embedding.settings import EncoderSettings
from tasks.errors import EncoderError

OPENAI = "https://api.openai.com/v1"
KEY_ENV = "OPENAI_API_KEY"
LOOPBACK = ("://127.0.0.1", "://localhost", "://[::1]")
MOST_TOKENS = 8192  # of a text, at OpenAI; a longer one is refused by the provider, and named
# OpenAI takes 2,048 texts and 300,000 tokens a request; smaller ones come back sooner and are lost more cheaply.
BATCH_TEXTS, BATCH_CHARACTERS = 256, 200_000
IN_FLIGHT = 8
ATTEMPTS = 8
BASE_SECONDS, LONGEST_SECONDS, LONGEST_ASKED_SECONDS = 0.5, 30.0, 600.0
TIMEOUT_SECONDS = 120.0
REFUSED_FROM_THE_START = 8  # texts, before any was encoded: then a plain word is tried
PLAIN_WORD = "dimension"

Sleep = Callable[[float], Awaitable[None]]


class EndpointEncoder:
    """`openai:MODEL` at the project's `base_url`.

    Args:
        settings: of the encoder; `dimensions` is passed on, for models that are served at several.
        sleep: waits so many seconds.

    Raises:
        EncoderError: there is no key.
    """

    def __init__(self, settings: EncoderSettings, sleep: Sleep = asyncio.sleep) -> None:
        self._settings, self._sleep = settings, sleep
        self._random = Random(0)
        base_url = settings.base_url or OPENAI
        self._endpoint = Endpoint(
            base_url,
            _key(settings, base_url),
            settings.model.partition(":")[2],
            settings.dimensions,
            TIMEOUT_SECONDS,
        )
        self._dimension: int | None = None
        self._refused_so_far = 0

    @property
    def dimension(self) -> int:
        """Of the vectors; the first to ask costs a request of one word.

        Raises:
            EncoderError: the endpoint does not answer, or refuses.
        """
        if self._dimension is None:
            self.encode([PLAIN_WORD])
        assert self._dimension is not None
        return self._dimension

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of texts.

        Raises:
            InputError: the endpoint refuses a text.
            EncoderError: it does not answer, or refuses everything.
        """
        return all_or_none(self.encode_each(contents))

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`: of a batch that is refused, the texts that are not its cause are asked again.

        Raises:
            EncoderError: the endpoint does not answer, or refuses everything.
        """
        if not len(contents):
            return Encoded(np.zeros((0, self._dimension or 0), np.float32))
        texts = readable(contents, self._settings.prefix, self._settings.max_length or MOST_TOKENS)
        try:
            rows, refused = _run(self._all(texts, told))
        except FatalError as error:
            raise EncoderError(self._settings.model, f"the endpoint refuses ({error})", _WAYS_OUT) from None
        except TransientError as error:
            raise EncoderError(
                self._settings.model,
                f"the endpoint did not answer in {ATTEMPTS} attempts ({error.detail})",
                f"Run it again: what was encoded is kept. {_WAYS_OUT}",
                transient=True,
            ) from None
        out = np.zeros((len(texts), self.dimension), np.float32)
        for place, vector in rows.items():
            out[place] = vector
        return Encoded(lengthened(out) if self._settings.normalize else out, refused)

    async def _all(
        self, texts: Sequence[str], told: Told | None
    ) -> tuple[dict[int, NDArray[np.float32]], dict[int, str]]:
        import aiohttp

        found: dict[int, NDArray[np.float32]] = {}
        refused: dict[int, str] = {}
        waiting = batches(texts)
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)

        async def work() -> None:
            for places in waiting:  # shared: each batch is taken once
                await self._batch(session, texts, places, found, refused)
                if told is not None:
                    told(len(found) + len(refused))

        async with aiohttp.ClientSession(connector=connector) as session:
            workers = [asyncio.create_task(work()) for _ in range(IN_FLIGHT)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return found, refused

    async def _batch(
        self,
        session: Any,
        texts: Sequence[str],
        places: Sequence[int],
        found: dict[int, NDArray[np.float32]],
        refused: dict[int, str],
    ) -> None:
        try:
            vectors = await self._patiently(session, [texts[place] for place in places])
        except RefusedError as error:
            if len(places) == 1:
                refused[places[0]] = f"the endpoint refuses it ({error})"
                await self._check_it_is_the_text(session, error)
                return
            middle = len(places) // 2
            await self._batch(session, texts, places[:middle], found, refused)
            await self._batch(session, texts, places[middle:], found, refused)
            return
        found.update(zip(places, self._fitting(vectors), strict=True))

    async def _patiently(self, session: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        for attempt in range(ATTEMPTS):
            try:
                return await self._endpoint.ask(session, texts)
            except TransientError as error:
                if attempt == ATTEMPTS - 1:
                    raise
                pause = min(LONGEST_SECONDS, BASE_SECONDS * 2**attempt) * self._random.uniform(0.5, 1.5)
                await self._sleep(max(pause, min(error.after_seconds or 0.0, LONGEST_ASKED_SECONDS)))
        raise AssertionError("the last attempt returns or raises")

    async def _check_it_is_the_text(self, session: Any, error: RefusedError) -> None:
        """Where nothing was encoded yet and several texts were refused: is a plain word refused, too?

        Raises:
            FatalError: it is, so that it is not the texts.
        """
        self._refused_so_far += 1
        if self._dimension is not None or self._refused_so_far < REFUSED_FROM_THE_START:
            return
        try:
            self._fitting(await self._patiently(session, [PLAIN_WORD]))
        except RefusedError:
            raise FatalError(str(error)) from None

    def _fitting(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the one dimension, whether or not the endpoint heeds the one that is asked for."""
        wanted = self._settings.dimensions
        if wanted is not None and vectors.shape[1] > wanted:
            vectors = shortened(vectors, wanted, self._settings.normalize)
        if self._dimension is None and (wanted is None or vectors.shape[1] == wanted):
            self._dimension = vectors.shape[1]
        if vectors.shape[1] != (self._dimension or wanted):
            raise EncoderError(
                self._settings.model,
                f"the endpoint gave vectors of {vectors.shape[1]} dimensions, "
                f"where {self._dimension or wanted} were expected",
                "Set encoder.dimensions to what the model gives, or name a model that is pinned to a version.",
            )
        return vectors


_WAYS_OUT = "Or name an encoder that runs here."


def batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places of texts, so many to a request as a provider takes."""
    held: list[int] = []
    characters = 0
    for place, text in enumerate(texts):
        if held and (len(held) >= BATCH_TEXTS or characters + len(text) > BATCH_CHARACTERS):
            yield held
            held, characters = [], 0
        held.append(place)
        characters += len(text)
    if held:
        yield held


def _key(settings: EncoderSettings, base_url: str) -> str:
    name = settings.api_key_env or KEY_ENV
    if key := os.environ.get(name, ""):
        return key
    if any(host in base_url for host in LOOPBACK):
        return "none-needed-on-loopback"
    raise EncoderError(
        settings.model, f"{name} is not set", f"export {name}=... (never write it into the file)."
    )


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end in an event loop of its own, also from inside one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
