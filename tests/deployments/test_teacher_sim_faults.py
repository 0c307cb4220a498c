"""What can be made to go wrong with the simulated teacher, and that it goes wrong the same way every time."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from dataclasses import fields
from typing import Any

import httpx
import pytest

from deployments.commands.stack import teacher_sim_command
from deployments.teacher_sim import TeacherServer, TeacherSettings, serve
from deployments.teacher_sim.counts import Counts
from deployments.teacher_sim.faults import Fate, MinuteBucket, Storm, cast, written_duration

BODY = {"model": "m", "messages": [{"role": "user", "content": "kettle"}]}


def post(server: TeacherServer, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.base_url}/chat/completions", json=BODY, headers=headers)


def statuses(count: int, **settings: Any) -> tuple[list[int], dict[str, object]]:
    with (
        TeacherServer({"kettle": "Kettles"}, **settings) as server,
        httpx.Client(base_url=server.base_url) as client,
    ):
        return [client.post("chat/completions", json=BODY).status_code for _ in range(count)], server.stats()


def test_the_same_seed_makes_the_same_requests_fail_and_failures_are_not_paid() -> None:
    first, stats = statuses(200, error_rate=0.2, rate_limit_rate=0.2, seed=5)
    again, _ = statuses(200, error_rate=0.2, rate_limit_rate=0.2, seed=5)
    other, _ = statuses(200, error_rate=0.2, rate_limit_rate=0.2, seed=6)
    assert first == again
    assert first != other
    assert stats["paid"] == first.count(200)
    assert 20 <= first.count(500) <= 60
    assert 20 <= first.count(429) <= 60


def test_a_random_429_says_when_to_come_back() -> None:
    with TeacherServer({"kettle": "K"}, rate_limit_rate=1.0, retry_after_seconds=0.25) as server:
        response = post(server)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.headers["retry-after-ms"] == "250"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_requests_beyond_the_limit_of_a_minute_get_429_with_the_limit_in_the_headers() -> None:
    with TeacherServer({"kettle": "K"}, requests_per_minute=3) as server:
        responses = [post(server) for _ in range(4)]
    assert [r.status_code for r in responses] == [200, 200, 200, 429]
    assert responses[0].headers["x-ratelimit-limit-requests"] == "3"
    assert responses[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert 1 <= int(responses[3].headers["retry-after"]) <= 20
    assert server.stats()["paid"] == 3


def test_the_bucket_refills_evenly() -> None:
    now = [0.0]
    bucket = MinuteBucket(60, lambda: now[0])
    assert [bucket.take() for _ in range(60)] == [0.0] * 60
    assert bucket.take() == pytest.approx(1.0)
    now[0] += 1.0
    assert bucket.take() == 0.0
    assert bucket.take() == pytest.approx(1.0)
    assert bucket.seconds_to_full == pytest.approx(60.0)
    now[0] += 3600
    assert bucket.take() == 0.0
    assert bucket.remaining == 59
    assert bucket.seconds_to_full == pytest.approx(1.0)


def test_more_than_the_bucket_holds_waits_for_a_full_one_and_what_waits_takes_nothing() -> None:
    now = [0.0]
    bucket = MinuteBucket(600, lambda: now[0])
    assert bucket.take(100) == 0.0
    assert bucket.take(5000) == pytest.approx(10.0)
    assert bucket.remaining == 500
    now[0] += 10
    assert bucket.take(5000) == 0.0
    assert bucket.remaining == 0


def test_tokens_beyond_the_limit_of_a_minute_get_429_with_the_limit_in_the_headers() -> None:
    with TeacherServer({"kettle": "K"}) as server:
        tokens = post(server).json()["usage"]["total_tokens"]
    with TeacherServer({"kettle": "K"}, tokens_per_minute=2.5 * tokens) as server:
        responses = [post(server) for _ in range(3)]
    assert [r.status_code for r in responses] == [200, 200, 429]
    assert responses[0].headers["x-ratelimit-limit-tokens"] == str(round(2.5 * tokens))
    assert int(responses[0].headers["x-ratelimit-remaining-tokens"]) == int(1.5 * tokens)
    assert responses[0].headers["x-ratelimit-reset-tokens"] == "24s"
    assert "x-ratelimit-limit-requests" not in responses[0].headers
    assert 1 <= int(responses[2].headers["retry-after"]) <= 12
    assert server.stats()["paid"] == 2


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, "0ms"), (0.1204, "120ms"), (1.0, "1s"), (8.64, "8.64s"), (59.9996, "1m0s"), (372.5, "6m12.5s")],
)
def test_a_reset_is_written_as_openai_writes_it(seconds: float, written: str) -> None:
    assert written_duration(seconds) == written


def test_a_storm_rages_from_its_start_after_the_first_request_to_its_end() -> None:
    now = [100.0]
    storm = Storm(5, 30, lambda: now[0])
    seen = []
    for after in (0.0, 4.9, 5.0, 34.9, 35.0):
        now[0] = 100.0 + after
        seen.append(storm.rages())
    assert seen == [False, False, True, True, False]
    assert not Storm(0, 0, lambda: now[0]).rages()


def test_in_a_storm_every_request_gets_429_and_none_is_paid() -> None:
    seen, stats = statuses(5, storm_seconds=3600)
    assert seen == [429] * 5
    assert stats["paid"] == 0


def test_a_teacher_may_turn_requests_away_without_saying_when_to_come_back() -> None:
    with TeacherServer({"kettle": "K"}, storm_seconds=3600, retry_after_seconds=0) as server:
        response = post(server)
    assert response.status_code == 429
    assert not [name for name in response.headers if name.startswith("retry-after")]


def test_good_replies_are_counted_by_the_second_they_left_in() -> None:
    now = [50.0]
    counts = Counts(lambda: now[0])
    for after, status in ((0.0, 200), (0.9, 200), (2.5, 200), (2.6, 429), (3.2, 500)):
        now[0] = 50.0 + after
        with counts.request():
            counts.replied(status)
    assert counts.as_dict()["answered_by_second"] == [2, 0, 1, 0]
    assert counts.as_dict()["seconds"] == 3.2
    assert Counts().as_dict()["seconds"] == 0


def test_garbage_comes_in_every_kind_with_status_200_and_is_paid() -> None:
    kinds: Counter[str] = Counter()
    with TeacherServer({"kettle": "K"}, garbage_rate=1.0) as server:
        for _ in range(40):
            response = post(server)
            assert response.status_code == 200
            if "html" in response.headers["content-type"]:
                kinds["html"] += 1
                continue
            try:
                content = response.json()["choices"][0]["message"]["content"]
            except json.JSONDecodeError:
                kinds["cut body"] += 1
                continue
            kinds["empty" if not content else "cut content"] += 1
            with pytest.raises(json.JSONDecodeError):
                json.loads(content)
    assert set(kinds) == {"html", "cut body", "empty", "cut content"}
    assert server.stats()["paid"] == 40


def test_without_the_key_nobody_is_answered() -> None:
    with TeacherServer({"kettle": "K"}, api_key="sk-good") as server:
        assert post(server).status_code == 401
        assert post(server, Authorization="Bearer sk-bad").status_code == 401
        assert post(server, Authorization="Bearer sk-good").status_code == 200
        assert httpx.get(f"{server.base_url}/models").status_code == 401
    assert server.stats()["by_status"] == {"200": 1, "401": 2}


def test_when_the_money_is_gone_every_further_call_is_402() -> None:
    seen, stats = statuses(4, budget_calls=2)
    assert seen == [200, 200, 402, 402]
    assert stats["paid"] == 2


def test_a_hung_request_is_never_answered_and_does_not_keep_the_server_from_stopping() -> None:
    async def hang(server: TeacherServer) -> None:
        async with httpx.AsyncClient() as client:
            asking = asyncio.create_task(
                client.post(f"{server.base_url}/chat/completions", json=BODY, timeout=None)
            )
            while server.stats()["hung"] == 0:
                assert not asking.done()
                await asyncio.sleep(0)
            health = await client.get(server.base_url.removesuffix("/v1") + "/healthz")
            assert health.json() == {"status": "ok", "recorded": 1}
            assert not asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with TeacherServer({"kettle": "K"}, hang_rate=1.0) as server:
        asyncio.run(hang(server))
    assert server.stats()["in_flight"] == 0
    assert server.stats()["paid"] == 0


def test_the_peak_of_requests_in_flight_is_what_the_client_had_open() -> None:
    async def flood(server: TeacherServer) -> None:
        async with httpx.AsyncClient() as client:
            tasks = [client.post(f"{server.base_url}/chat/completions", json=BODY) for _ in range(8)]
            await asyncio.gather(*tasks)

    with TeacherServer({"kettle": "K"}, latency_ms=300) as server:
        asyncio.run(flood(server))
    assert server.stats()["peak_in_flight"] == 8
    assert server.stats()["in_flight"] == 0


def test_latency_swings_evenly_about_its_mean_and_never_below_zero() -> None:
    settings = TeacherSettings(latency_ms=200, jitter_ms=50)
    delays = [cast(settings, number).delay_seconds for number in range(500)]
    assert 0.15 <= min(delays) < 0.16
    assert 0.24 < max(delays) <= 0.25
    assert min(cast(TeacherSettings(latency_ms=1, jitter_ms=50), n).delay_seconds for n in range(50)) == 0


def test_fates_come_in_the_shares_that_were_asked_for() -> None:
    settings = TeacherSettings(rate_limit_rate=0.1, error_rate=0.2, garbage_rate=0.3, hang_rate=0.1, seed=3)
    seen = Counter(cast(settings, number).fate for number in range(4000))
    assert seen[Fate.RATE_LIMITED] / 4000 == pytest.approx(0.1, abs=0.02)
    assert seen[Fate.FAILED] / 4000 == pytest.approx(0.2, abs=0.03)
    assert seen[Fate.GARBLED] / 4000 == pytest.approx(0.3, abs=0.03)
    assert seen[Fate.HUNG] / 4000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"error_rate": 1.5},
        {"error_rate": 0.6, "hang_rate": 0.6},
        {"latency_ms": -1.0},
        {"storm_seconds": -1.0},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        TeacherServer({"kettle": "K"}, **settings)


def test_every_setting_is_an_option_of_the_command_and_what_the_command_passes_on() -> None:
    """All but the model's name, which a reply echoes, and the size of a batch's file."""
    names = {field.name for field in fields(TeacherSettings)} - {"model", "batch_most_bytes"}
    assert names <= {option.name for option in teacher_sim_command.params}
    assert names <= set(inspect.signature(serve).parameters)


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with (
        TeacherServer({"kettle": "K"}) as server,
        pytest.raises(OSError, match="in use"),
        TeacherServer({}, port=server.port),
    ):
        pass
