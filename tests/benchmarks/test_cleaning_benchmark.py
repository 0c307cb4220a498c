"""The benchmark of cleaning runs, and its numbers are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.cleaning import (
    COUNTED,
    OURS,
    PRUNED,
    RAW,
    THEIRS,
    Measured,
    blobs,
    interval,
    main,
    measure,
)


def test_it_runs_and_prints_every_way_of_cleaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    for name in (RAW, OURS, COUNTED, THEIRS, PRUNED, "drop", "reweight", "re-ask", "first recipe"):
        assert name in said
    assert "means of 2 seeds" in said


def test_what_is_counted_adds_up() -> None:
    """Raw labels: nothing changed, wrong as simulated; fixes that were right are no more than there were changes."""
    found: dict[str, Measured] = {}
    measure(blobs(1), 1, found)
    raw = found[RAW]
    assert raw.changed == [0]
    assert 0.08 < raw.wrong[0].mean() < 0.25
    for measured in found.values():
        assert measured.right[0] <= measured.changed[0]
        before, after = raw.wrong[0].sum(), measured.wrong[0].sum()
        assert before - after <= measured.right[0]


def test_the_interval_is_paired() -> None:
    """Two that are always alike differ by nothing; a constant difference has no width."""
    zeros = [np.zeros(100), np.zeros(100)]
    assert interval(zeros) == (0.0, 0.0, 0.0)
    assert interval([np.ones(50), np.ones(70)], same_items=False) == (1.0, 1.0, 1.0)
    mean, low, high = interval([np.tile([1.0, 0.0], 200)])
    assert mean == pytest.approx(0.5)
    assert low == pytest.approx(0.45, abs=0.02)
    assert high == pytest.approx(0.55, abs=0.02)
