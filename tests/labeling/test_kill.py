"""A killed run re-pays no more than what was in flight, counted by the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from tasks.store import open_store, schema
from tests.labeling.scripted import (
    KETTLES,
    Said,
    ScriptedTeacher,
    SeveralTeacher,
    lists,
    put_texts,
    says,
)

ITEMS, CONCURRENCY = 100, 8


def _run(url: str, base_url: str, items_per_call: int = 1, stages: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.labeling.killed_run", url, base_url, str(CONCURRENCY)]
    command += [str(items_per_call), str(stages)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("after", [1, 37, 150])
def test_kill_9_re_pays_at_most_what_was_in_flight(tmp_path: Path, after: int) -> None:
    url = f"sqlite:///{tmp_path / 'flywheel.db'}"
    store = open_store(url, "tiny")
    put_texts(store, [f"item {i}" for i in range(ITEMS)])
    reached, lock = threading.Event(), threading.Lock()
    paid = 0

    def script(item: str, number: int, asked: int) -> Said:
        nonlocal paid
        with lock:
            paid += 1
            if paid == after:
                reached.set()
        return says(KETTLES)

    with ScriptedTeacher(script) as teacher:
        first = _run(url, teacher.base_url)
        assert reached.wait(60)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = store.scalar(select(func.count()).select_from(schema.calls))
        assert paid - kept <= CONCURRENCY
        second = _run(url, teacher.base_url)
        out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert int(out) == 2 * ITEMS - kept
    assert paid <= 2 * ITEMS + CONCURRENCY
    assert store.scalar(select(func.count()).select_from(schema.labels)) == ITEMS
    store.close()


def test_nor_does_one_that_asks_about_several_items_in_stages(tmp_path: Path) -> None:
    """Killed again and again, wherever it is: each stage of an item is paid for once, but for what was in flight."""
    url = f"sqlite:///{tmp_path / 'flywheel.db'}"
    store = open_store(url, "tiny")
    put_texts(store, [f"item {i}" for i in range(ITEMS)])
    reached, lock = threading.Event(), threading.Lock()
    paid: Counter[tuple[str, int, bool]] = Counter()
    calls, moments = 0, (5, 50)

    def say(texts: list[str], number: int, body: dict[str, Any]) -> Said:
        nonlocal calls
        first_stage = '"Garden"' in json.dumps(body["response_format"])
        with lock:
            calls += 1
            paid.update((text, number, first_stage) for text in texts)
            if calls in moments:
                reached.set()
        return lists(["Kitchen" if first_stage else KETTLES] * len(texts))

    with SeveralTeacher(say) as teacher:
        for _ in moments:
            run = _run(url, teacher.base_url, items_per_call=4, stages=2)
            assert reached.wait(60)
            reached.clear()
            run.send_signal(signal.SIGKILL)
            run.communicate()
        last = _run(url, teacher.base_url, items_per_call=4, stages=2)
        last.communicate(timeout=60)
    assert last.returncode == 0
    again = sum(paid.values()) - len(paid)
    assert len(paid) == 2 * 2 * ITEMS
    assert again <= len(moments) * CONCURRENCY * 4
    assert store.scalar(select(func.count()).select_from(schema.labels)) == ITEMS
    store.close()
