"""The labelling benchmark runs and judges rightly; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.labelling.figures import Figure, Findings
from tests.benchmarks.labelling.sections import seconds_to_full_speed
from tests.conftest import ROOT


@pytest.mark.slow
def test_a_quick_run_of_the_benchmark_loses_nothing_and_counts_what_the_server_was_paid() -> None:
    """Throughput and kills, in little: real processes, a real kill -9, one JSON object."""
    command = [sys.executable, "-m", "tests.benchmarks.labelling", "throughput", "kill", "--quick", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    jobs = found["throughput"]["rows"]
    assert [(job["requests"], job["exit"], job["lost"]) for job in jobs] == [
        (200, 0, 0),
        (100, 0, 0),
        (100, 0, 0),
    ]
    assert all(0 < job["of ceiling"] <= 1 and job["CPU ms/request"] > 0 for job in jobs)
    reached = {figure["name"]: figure["reached"] for figure in found["kill"]["figures"]}
    assert len(reached) == 5
    assert all(reached.values()), found["kill"]


@pytest.mark.parametrize(
    ("after", "seconds"),
    [([100, 100, 100], 0), ([0, 20, 95, 100, 9], 2), ([0, 180, 0, 100, 100, 9], 3), ([0, 50, 60, 70], None)],
)
def test_full_speed_is_two_seconds_at_nine_tenths_and_the_last_second_does_not_count(
    after: list[int], seconds: int | None
) -> None:
    assert seconds_to_full_speed([100, 100, 100, 0, 0, *after], 5, 100.0) == seconds


def test_a_job_that_ended_in_the_storm_never_came_back_to_speed() -> None:
    assert seconds_to_full_speed([100, 100, 100], 5, 100.0) is None


def test_a_figure_that_was_not_measured_has_not_reached_its_goal() -> None:
    assert Figure("share", 0.9, ">=", 0.85).reached
    assert not Figure("share", 0.8, ">=", 0.85).reached
    assert not Figure("seconds", None, "<=", 10).reached


def test_a_section_is_a_table_with_a_column_for_what_any_row_has() -> None:
    found = Findings("speed", [{"job": "a", "n": 12000}, {"job": "b", "share": 0.5}])
    found.figures.append(Figure("share", None, ">=", 0.85))
    assert list(found.lines()) == [
        "== speed",
        "   job       n  share",
        "   a    12,000      -",
        "   b         -  0.500",
        "-> share: none (goal >= 0.850): NOT REACHED",
        "",
    ]
