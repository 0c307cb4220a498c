"""The benchmark beside TRACER runs without it, counts what it says it counts, and takes up where it was stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.promise import blobs
from tests.benchmarks.tracer import Cell, Draw, Result, kept, main, table_of, theirs


def test_it_runs_without_tracer_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--quick", "--candidates", "linear", "--results", str(tmp_path)]
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "TRACER is skipped" in said
    assert "500-noise10-1-ours: {" in said
    assert "| 500-noise10 | ours | 2 |" in said
    assert main(run) == 0
    assert "-ours: {" not in capsys.readouterr().out, "what was kept is not computed again"
    assert main([]) == 0
    assert "Skipped" in capsys.readouterr().out


def test_a_promise_is_missed_where_fewer_agree_than_was_promised() -> None:
    """Rows that are left to the teacher do not count; who answers nothing breaks nothing."""
    draw = Draw(np.arange(0), np.arange(100), ["a"] * 100)
    kept_promise = draw.judged(["a"] * 57 + ["b"] * 3 + [None] * 40, 1.0, "linear")
    assert (kept_promise.coverage, kept_promise.agreement, kept_promise.missed) == (0.6, 0.95, False)
    assert draw.judged(["a"] * 94 + ["b"] * 6, 1.0, "linear").missed
    assert not draw.judged([None] * 100, 1.0, "linear").missed
    [row] = table_of({"cell": {"ours": [kept_promise, Result(0.8, 80, 0.9, 3.0, "mlp")], "TRACER": []}})[2:]
    assert row == "| cell | ours | 2 | 0.700 | 0.141 | 1 | 2.0 | linear, mlp |"


def test_draws_share_no_row_and_the_teacher_errs_as_often_as_is_said() -> None:
    pool = blobs()
    draw = Draw.of(pool, Cell(500, 0.1, 1), 3)
    assert sorted([*draw.traces, *draw.fresh]) == list(range(3000))
    assert np.mean(
        [said != true for said, true in zip(draw.teacher, pool.labels, strict=True)]
    ) == pytest.approx(0.1, abs=0.03)


def test_an_environment_without_tracer_fails_loudly() -> None:
    import subprocess

    pool = blobs()
    with pytest.raises(subprocess.CalledProcessError):
        theirs(pool, Draw.of(pool, Cell(50, 0.0, 1), 0), Path(sys.executable))


def test_a_result_is_kept_whole(tmp_path: Path) -> None:
    result = Result(0.5, 10, 0.96, 2.0, "l2d")
    assert kept(tmp_path, "cell-0-theirs", lambda: result) == result
    assert kept(tmp_path, "cell-0-theirs", lambda: pytest.fail("computed again")) == result
