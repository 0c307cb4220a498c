"""Worker processes on this machine, each with an encoder of its own; one that dies is replaced.

concurrent.futures breaks its whole pool when a process dies, and leaves processes behind when the driver is killed:
here each process has its own pipe, which says at once who died, and at its end the process ends too. Knows nothing
of what the work is.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from tasks.embedding.runners import Work
from tasks.embedding.sharding import Finished, Job, Shard

LEAVE_SECONDS = 10.0


class WorkerLostError(Exception):
    """The process that had a shard is gone, with how it ended."""


@dataclass(frozen=True, eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection


class ProcessPool:
    """So many processes, started when they are first needed: spawned, for a fork would take locks of threads along."""

    name = "processes"
    lost: tuple[type[BaseException], ...] = (WorkerLostError,)

    def __init__(self, workers: int) -> None:
        self._slots = workers
        self._threads = ThreadPoolExecutor(workers, "shard")  # each has a process, and waits for it
        self._own = threading.local()
        self._workers: list[_Worker] = []
        self._idle: set[_Worker] = set()
        self._changing = threading.Lock()
        self._closed = False

    def slots(self) -> int:
        """As many as there are processes: a lost one is replaced."""
        return self._slots

    def submit(self, work: Work, job: Job, shard: Shard) -> Future[Finished]:
        """Have a process do it."""
        return self._threads.submit(self._run, work, job, shard)

    def close(self) -> None:
        """End all processes: those at work are killed, the others leave by themselves."""
        with self._changing:
            self._closed = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for worker in self._workers:
                if worker in self._idle:
                    worker.connection.close()
                else:
                    worker.process.kill()
        for worker in self._workers:
            worker.process.join(LEAVE_SECONDS)
            worker.process.kill()
            worker.process.join()
        self._threads.shutdown()

    def _run(self, work: Work, job: Job, shard: Shard) -> Finished:
        worker = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = self._start()
        with self._changing:
            if self._closed:
                raise WorkerLostError("the pool is closed")
            self._idle.discard(worker)
        try:
            worker.connection.send((work, job, shard))
            error, finished = worker.connection.recv()
        except (EOFError, OSError) as gone:
            self._own.worker = None
            worker.connection.close()
            worker.process.join()
            raise WorkerLostError(_how_it_ended(worker.process.exitcode)) from gone
        with self._changing:
            self._idle.add(worker)
        if error is not None:
            raise error
        return finished

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        with self._changing:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            worker = _Worker(process, ours)
            self._workers.append(worker)
        return worker


def _serve(connection: Connection) -> None:
    """Do what comes through the pipe until it ends, which it also does when the driver is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it ends its workers
    with ThreadPoolExecutor(1) as one:
        while True:
            try:
                work, job, shard = connection.recv()
                done = one.submit(work, job, shard)  # a future holds whatever is raised
                error = done.exception()
                connection.send((error, None if error is not None else done.result()))
            except (EOFError, OSError):
                return


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    named = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"killed by {named}" + (", as when memory is short" if named == "SIGKILL" else "")
