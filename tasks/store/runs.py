"""Runs and the lease: who works on a project now, and what each job did.

One lease row with a heartbeat keeps two runs of a project apart, with or without an orchestrator. A job
started inside another (label inside nightly) shares the outer one's row.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, text, update

from tasks.errors import BusyError, StoreError
from tasks.store import schema
from tasks.store.database import Store

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
CLOCK_STEP_SECONDS = 2.0

_held: dict[tuple[str, str], Run] = {}


@dataclass
class Run:
    """One running job: `id` is its row; `result` and `status` are written when it ends."""

    id: int
    job: str
    status: str = "done"
    result: dict[str, Any] = field(default_factory=dict)


@contextmanager
def working(
    store: Store, project: str, job: str, parameters: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Hold the project's lease and a row in `runs` while a job works.

    Inside another job of this process the outer run is handed on. The row ends as `done`, as what the job set
    (`incomplete`), or as `failed` with the error's words.

    Raises:
        BusyError: another live process holds the lease.
    """
    held = (store.shown_url, project)  # projects on one PostgreSQL server share the URL
    if held in _held:
        outer = _held[held]
        yield outer
        # What an inner job did stands in the row at once: a report written later in the same run shows it.
        _write(store, outer.id, {"result": _as_json(outer.result)})
        return
    owner = f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"
    _acquire(store, project, owner)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, owner, stop), daemon=True, name="lease-heartbeat")
    beat.start()
    try:
        run = _open(store, job, parameters or {})
        _held[held] = run
        try:
            yield run
        except BaseException as error:
            _close(store, run.id, "failed", run.result | {"error": f"{type(error).__name__}: {error}"})
            raise
        else:
            _close(store, run.id, run.status, run.result)
    finally:
        _held.pop(held, None)
        stop.set()
        beat.join()
        with store.begin() as connection:
            connection.execute(delete(schema.lease).where(schema.lease.c.owner == owner))


def _acquire(store: Store, project: str, owner: str) -> None:
    now = time.time()
    with store.begin() as connection:
        _lock(connection)
        row = connection.execute(select(schema.lease)).mappings().first()
        if row is not None and _alive(row["owner"], row["heartbeat_at"], now):
            since = datetime.fromtimestamp(row["acquired_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            raise BusyError(project, row["owner"], since)
        connection.execute(delete(schema.lease))
        connection.execute(
            insert(schema.lease), {"id": 1, "owner": owner, "acquired_at": now, "heartbeat_at": now}
        )
        # Whoever was running before is dead, or it would still hold the lease.
        connection.execute(
            update(schema.runs)
            .where(schema.runs.c.status == "running")
            .values(
                status="failed",
                finished_at=now,
                result=func.coalesce(schema.runs.c.result, json.dumps({"error": "the process died"})),
            )
        )


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE lease IN EXCLUSIVE MODE"))


def _alive(owner: str, heartbeat_at: float, now: float) -> bool:
    host, pid, started = owner.split(":", 2)
    fresh = now - heartbeat_at < STALE_SECONDS
    if host != socket.gethostname():
        return fresh
    # On the same machine a dead process is known at once, so a killed run can be repeated straight away.
    running = _started(int(pid))
    if not running or not started:
        return False
    # A start time is seconds since boot plus the time of boot, which moves when the clock is set.
    return running == started or (fresh and abs(float(running) - float(started)) < CLOCK_STEP_SECONDS)


def _started(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _beat(store: Store, owner: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        # A database that is away for a while must not end the heartbeat of a run that outlives it.
        with suppress(StoreError), store.begin() as connection:
            connection.execute(
                update(schema.lease).where(schema.lease.c.owner == owner).values(heartbeat_at=time.time())
            )


def _open(store: Store, job: str, parameters: Mapping[str, Any]) -> Run:
    row = {
        "job": job,
        "status": "running",
        "started_at": time.time(),
        "parameters": json.dumps(dict(parameters), default=str),
    }
    with store.begin() as connection:
        inserted = connection.execute(insert(schema.runs), row).inserted_primary_key
    assert inserted is not None
    return Run(int(inserted[0]), job)


def _close(store: Store, run_id: int, status: str, result: Mapping[str, Any]) -> None:
    _write(store, run_id, {"status": status, "finished_at": time.time(), "result": _as_json(result)})


def _write(store: Store, run_id: int, values: Mapping[str, Any]) -> None:
    with store.begin() as connection:
        connection.execute(update(schema.runs).where(schema.runs.c.id == run_id).values(**values))


def _as_json(result: Mapping[str, Any]) -> str:
    return json.dumps(dict(result), default=str)
