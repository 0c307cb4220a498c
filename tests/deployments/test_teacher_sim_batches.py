"""The simulated teacher's Batch API through the openai SDK and over real HTTP: files, batches, results, charges."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from deployments.teacher_sim import TeacherServer

TEXTS = [f"product number {i:03d}" for i in range(40)]
ANSWERS = {text: [f"label {i}", f"other {i}"] for i, text in enumerate(TEXTS)}
KEY = "sk-test-batches"


@pytest.fixture
def server() -> Iterator[TeacherServer]:
    with TeacherServer(ANSWERS) as running:
        yield running


def sdk(server: TeacherServer, key: str = "none") -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def line(place: int, text: str, seed: int = 1, **more: Any) -> dict[str, Any]:
    body = {"model": "m-1", "messages": [{"role": "user", "content": text}], "seed": seed}
    return {"custom_id": str(place), "method": "POST", "url": "/v1/chat/completions", "body": body} | more


def lines(*texts: str) -> list[dict[str, Any]]:
    return [line(place, text) for place, text in enumerate(texts)]


def submit(client: OpenAI, rows: list[dict[str, Any]], **more: Any) -> Batch:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def finished(client: OpenAI, batch: Batch) -> Batch:
    # The server is real and has its own clock; what is waited for comes within milliseconds.
    for _ in range(2000):
        batch = client.batches.retrieve(batch.id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.005)
    raise AssertionError(batch)


def rows_of(client: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    rows = [json.loads(row) for row in client.files.content(file_id).content.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_batch_answers_every_line_as_the_online_api_would(server: TeacherServer) -> None:
    """Results bear the custom ids, stand in any order, and are charged like online requests."""
    with sdk(server) as client:
        batch = submit(client, lines(*TEXTS), metadata={"run": "7"})
        assert (batch.status, batch.metadata) == ("validating", {"run": "7"})
        done = finished(client, batch)
        assert (done.status, done.error_file_id, done.model) == ("completed", None, "m-1")
        assert done.request_counts is not None
        assert done.request_counts.model_dump() == {"total": 40, "completed": 40, "failed": 0}
        moments = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
        assert list(moments) == sorted(moments)  # type: ignore[type-var]
        rows = rows_of(client, done.output_file_id)
        one = client.chat.completions.create(**lines(TEXTS[3])[0]["body"])
    assert [int(place) for place in rows] != sorted(range(40))
    assert {int(place) for place in rows} == set(range(40))
    for place, row in rows.items():
        assert (row["error"], row["response"]["status_code"]) == (None, 200)
        said = json.loads(row["response"]["body"]["choices"][0]["message"]["content"])
        assert said["label"] == f"label {place}"
    assert rows["3"]["response"]["body"]["choices"][0]["message"]["content"] == one.choices[0].message.content
    stats = server.stats()
    assert (stats["paid"], stats["batch_paid"], stats["batches"], stats["paid_again"]) == (41, 40, 1, 1)


def test_lines_that_fail_stand_in_the_error_file_and_the_others_are_answered() -> None:
    """Failures by chance, an unrecorded text, and what expires: each says why, and costs nothing."""
    with TeacherServer(ANSWERS, batch_error_rate=0.3, batch_expired_rate=0.2, seed=4) as server:
        with sdk(server) as client:
            done = finished(client, submit(client, lines(*TEXTS, "never heard of it")))
            good, bad = rows_of(client, done.output_file_id), rows_of(client, done.error_file_id)
        assert done.status == "expired"
        assert done.expired_at
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (len(good), len(bad))
        assert server.stats()["paid"] == len(good)
    assert len(good) + len(bad) == 41
    expired = [row for row in bad.values() if row["response"] is None]
    assert {row["error"]["code"] for row in expired} == {"batch_expired"}
    failed = [row["response"] for row in bad.values() if row["response"] is not None]
    assert {row["status_code"] for row in failed} <= {500, 404}
    assert all(row["body"]["error"]["message"] for row in failed)
    assert 3 < len(expired) < 18
    assert 5 < len(failed) < 22


def test_a_cancelled_batch_hands_out_what_was_done() -> None:
    with TeacherServer(ANSWERS, batch_seconds=2) as server, sdk(server) as client:
        batch = submit(client, lines(*TEXTS))
        while not server.stats()["paid"]:
            time.sleep(0.005)
        assert client.batches.cancel(batch.id).status == "cancelling"
        done = finished(client, batch)
        good, bad = rows_of(client, done.output_file_id), rows_of(client, done.error_file_id)
        assert done.status == "cancelled"
        assert 0 < len(good) < 40
        assert len(good) + len(bad) == 40
        assert {row["error"]["code"] for row in bad.values()} == {"batch_cancelled"}
        assert server.stats()["paid"] == len(good)
        with pytest.raises(openai.ConflictError, match="cancelled"):
            client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], "empty_file"),
        (lines(*TEXTS[:11]), "invalid_request"),
        ([*lines("a"), *lines("b")], "duplicate_custom_id"),
        ([*lines("a"), {"custom_id": "x"}], "invalid_json_line"),
        ([line(1, "a", url="/v1/embeddings")], "invalid_request"),
        ([line(1, "a"), line(2, "b", body={"model": "m-2", "messages": []})], "mismatched_model"),
        ([line(place, "a" * 500) for place in range(10)], "token_limit_exceeded"),
    ],
)
def test_a_file_that_cannot_be_worked_off_fails_at_validation(rows: list[dict[str, Any]], code: str) -> None:
    """Nothing of it is answered or paid, and the batch says why."""
    with (
        TeacherServer(ANSWERS, batch_most_requests=10, batch_most_tokens=1000) as server,
        sdk(server) as client,
    ):
        done = finished(client, submit(client, rows))
        assert done.status == "failed"
        assert done.errors is not None
        assert done.errors.data is not None
        assert [problem.code for problem in done.errors.data] == [code]
        assert done.errors.data[0].message
        assert (done.output_file_id, server.stats()["paid"]) == (None, 0)


def test_enqueued_tokens_are_free_again_when_the_other_batch_is_done() -> None:
    with (
        TeacherServer(ANSWERS, batch_most_tokens=2500, batch_seconds=0.3) as server,
        sdk(server) as client,
    ):
        first = submit(client, lines(*TEXTS))
        while client.batches.retrieve(first.id).status == "validating":
            time.sleep(0.005)
        assert finished(client, submit(client, lines(*TEXTS))).status == "failed"
        assert finished(client, first).status == "completed"
        assert finished(client, submit(client, lines(*TEXTS))).status == "completed"


def test_files_and_batches_can_be_listed_page_by_page_described_and_deleted(server: TeacherServer) -> None:
    with sdk(server) as client:
        made = [submit(client, lines(text)).id for text in TEXTS[:5]]
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
        assert len(client.batches.list(limit=2).data) == 2
        inputs = [file for file in client.files.list(purpose="batch") if file.filename == "in.jsonl"]
        assert len(inputs) == 5
        assert client.files.retrieve(inputs[0].id).bytes == len(client.files.content(inputs[0].id).content)
        assert client.files.delete(inputs[0].id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(inputs[0].id)
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_nowhere")


@pytest.mark.parametrize(
    "asked",
    [
        {"input_file_id": "file-nowhere"},
        {"endpoint": "/v1/embeddings"},
        {"completion_window": "1h"},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {f"k{i}": "v" for i in range(17)}},
        {"metadata": {"k": 1}},
    ],
)
def test_a_batch_that_makes_no_sense_is_not_created(server: TeacherServer, asked: dict[str, Any]) -> None:
    with sdk(server) as client:
        file = client.files.create(file=("in.jsonl", json.dumps(line(1, "a")).encode()), purpose="batch")
    right = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    response = httpx.post(f"{server.base_url}/batches", json=right | asked)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert server.stats()["batches"] == 0


def test_uploads_need_a_file_a_purpose_the_key_and_the_size_allowed() -> None:
    with TeacherServer(ANSWERS, batch_most_bytes=1000, api_key=KEY) as server:
        address, right = f"{server.base_url}/files", {"Authorization": f"Bearer {KEY}"}
        small, big = {"file": ("a", b"x")}, {"file": ("a", b"x" * 1001)}

        def status(data: dict[str, str], files: Any, headers: dict[str, str] = right) -> int:
            return httpx.post(address, data=data, files=files, headers=headers).status_code

        assert status({"purpose": "batch"}, small) == 200
        assert status({"purpose": "batch"}, small, {}) == 401
        assert status({"purpose": "fine-tune"}, small) == 400
        assert status({"purpose": "batch"}, None) == 400
        assert status({"purpose": "batch"}, big) == 400
        assert httpx.get(address).status_code == 401
        assert httpx.post(f"{server.base_url}/batches", json={}).status_code == 401


def test_money_that_runs_out_within_a_batch_fails_the_rest_of_its_lines() -> None:
    with TeacherServer(ANSWERS, budget_calls=10) as server, sdk(server) as client:
        done = finished(client, submit(client, lines(*TEXTS)))
        bad = rows_of(client, done.error_file_id)
        assert len(rows_of(client, done.output_file_id)) == server.stats()["paid"] == 10
        assert {row["response"]["body"]["error"]["code"] for row in bad.values()} == {"insufficient_quota"}
