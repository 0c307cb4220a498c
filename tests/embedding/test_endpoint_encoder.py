"""Embedding endpoints over real HTTP: patience, neighbours that are not hurt, and words for what does not work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pytest
from aiohttp import web

from deployments.teacher_sim.server import TeacherServer
from tasks.embedding.embed import cache_for, embed_missing
from tasks.embedding.encoders import EncoderSettings, fingerprint, load_encoder
from tasks.embedding.endpoint_encoder import ATTEMPTS, BATCH_TEXTS, EndpointEncoder, batches
from tasks.embedding.simple_encoders import HashEncoder
from tasks.errors import CacheError, EncoderError
from tasks.records import text_key

TEXTS = [f"item {n} of a kind" for n in range(600)]


class Waiter:
    """Waits no time, and knows how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def simulated(**how: Any) -> TeacherServer:
    return TeacherServer({"a kettle": ["Kettles"]}, **how)


def at(base_url: str, waiter: Waiter | None = None, **settings: Any) -> EndpointEncoder:
    return EndpointEncoder(EncoderSettings("openai:small", base_url=base_url, **settings), waiter or Waiter())


class Scripted:
    """An endpoint that says `script(texts, number of the request)`: a body, or (status, body, headers)."""

    def __init__(self, script: Callable[[list[str], int], Any]) -> None:
        self._script = script
        self.requests: list[dict[str, Any]] = []
        self.most_in_flight = self._in_flight = 0
        self._started, self._stop = threading.Event(), asyncio.Event()

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
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/v1/embeddings", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, http: web.Request) -> web.Response:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            body = await http.json()
            self.requests.append(body | {"key": http.headers["Authorization"]})
            number = len(self.requests)
            await asyncio.sleep(0.01)
            said = self._script(body["input"], number)
            status, body, headers = said if isinstance(said, tuple) else (200, said, {})
            return web.json_response(body, status=status, headers=headers)
        finally:
            self._in_flight -= 1


def vectors(texts: list[str], dimension: int = 16) -> dict[str, Any]:
    rows = HashEncoder(dimension).encode(texts).tolist()
    return {"data": [{"index": place, "embedding": row} for place, row in enumerate(rows)]}


def error(
    status: int, message: str, code: str = "", **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    return status, {"error": {"message": message, "code": code}}, headers


def test_an_endpoint_gives_the_vectors_in_the_order_asked() -> None:
    """Several requests, several at once, each text once; the simulated teacher serves them, too."""
    with simulated() as teacher:
        encoder = at(teacher.base_url)
        told: list[int] = []
        found = encoder.encode_each(TEXTS, told.append)
        np.testing.assert_allclose(found.vectors, HashEncoder(256).encode(TEXTS), atol=1e-6)
        assert (found.refused, encoder.dimension, max(told)) == ({}, 256, len(TEXTS))
        assert teacher.stats()["requests"] == len(list(batches(TEXTS))) == 3
        assert at(teacher.base_url).dimension == 256
        assert at(teacher.base_url).encode([]).shape[0] == 0


def test_several_requests_are_in_flight() -> None:
    """Small texts by the thousand: more than one request at a time, none too large."""
    with Scripted(lambda texts, _: vectors(texts)) as endpoint:
        assert at(endpoint.base_url).encode([f"{n}" for n in range(3_000)]).shape == (3_000, 16)
    assert endpoint.most_in_flight > 1
    assert max(len(request["input"]) for request in endpoint.requests) == BATCH_TEXTS


def test_it_is_patient() -> None:
    """A third of the requests turned away or failed, garbage now and then: every vector comes, and right."""
    with simulated(
        rate_limit_rate=0.2, error_rate=0.1, garbage_rate=0.1, retry_after_seconds=3, seed=4
    ) as teacher:
        waiter = Waiter()
        found = at(teacher.base_url, waiter).encode(TEXTS * 4)
        assert np.allclose(found[:600], HashEncoder(256).encode(TEXTS), atol=1e-6)
        assert waiter.seconds


def test_retry_after_is_heeded() -> None:
    """Seven seconds asked for are seven seconds waited; a failure without a word waits longer each time."""
    with Scripted(
        lambda texts, number: (
            error(429, "slow down", **{"Retry-After": "7"}) if number == 1 else vectors(texts)
        )
    ) as endpoint:
        waiter = Waiter()
        at(endpoint.base_url, waiter).encode(["a"])
        assert waiter.seconds == [7.0]
    with Scripted(lambda texts, number: error(503, "no") if number < 5 else vectors(texts)) as endpoint:
        waiter = Waiter()
        at(endpoint.base_url, waiter).encode(["a"])
        assert len(waiter.seconds) == 4
        assert waiter.seconds[3] > waiter.seconds[0]


def test_an_endpoint_that_stays_down_ends_the_run_with_what_to_do() -> None:
    """After some attempts; what was cached before is the caller's, and nothing waits for ever."""
    with (
        Scripted(lambda texts, _: error(500, "out of order")) as endpoint,
        pytest.raises(EncoderError, match=rf"in {ATTEMPTS} attempts \(500: out of order\).*Run it again"),
    ):
        at(endpoint.base_url).encode(["a"])
    assert len(endpoint.requests) == ATTEMPTS


def test_a_text_that_is_refused_does_not_hurt_its_neighbours() -> None:
    """Two among hundreds: each named with the provider's words, the others encoded, in few requests."""
    texts = [*TEXTS[:100], "x" * 100_000, *TEXTS[100:300], "word " * 20_000, *TEXTS[300:]]
    with simulated() as teacher:
        found = at(teacher.base_url).encode_each(texts)
        assert sorted(found.refused) == [100, 301]
        assert "maximum context length is 8192 tokens" in found.refused[100]
        good = [place for place in range(len(texts)) if place not in found.refused]
        np.testing.assert_allclose(found.vectors[good], HashEncoder(256).encode(TEXTS), atol=1e-6)
        assert not found.vectors[[100, 301]].any()
        assert teacher.stats()["requests"] < 50


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (error(401, "Incorrect API key provided: sk-secret", "invalid_api_key"), "encoder.api_key_env"),
        (error(429, "You exceeded your current quota", "insufficient_quota"), "Top up the account"),
        (error(404, "The model does not exist", "model_not_found"), "encoder.base_url"),
    ],
)
def test_what_will_not_get_better_ends_the_run_at_once(
    said: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key, no money, no such model: one request, a remedy, and no key in the message."""
    monkeypatch.setenv("OTHER_KEY", "sk-secret")
    with Scripted(lambda texts, _: said) as endpoint:
        with pytest.raises(EncoderError, match=expected) as caught:
            at(endpoint.base_url, api_key_env="OTHER_KEY").encode(["a"])
        assert len(endpoint.requests) == 1
        assert endpoint.requests[0]["key"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value)


def test_an_endpoint_that_refuses_everything_is_not_asked_a_thousand_times() -> None:
    """A setting it does not know: after a few texts it is not the texts any more."""
    with Scripted(lambda texts, _: error(400, "dimensions is not supported")) as endpoint:
        with pytest.raises(EncoderError, match="dimensions is not supported"):
            at(endpoint.base_url).encode(TEXTS)
        assert len(endpoint.requests) < 100


def test_a_shard_of_nothing_but_refused_texts_ends_nothing() -> None:
    """A dozen texts that are all too long: each is named, for a plain word is taken."""
    with simulated() as teacher:
        found = at(teacher.base_url).encode_each([f"{n} " + "x" * 90_000 for n in range(12)])
    assert sorted(found.refused) == list(range(12))
    assert found.vectors.shape == (12, 256)


def test_a_key_is_needed_off_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that is missing is named; nothing is sent."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EncoderError, match=r"OPENAI_API_KEY is not set\. export OPENAI_API_KEY="):
        load_encoder(EncoderSettings("openai:text-embedding-3-small"))


def test_dimensions_are_asked_for_and_cut_where_they_are_not_heeded() -> None:
    """The parameter goes out; a server that ignores it is cut and lengthened here; one that gives less is refused."""
    with simulated() as teacher:
        assert at(teacher.base_url, dimensions=32).dimension == 32
    with Scripted(lambda texts, _: vectors(texts)) as endpoint:
        found = at(endpoint.base_url, dimensions=8).encode(["a kettle"])
        assert endpoint.requests[0]["dimensions"] == 8
        whole = HashEncoder(16).encode(["a kettle"])[:, :8]
        np.testing.assert_allclose(found, whole / np.linalg.norm(whole), atol=1e-6)
        with pytest.raises(EncoderError, match="16 dimensions, where 32 were expected"):
            at(endpoint.base_url, dimensions=32).encode(["a kettle"])


def test_a_model_that_changes_its_dimension_is_found_out(tmp_path: Path) -> None:
    """Under the same name: in one run by the encoder, between two runs by the cache; nothing is mixed."""
    texts = [f"{n} " + "x" * 300 for n in range(2_000)]
    with (
        Scripted(lambda texts, number: vectors(texts, 16 if number < 3 else 8)) as endpoint,
        pytest.raises(EncoderError, match=r"gave vectors of (8|16) dimensions, where (8|16) were expected"),
    ):
        at(endpoint.base_url).encode(texts)
    given = [16]
    with Scripted(lambda texts, _: vectors(texts, given[0])) as endpoint:
        settings = EncoderSettings("openai:small", base_url=endpoint.base_url)
        embed(settings, tmp_path, ["a kettle"])
        given[0] = 8
        load_encoder.cache_clear()
        with pytest.raises(CacheError, match="holds vectors of 16 dimensions, the encoder now gives 8"):
            embed(settings, tmp_path, ["a kettle", "a knife"])
        assert cache_for(settings, tmp_path).read([text_key("a kettle")]).shape == (1, 16)


def embed(settings: EncoderSettings, root: Path, texts: list[str]) -> Any:
    frame = pl.DataFrame(
        {"key": [text_key(text) for text in texts], "text": texts, "image": [None] * len(texts)},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )

    def contents(missing: pl.DataFrame) -> pl.DataFrame:
        return frame.join(missing, on="key", how="semi", maintain_order="left")

    return embed_missing(settings, root, frame.select("key"), contents, "text")


def test_endpoints_are_told_apart_by_their_fingerprint() -> None:
    """The same model's name at another address may be another model; the key's name decides no vector."""
    one = EncoderSettings("openai:small", base_url="https://one.example/v1")
    assert fingerprint(one) != fingerprint(replace(one, base_url="https://two.example/v1"))
    assert fingerprint(one) == fingerprint(replace(one, api_key_env="MINE"))
