"""The benchmark of scoring runs and checks what it measures; how fast anything is, no test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import scoring as benchmark


@pytest.mark.slow
def test_every_piece_of_work_runs_in_little(tmp_path: Path) -> None:
    """Each asserts by itself that all rows were answered, and by whom."""
    rows = 2_000
    for kind in ("linear", "linear, familiarity", "mlp"):
        found = benchmark.head(tmp_path, rows, kind, 2)
        assert 0 < found["accepted"] <= 1
        assert found["answers"] > 0
    benchmark.fill_cache(tmp_path, rows)
    assert benchmark.cached(tmp_path, rows, "linear", 2)["seconds"] > 0
    assert {"nearest", "votes", "floor"} <= set(benchmark.gate(tmp_path, 600, 1_000, 2))
    benchmark.prepare_route(tmp_path, rows)
    assert benchmark.route(tmp_path, rows, "whole")["first"] > 0


def test_no_more_is_read_ahead_than_there_are_threads() -> None:
    """What streams out of the cache is not piled up before slow work."""
    given: list[int] = []
    done: list[int] = []

    def tasks() -> Iterator[np.ndarray]:
        for _ in range(50):
            given.append(1)
            assert len(given) - len(done) <= 4
            yield np.zeros((3, 2), np.float32)

    def work(task: np.ndarray) -> int:
        done.append(1)
        return len(task)

    assert benchmark.in_threads(work, tasks(), 2) == 150
