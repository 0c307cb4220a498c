"""Handing shards out to workers: so many at a time, again where a worker died, and by name where a shard kills them.

A pool is anything that runs a function elsewhere and gives a future. Knows neither encoders nor clusters.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from tasks.embedding.sharding import Finished, Job, Shard
from tasks.errors import FlywheelError

ATTEMPTS = 3  # of a shard; the last one alone, so that no other can be what ended the worker
PATIENCE_SECONDS = 120.0  # without any worker: those of a cluster may be on their way
LOOK_SECONDS = 1.0
NAMED = 5

Work = Callable[[Job, Shard], Finished]


class RunnerError(FlywheelError):
    """What the project names under `runner` cannot be used, or a shard ends every worker that takes it."""

    def __init__(self, runner: str, problem: str, remedy: str) -> None:
        self.runner, self.problem, self.remedy = runner, problem, remedy
        super().__init__(f"runner {runner}: {problem}. {remedy}")


class Pool(Protocol):
    """Workers in other processes, on this machine or on others."""

    @property
    def name(self) -> str:
        """What the project calls it."""
        ...

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What a future raises when the process that had its shard is gone."""
        ...

    def slots(self) -> int:
        """How many shards can be worked on at the same time now; 0 where there is no worker."""
        ...

    def submit(self, work: Work, job: Job, shard: Shard) -> Future[Finished]:
        """Have a worker do it, once; no more than `slots` are given at a time."""
        ...

    def close(self) -> None:
        """End what was started for this run; what still works is given up."""
        ...


@dataclass
class _Tally:
    """What became of the shards so far; `in_a_row` counts workers lost since one last finished a shard."""

    losses: Counter[int] = field(default_factory=Counter)
    in_a_row: int = 0
    killers: list[tuple[Shard, str]] = field(default_factory=list)


def run_shards(
    pool: Pool,
    work: Work,
    job: Job,
    shards: Iterable[Shard],
    is_cached: Callable[[Shard], bool] = lambda _: False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[tuple[Shard, Finished]]:
    """Each shard and what became of it, as they finish; a lost one is done again, at most `ATTEMPTS` times in all.

    The next shard's contents are read while the workers work, and no more are held than they have and one.

    Args:
        pool: who works.
        work: done with each shard; doing it twice does no harm.
        job: given to it.
        shards: read as they are needed.
        is_cached: asked about a lost shard: its worker may have died right after writing.
        patience_seconds: how long to wait while there is no worker.

    Raises:
        RunnerError: there is no worker, workers die whatever they are given, or a shard ended the worker each time;
            all other shards are finished then.
        FlywheelError: an error of ours ended a shard; what the other workers had was finished first.
    """
    source, tally = iter(shards), _Tally()
    ahead = next(source, None)
    again, suspects = deque[Shard](), deque[Shard]()
    pending: dict[Future[Finished], Shard] = {}
    last_seen = time.monotonic()
    while pending or again or suspects or ahead is not None:
        slots = pool.slots()
        last_seen = time.monotonic() if slots else last_seen
        if time.monotonic() - last_seen > patience_seconds:
            raise RunnerError(
                pool.name,
                f"has had no worker for {patience_seconds:.0f} s",
                "Start some, then run it again: what is cached stays.",
            )
        while len(pending) < slots:
            if again:
                shard = again.popleft()
            elif ahead is not None:
                shard, ahead = ahead, None
            elif suspects and not pending:
                shard = suspects.popleft()
            else:
                break
            pending[pool.submit(work, job, shard)] = shard
            ahead = next(source, None) if ahead is None else ahead
        if not pending:
            time.sleep(LOOK_SECONDS)
            continue
        for future in wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED).done:
            shard = pending.pop(future)
            error = future.exception()
            if isinstance(error, pool.lost) and not is_cached(shard):
                _note_loss(pool, tally, shard, str(error), slots)
                left = ATTEMPTS - tally.losses[shard.number]
                (again if left > 1 else suspects if left else deque[Shard]()).append(shard)
                continue
            if isinstance(error, pool.lost):
                finished = Finished(shard.items.height)
            elif error is not None:
                wait(pending, patience_seconds)
                raise error
            else:
                finished = future.result()
            if finished.kind is not None:
                wait(pending, patience_seconds)
            tally.in_a_row = 0
            yield shard, finished.raised()
    if tally.killers:
        raise _of_killers(pool, tally.killers)


def _note_loss(pool: Pool, tally: _Tally, shard: Shard, why: str, slots: int) -> None:
    tally.losses[shard.number] += 1
    tally.in_a_row += 1
    if tally.losses[shard.number] == ATTEMPTS:
        tally.killers.append((shard, why))
    elif tally.in_a_row >= ATTEMPTS * max(2, slots):
        raise RunnerError(
            pool.name,
            f"{tally.in_a_row} workers in a row died, the last one with {shard} ({why})",
            "Look at their memory and their logs, then run it again: what is cached stays.",
        )


def _of_killers(pool: Pool, killers: list[tuple[Shard, str]]) -> RunnerError:
    named = "; ".join(
        f"{shard} ended {ATTEMPTS} workers, the last one alone ({why})" for shard, why in killers[:NAMED]
    )
    more = f" and {len(killers) - NAMED} more" if len(killers) > NAMED else ""
    return RunnerError(
        pool.name,
        named + more,
        "Everything else is cached. If memory is short, set runner.shard_rows lower; else a smaller number "
        "shows which item it is.",
    )
