"""Two jobs of one project: how long one waits for the other, by a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deployments.environment import DEFAULTS
from flows.job import LOOK_SECONDS, WAIT_SECONDS, wait_for_turn
from tasks.errors import BusyError
from tasks.retries import AGAIN, PAUSES_SECONDS
from tasks.store.runs import Run


@dataclass
class Lease:
    """A project that another job holds until then; the clock moves by waiting only."""

    until: float
    time: float = 0.0

    def now(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds

    def begin(self) -> Run:
        if self.time < self.until:
            raise BusyError("tiny", "host:1:1", "2026-01-01 00:00:00 UTC")
        return Run(1, "label")


def calls_of_mlflow_seconds() -> float:
    """The longest that one call of its client tries an address that refuses it: pauses of 2, 4, ... give or take 1."""
    retries = int(DEFAULTS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    return sum(2.0 * 2**attempt + 1.0 for attempt in range(retries))


def test_a_waiting_job_outlasts_one_that_tries_a_step_to_the_end() -> None:
    """MLflow away for good: the other's last attempt has failed, with time to spare, before this gives up."""
    pauses = sum(PAUSES_SECONDS) * (1 + AGAIN["retry_jitter_factor"])
    in_vain = pauses + (len(PAUSES_SECONDS) + 1) * calls_of_mlflow_seconds()
    assert in_vain < WAIT_SECONDS / 2
    other = Lease(in_vain)
    assert wait_for_turn(other.begin, WAIT_SECONDS, other.now, other.pause).job == "label"
    assert in_vain <= other.time < in_vain + LOOK_SECONDS


def test_nobody_waits_for_ever_and_a_command_not_at_all() -> None:
    """The error is the lease's own, with whom it waited for."""
    for seconds in (WAIT_SECONDS, 0.0):
        other = Lease(float("inf"))
        with pytest.raises(BusyError, match="tiny"):
            wait_for_turn(other.begin, seconds, other.now, other.pause)
        assert other.time == seconds
