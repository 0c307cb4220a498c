"""The benchmark of encoding runs and compares what it says it compares; how fast anything is, no test says."""

from __future__ import annotations

import pytest

from tests.benchmarks import encoding as benchmark


@pytest.mark.slow
def test_the_precisions_are_timed_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beside the library's own call, with its cosines to it; accuracy says what it lacks without data."""
    monkeypatch.delenv("FLYWHEEL_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the benchmark sets it; gone again afterwards
    found = benchmark.main(["--quick", "--rows", "40", "--variants", "float32", "bfloat16"])
    rows = {str(row[""]): row for row in found["speed"].rows}
    assert list(rows)[2:] == ["ours, float32", "ours, bfloat16"]
    assert float(str(rows["ours, float32"]["cosine, mean"])) > 0.99999
    assert 0.999 < float(str(rows["ours, bfloat16"]["cosine, mean"])) < 1
    assert [figure.name for figure in found["speed"].figures] == [
        "float32, times as fast",
        "bfloat16, times as fast",
    ]
    assert "--data DIR" in str(found["accuracy"].rows[0][""])
