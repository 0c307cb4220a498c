"""The benchmark of the embedding cache runs and finds what it put in; how fast anything is, no test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import embedding_cache as benchmark


@pytest.mark.slow
def test_every_piece_of_work_runs_in_little(tmp_path: Path) -> None:
    """Each checks by itself that it read the right vectors, that nothing was encoded and what was missing."""
    rows = 5_000
    written = benchmark.write(tmp_path, rows)
    assert (written["parts"], written["parts after"]) == (2, 2)
    assert {"np.load", "as written", "shuffled"} <= set(benchmark.read(tmp_path, rows))
    for how in ("as written", "shuffled", "stream"):
        assert benchmark.peak(tmp_path, rows, how)["before"] > 0
    benchmark.prepare_rerun(tmp_path, rows)
    assert benchmark.rerun(tmp_path, rows)["step"] > 0
    benchmark.write_keys(tmp_path, rows)
    assert benchmark.antijoin(tmp_path, rows)["anti-join"] > 0
    assert all(seconds > 0 for seconds in benchmark.grown(tmp_path / "grown", 500).values())
