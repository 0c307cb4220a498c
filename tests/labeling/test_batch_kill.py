"""A run that is killed at any moment of a batch is taken up by the next, and nothing is paid for twice."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deployments.teacher_sim import TeacherServer
from tasks.store import open_store, schema
from tests.labeling import killed_batch
from tests.labeling.scripted import HOSES, KETTLES, put_texts

TEXTS = [f"product number {i:03d}" for i in range(75)]
ANSWERS = {text: [KETTLES, HOSES if i % 5 == 0 else KETTLES] for i, text in enumerate(TEXTS)}


# Every run is a process of its own; one server forks them all, so that they need not all import everything.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.labeling.killed_batch", "openai", "openai.resources.chat"])


def run(url: str, base_url: str, moment: str) -> int | None:
    process = PROCESSES.Process(target=killed_batch.run, args=(url, base_url, moment))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("moment", [moment for moment in killed_batch.MOMENTS if moment != "never"])
def test_kill_9_at_any_moment_re_pays_nothing(tmp_path: Path, moment: str) -> None:
    """Counted by the server: 150 requests paid in three batches, however the first run ended."""
    url = f"sqlite:///{tmp_path / 'flywheel.db'}"
    store = open_store(url, "tiny")
    put_texts(store, TEXTS)
    with TeacherServer(ANSWERS, batch_seconds=0.5) as server:
        assert run(url, server.base_url, moment) == -signal.SIGKILL
        assert store.scalar(select(func.count()).select_from(schema.labels)) in (0, 75)
        assert run(url, server.base_url, "never") == 0
        stats = server.stats()
    assert (stats["paid"], stats["paid_again"]) == (150, 0)
    assert stats["batches"] == 3
    answers, calls = schema.answers, schema.calls
    assert store.scalar(select(func.count()).select_from(answers)) == 150
    assert store.scalar(select(func.count()).select_from(calls)) == 150
    assert store.scalar(select(func.count()).where(schema.labels.c.source == "consensus")) == 60
    assert store.scalar(select(func.count()).where(schema.batches.c.closed_at.is_(None))) == 0
    store.close()
