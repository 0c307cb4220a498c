"""`flywheel up`: starts the standing stack, says which address is what, keeps it up, and ends all of it.

Knows nothing of how a part is called (parts.py) or kept running (processes.py).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.stack.databases import DatabaseLock, Databases, databases_of, only_stack_on
from deployments.stack.parts import (
    JOBS_AT_ONCE,
    MLFLOW_UI,
    Addresses,
    claim,
    environment_of,
    mlflow_server,
    prefect_server,
    worker,
)
from deployments.stack.processes import StackError, Supervised, stop
from deployments.stack.projects import fingerprint
from deployments.stack.registration import registering
from deployments.stack.state import end_leftovers, forget_state, only_one, read_state, write_state
from deployments.stack.zombies import sweep, worker_is_online
from tasks.errors import ConfigError
from tasks.project import flywheel_home

START_SECONDS = 240.0
JOBS_GRACE_SECONDS = 20.0
SERVERS_GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5
CONF_SECONDS = 5.0

Say = Callable[[str], None]


@dataclass
class Stack:
    """The stack over the project files of `conf`; `run` returns when a signal has ended it."""

    conf: Path
    host: str
    prefect_port: int
    mlflow_port: int
    ending: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)

    def run(self, say: Say) -> dict[str, Any]:
        """Start everything and keep it up until SIGINT or SIGTERM; a second signal does not wait for jobs to end.

        Returns what ran where, under `state` either `stopped` or `already running`.

        Raises:
            ConfigError: a port is in use, or so is Prefect's database, now or after it was away.
            StackError: a part did not come up.
        """
        home = flywheel_home()
        with only_one(home) as alone:
            if not alone:
                return _already_running(say)
            if os.environ.get(MLFLOW_UI) == read_state().get("mlflow"):
                os.environ.pop(MLFLOW_UI, None)  # found where a killed one still answered, chosen by nobody
            if left := end_leftovers():
                say(f"ended what a killed `flywheel up` left running: {', '.join(left)}")
            databases = databases_of(os.environ)
            addresses = claim(self.host, self.prefect_port, self.mlflow_port)
            with only_stack_on(databases.prefect) as lock, self._signals():
                running = _Running(self, addresses, home, _unbreakable(say), databases, lock)
                try:
                    running.start()
                    running.keep_up()
                finally:
                    running.stop()
                    forget_state()
        return {"state": "stopped", **running.body}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(*_: object) -> None:
            (self.hurry if self.ending.is_set() else self.ending).set()

        before = {sign: signal.signal(sign, end) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for sign, old in before.items():
                signal.signal(sign, old)


class _Running:
    """The parts of one stack, from their start to their end."""

    def __init__(
        self,
        stack: Stack,
        addresses: Addresses,
        home: Path,
        say: Say,
        databases: Databases,
        lock: DatabaseLock,
    ) -> None:
        environment = environment_of(addresses, home)
        self.stack, self.addresses, self.say = stack, addresses, say
        self.databases, self.lock = databases, lock
        self.prefect = Supervised(prefect_server(addresses, environment, home, databases))
        self.mlflow = Supervised(mlflow_server(addresses, environment, home, databases))
        self.worker = Supervised(worker(environment, home))
        self.parts = [self.prefect, self.mlflow, self.worker]
        self.body = {
            "prefect_api": addresses.prefect_api,
            "prefect_ui": addresses.prefect_ui,
            "mlflow": addresses.mlflow,
            "mlflow_ui": environment[MLFLOW_UI],
        }
        self.began = time.monotonic()
        self.unswept: str | None = None

    def start(self) -> None:
        """Afterwards all parts are up and the deployments registered, or the end was asked for."""
        say, ending, api = self.say, self.stack.ending, self.addresses.prefect_api
        say(f"starting; logs are in {self.worker.part.log.parent}")
        if self.databases.shown is not None:
            say(f"databases {self.databases.shown}")
        self.prefect.start()
        self.mlflow.start()
        self._write(ready=False)
        with registering(self.stack.conf, self.worker.part) as registration:
            self._wait(self.prefect, self.prefect.answers)
            self._wait(self.mlflow, self.mlflow.answers)
            if ending.is_set():
                return
            say(f"Prefect   {self.addresses.prefect_ui}   jobs to start by hand, schedules, runs")
            say(f"MLflow    {self.addresses.mlflow}   experiments and models")
            if not self.addresses.is_loopback:
                say(
                    "          not only this machine can call: whoever reaches it can start jobs and read models"
                )
            self._sweep("`flywheel up` ended before this run did")
            for line in registration.lines(ending, START_SECONDS):
                say(line)
        if ending.is_set():
            return
        self.worker.start()
        self._write(ready=False)
        self._wait(self.worker, lambda: worker_is_online(api))
        if not ending.is_set():
            self._write(ready=True)
            say(f"worker    up to {JOBS_AT_ONCE} jobs at a time")
            say(f"ready after {time.monotonic() - self.began:.0f} s; Ctrl-C stops all of it")

    def keep_up(self) -> None:
        """Until the end is asked for: what falls is started again, a changed project file is registered.

        Raises:
            ConfigError: Prefect's database was away, and another stack took it.
        """
        known, looked = fingerprint(self.stack.conf), time.monotonic()
        while not self.stack.ending.wait(LOOK_SECONDS):
            for part in self.parts:
                if happened := part.revive():
                    self.say(happened)
                    self._write(ready=True)
                    if part is self.worker:
                        self._sweep("the worker ended while this run was on")
            if time.monotonic() - looked < CONF_SECONDS:
                continue
            looked = time.monotonic()
            self.lock.holds()
            for part in self.parts:
                part.trim_log()
                if happened := part.end_if_hung():
                    self.say(happened)
            if self.unswept is not None:
                self._sweep(self.unswept)
            if (now := fingerprint(self.stack.conf)) != known:
                known = now
                self._register_again()

    def stop(self) -> None:
        """Afterwards nothing runs any more: jobs first, while the server can still be told how they ended."""
        self.stack.ending.set()
        self.say("stopping")
        stop([self.worker], JOBS_GRACE_SECONDS, self.stack.hurry)
        if self.prefect.process is not None and self.prefect.answers():
            with suppress(ConfigError):  # another stack's runs by now, and not ours to judge
                self._sweep("`flywheel up` was stopped while this run was on")
        stop([self.prefect, self.mlflow], SERVERS_GRACE_SECONDS, self.stack.hurry)

    def _wait(self, part: Supervised, ready: Callable[[], bool]) -> None:
        name, log = part.part.name, part.part.log
        while not self.stack.ending.wait(0.2):
            with suppress(OSError):
                if ready():
                    return
            if part.exit_code() is not None:
                raise StackError(name, f"ended while starting (exit code {part.exit_code()})", log)
            if time.monotonic() - self.began > START_SECONDS:
                raise StackError(name, f"is not up after {START_SECONDS:.0f} s", log)

    def _register_again(self) -> None:
        with registering(self.stack.conf, self.worker.part) as registration:
            try:
                lines = registration.lines(self.stack.ending, START_SECONDS)
            except StackError as error:
                lines = [str(error)]
        for line in lines:
            self.say(line)

    def _sweep(self, reason: str) -> None:
        try:
            if not self.lock.holds():
                raise OSError("Prefect's database is away")
            names = sweep(self.addresses.prefect_api, reason, self._worker_since())
        except OSError as error:
            if self.unswept is None:
                self.say(f"runs without a process cannot be looked up yet ({error})")
            self.unswept = reason
            return
        self.unswept = None
        if names:
            self.say(f"crashed   {', '.join(names)}: {reason}")

    def _worker_since(self) -> float | None:
        """When the worker that is at work was started, in seconds since 1970; None while none is."""
        if self.worker.process is None or self.worker.exit_code() is not None:
            return None
        return time.time() - (time.monotonic() - self.worker.started_at)

    def _write(self, ready: bool) -> None:
        write_state(self.body | {"ready": ready}, self.parts)


def _already_running(say: Say) -> dict[str, Any]:
    state = read_state()
    say("flywheel up is running already" if state.get("ready") else "flywheel up is just starting elsewhere")
    for name, key in (("Prefect", "prefect_ui"), ("MLflow", "mlflow")):
        if key in state:
            say(f"{name:<9} {state[key]}")
    shown = ("prefect_api", "prefect_ui", "mlflow", "pid", "ready")
    body: dict[str, Any] = {key: state[key] for key in shown if key in state}
    return body | {"state": "already running"}


def _unbreakable(say: Say) -> Say:
    def said(line: str) -> None:
        with suppress(OSError):  # the terminal may be gone, and what runs must be ended all the same
            say(line)

    return said
