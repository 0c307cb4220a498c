"""The benchmark of the gate runs, and its order of challengers is the right one."""

from __future__ import annotations

import pytest

from tests.benchmarks import gate


def test_it_prints_a_line_a_challenger(capsys: pytest.CaptureFixture[str]) -> None:
    """Two draws of a small gold: eight lines of shares below the head."""
    assert gate.main(["--gold", "300", "--draws", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(gate.NOISE) * len(gate.CHALLENGERS)
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_students_are_as_good_as_asked_for() -> None:
    """A point more is a point more, whatever part of the margin is a student's own."""
    import numpy as np

    rng = np.random.default_rng(3)
    shared = rng.standard_normal(200_000)
    for noise in gate.NOISE.values():
        reached = [gate.world(share, noise).confidences(rng, shared).mean() for share in (0.89, 0.90, 0.91)]
        assert reached == pytest.approx([0.89, 0.90, 0.91], abs=0.003)
