"""`flywheel thresholds`, `bench`, `status` and `report`, on a project that has served and on one that has not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from tasks.monitoring.bench import bench, latency, peak_memory_bytes, teacher_pace, threads_used
from tasks.monitoring.operating_points import TARGETS, coverage_by_target, operating_points
from tasks.project import load_project
from tasks.store import Store, open_store, schema
from tasks.student.certifying import path_as_dict
from tasks.student.thresholds import fix_path
from tests.conftest import ROOT, write_tiny_project
from tests.deployments.commands import flywheel


class Served(NamedTuple):
    """A project with a champion, and the FLYWHEEL_HOME it lives in."""

    file: Path
    home: Path

    @property
    def options(self) -> tuple[str, str]:
        return "--project", str(self.file)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The tiny project, trained on its teacher's first pass and promoted, once for this module."""
    home = tmp_path_factory.mktemp("served")
    file = write_tiny_project(
        home / "conf",
        encoder={"model": "hash:512"},
        routing={"target_error": 0.6},
        cleaning={"method": "none"},  # sixty labels certify too little where cleaning takes its part of them
    )
    right = pl.col("a").str.split(" > ")
    answers = pl.read_parquet(file.parent / "answers.parquet").select(
        pl.col("text").alias("name"),
        right.list.get(0).alias("department"),
        right.list.get(1).alias("category"),
    )
    answers.write_csv(home / "labels.csv")
    command = [sys.executable, "-m", "tests.deployments.trained_project", str(file), str(home / "labels.csv")]
    environment = os.environ | {"FLYWHEEL_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Served(file, home)


def opened(served: Served) -> tuple[Any, Store]:
    project = load_project(served.file, served.home)
    return project, open_store(project.database_url, project.project)


@pytest.mark.slow
def test_thresholds_as_json(served: Served) -> None:
    """The champion's policy, its escalation table, and certified coverage for every target."""
    done = flywheel("thresholds", *served.options, "--json", cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    body = done.body
    assert (body["version"], body["role"]) == ("1", "champion")
    assert body["policy"]["model_version"] == "1"
    assert [row["target_error"] for row in body["coverage"]] == [*TARGETS, 0.6]
    assert {"threshold", "escalated", "accuracy", "answered"} == set(body["escalation"][0])
    at_policy = next(row for row in body["coverage"] if row["target_error"] == body["policy"]["target_error"])
    assert at_policy["certified_coverage"] == body["policy"]["certified_coverage"]
    assert body["sample"]["items"] == body["policy"]["calibration_items"]


@pytest.mark.slow
def test_what_a_retrain_keeps_certifies_as_it_did(served: Served) -> None:
    """Every number of every point on the curve is found again from the file."""
    project, store = opened(served)
    found = operating_points(project, store)
    assert found is not None
    assert found.policy is not None
    assert found.policy.thresholds is not None
    again = next(row for row in found.coverage if row["target_error"] == found.policy.target_error)
    for name in ("accepted", "errors", "upper_bound", "more_rows_needed"):
        assert again[name] == found.policy.certificate[name]
    assert again["thresholds"] == found.policy.thresholds
    store.close()


@pytest.mark.slow
def test_thresholds_for_people(served: Served) -> None:
    """The policy's sentence and three tables' heads; an unknown version is wrong usage and names the known ones."""
    done = flywheel("thresholds", *served.options, cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    assert "version 1 (champion)" in done.out
    assert "category    at least 0." in done.out
    assert "escalated  accuracy  answered" in done.out
    assert "certified coverage by target error" in done.out
    wrong = flywheel("thresholds", *served.options, "--version", "9", cwd=served.home, home=served.home)
    assert wrong.code == 2
    assert "Known: 1" in wrong.err


@pytest.mark.slow
def test_bench_as_json(served: Served) -> None:
    """Numbers that fit together: percentiles rise, the head alone is no slower than the whole."""
    done = flywheel("bench", *served.options, "--items", "20", "--json", cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    body = done.body
    assert (body["model_version"], body["items"], body["encoder"]) == ("1", 20, "hash:512")
    for name in ("latency_ms", "head_latency_ms"):
        assert 0 < body[name]["p50"] <= body[name]["p95"] <= body[name]["p99"]
    rate = body["throughput"]
    assert rate["batch"] == 1024
    assert rate["head_items_per_second"] > rate["items_per_second"] > 0
    if find_spec("onnxruntime") is not None and find_spec("onnx") is not None:
        onnx = body["onnx_head"]
        assert 0 < onnx["latency_ms"]["p50"] <= onnx["latency_ms"]["p99"]
        assert onnx["items_per_second"] > rate["items_per_second"]
    else:
        assert body["onnx_head"] is None
    assert body["peak_memory_mb"] > 10
    assert body["threads"] >= 1
    assert body["teacher"] is None


@pytest.mark.slow
def test_bench_for_people_shows_the_teacher_beside_the_student(served: Served) -> None:
    """Only calls that were answered count."""
    project, store = opened(served)
    with store.begin() as connection:
        for row in range(10):
            connection.execute(insert(schema.calls), call("ok", 0.1 * (row + 1), 0.002))
        connection.execute(insert(schema.calls), call("failed", 99.0, 0.0))
    pace = teacher_pace(store, project.teacher.model)
    assert pace is not None
    assert (pace.calls, pace.latency_ms.p50, pace.cost_usd_per_call) == (10, 550.0, 0.002)
    assert teacher_pace(store, "another") is None
    store.close()
    done = flywheel("bench", *served.options, "--items", "5", cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    assert "student, one item" in done.out
    assert "teacher, one call  550.00" in done.out


@pytest.mark.slow
def test_bench_measures_with_the_clock_it_is_given(served: Served) -> None:
    """A clock of one millisecond a look makes every item take one."""
    project, store = opened(served)
    looks = iter(range(1_000_000))
    measured = bench(project, store, 6, clock=lambda: next(looks) / 1000)
    assert measured.latency_ms.p50 == measured.head_latency_ms.p99 == 1.0
    assert measured.throughput.items_per_second == 1_024_000
    assert 0 < measured.answered <= 1
    store.close()


@pytest.mark.slow
def test_status_and_report(served: Served) -> None:
    """Status names who serves; report writes a page and says where."""
    done = flywheel("status", *served.options, "--json", cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    assert done.body["champion"]["version"] == "1"
    people = flywheel("status", *served.options, cwd=served.home, home=served.home)
    assert "version 1" in people.out
    done = flywheel("report", *served.options, "--json", cwd=served.home, home=served.home)
    assert done.code == 0, done.err
    assert "<html" in Path(done.body["report"]).read_text(encoding="utf-8").casefold()


def test_before_the_first_version(tiny_project: Callable[..., Path], tmp_path: Path) -> None:
    """A clear sentence each: thresholds and status are done (0), bench has failed (1); none starts MLflow's store."""
    file = tiny_project()
    done = flywheel("thresholds", "--project", file, cwd=tmp_path)
    assert (done.code, done.out) == (0, "There is no version yet: `flywheel retrain` trains the first one.\n")
    assert flywheel("thresholds", "--project", file, "--json", cwd=tmp_path).body == {"version": None}
    assert flywheel("status", "--project", file, "--json", cwd=tmp_path).body["champion"] is None
    done = flywheel("bench", "--project", file, "--json", cwd=tmp_path)
    assert done.code == 1
    assert "no champion" in done.body["error"]
    assert "no champion" in done.err
    assert flywheel("thresholds", "--project", tmp_path / "no.yaml", cwd=tmp_path).code == 2


def call(status: str, latency_seconds: float, cost_usd: float) -> dict[str, Any]:
    counts = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "attempts": 1}
    times = {"latency_seconds": latency_seconds, "cost_usd": cost_usd, "at": 1.0}
    return {"stage": "label", "model": "tiny-teacher", "status": status} | counts | times


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_looser_target_never_certifies_less(seed: int) -> None:
    """Coverage rises with the target, and no certified bound is above its target."""
    rng = np.random.default_rng(seed)
    confidences = np.sort(rng.random((600, 2)).astype(np.float32), axis=1)[:, ::-1]
    facts = {
        "levels": ["a", "b"],
        "path": path_as_dict(fix_path(confidences)),
        "sample": {
            "confidences": confidences.tolist(),
            "wrong": (rng.random(600) > confidences[:, -1] ** 0.2).tolist(),
            "never": (rng.random(600) < 0.05).tolist(),
        },
    }
    rows = coverage_by_target(facts, (0.01, 0.05, 0.2, 0.5), 0.95)
    coverages = [row["certified_coverage"] for row in rows]
    assert coverages == sorted(coverages)
    assert all(row["upper_bound"] <= row["target_error"] for row in rows if row["thresholds"])
    for row in rows:
        assert 0 <= row["certified_coverage"] <= row["measured_coverage"] <= row["coverage_at_most"] <= 1


@pytest.mark.parametrize("facts", [{}, {"sample": None, "path": {}}, {"levels": ["a"], "sample": {}}])
def test_a_version_without_a_sample_has_no_curve(facts: dict[str, Any]) -> None:
    assert coverage_by_target(facts, TARGETS, 0.95) == []


def test_what_the_machine_says() -> None:
    """Percentiles are milliseconds; this process holds more than ten megabytes and uses a thread at least."""
    assert latency([0.001, 0.003]).p50 == 2.0
    assert peak_memory_bytes() > 10 << 20
    assert threads_used() >= 1
