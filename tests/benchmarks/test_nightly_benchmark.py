"""The benchmark of the nightly run does what it measures; how fast anything is, no test says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.simple_encoders import HashEncoder
from tests.benchmarks import nightly_million as benchmark


def test_cached_vectors_are_what_the_encoder_gives() -> None:
    texts, y = benchmark.made_up(0, 300, 40)
    assert len(set(texts)) == 300
    assert set(y.tolist()) <= set(range(40))
    assert np.array_equal(benchmark.hashed_vectors(texts, 32), HashEncoder(32).encode(texts))


@pytest.mark.slow
def test_a_small_project_goes_through_both_nights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """New items, and only those, are asked about and encoded; every step is in both tables."""
    sizes = ["--items", "400", "--new", "60", "--dimension", "48", "--leaves", "8"]
    assert benchmark.main([*sizes, "--candidates", "linear", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for step in ("take in items", "snapshot, again", "train and register", "promote", "report"):
        assert sum(line.strip().startswith(f"{step}  ") for line in told.splitlines()) == 2, told
    assert '"new": 60, "asked": 60, "encoded": 60' in told
    assert '"new": 0, "asked": 0' in told
