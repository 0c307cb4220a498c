"""The benchmark of the runners runs and leaves nothing out; how fast anything is, no test says."""

from __future__ import annotations

import pytest

from tests.benchmarks import runners as benchmark


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_a_run_in_little(runner: str) -> None:
    """It checks by itself that every text was cached, and gives its two figures."""
    found = benchmark.embedded(runner, 1, 60, 20, "hash:8")
    assert found["seconds"] > 0
    assert found["after"] >= 0
