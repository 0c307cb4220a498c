"""How fast the champion answers and what that takes, beside the teacher's own measured latency.

Measured in this process on stored items, encoder included; caches are left out, for they would answer them all.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from sqlalchemy import select

from tasks.embedding.encoders import load_encoder
from tasks.errors import ConfigError, TrainingError
from tasks.monitoring.cost import WRITING_STAGE
from tasks.project import Project
from tasks.promotion.tracking import registry_of
from tasks.records import Policy, Record
from tasks.routing.cascade import cleared
from tasks.store import Store, schema
from tasks.store.items import content_of, newest_items
from tasks.store.policies import policy_in_force
from tasks.student.package import Student

WARM_UP = 8
BATCH_ROWS = 1024
ROUNDS = 3
NEWEST_CALLS = 10_000
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Latency(Record):
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Throughput(Record):
    """Items a second in batches of `batch`, the median of some rounds: from content, and of the head alone."""

    batch: int
    items_per_second: float
    head_items_per_second: float


@dataclass(frozen=True)
class OnnxPace(Record):
    """The exported head on one thread: latency of one item, and items a second in the same batch."""

    latency_ms: Latency
    items_per_second: float


@dataclass(frozen=True)
class TeacherPace(Record):
    """The teacher's newest calls that were answered: how many, their latency, their mean cost."""

    model: str
    calls: int
    latency_ms: Latency
    cost_usd_per_call: float


@dataclass(frozen=True)
class Bench(Record):
    """What was measured; `answered` is the share of the items that the policy lets the student answer.

    `onnx_head` is None where the extra is not installed or the student has no ONNX form.
    """

    model_version: str
    student: str
    encoder: str
    items: int
    answered: float
    latency_ms: Latency
    head_latency_ms: Latency
    throughput: Throughput
    load_seconds: float
    peak_memory_mb: float
    threads: int
    cpus: int
    teacher: TeacherPace | None
    onnx_head: OnnxPace | None = None


def bench(
    project: Project, store: Store, items: int, clock: Callable[[], float] = time.perf_counter
) -> Bench:
    """Measure the champion.

    Args:
        project: its settings.
        store: its open database.
        items: how many stored items are answered one by one.
        clock: monotonic seconds.

    Raises:
        TrainingError: there is no champion, or no item to measure it on.
    """
    registry = registry_of(project)
    version = registry.alias("champion")
    if version is None:
        raise TrainingError("there is no champion to measure", "`flywheel retrain` and `promote` make one.")
    contents = stored_contents(project, store, items)
    started = clock()
    student = registry.load(version)
    encode = _encoder(student)
    load_seconds = clock() - started
    policy = policy_in_force(store, version)
    decide = _deciding(student, policy)
    vectors = encode(contents)
    whole = single_item_latency(student, policy, contents, clock)
    head = _seconds_each(decide, [vectors[row : row + 1] for row in range(len(contents))], clock)
    batch = list(islice(cycle(contents), BATCH_ROWS))
    encoded = encode(batch)
    return Bench(
        model_version=version,
        student=student.kind,
        encoder="none: it reads images" if student.reads_images else student.encoder.model,
        items=len(contents),
        answered=float(np.mean(decide(vectors))),
        latency_ms=whole,
        head_latency_ms=latency(head),
        throughput=Throughput(
            BATCH_ROWS,
            round(_per_second(lambda: decide(encode(batch)), clock), 1),
            round(_per_second(lambda: decide(encoded), clock), 1),
        ),
        load_seconds=round(load_seconds, 3),
        peak_memory_mb=round(peak_memory_bytes() / MEGABYTE, 1),
        threads=threads_used(),
        cpus=os.cpu_count() or 1,
        teacher=teacher_pace(store, project.teacher.model),
        onnx_head=_onnx_head(student, vectors, encoded, clock),
    )


def single_item_latency(
    student: Student,
    policy: Policy | None,
    contents: list[Any],
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """How long one item takes from its content to the decision whether to answer it, each measured by itself."""
    encode, decide = _encoder(student), _deciding(student, policy)
    return latency(_seconds_each(lambda one: decide(encode([one])), contents, clock))


def stored_contents(project: Project, store: Store, items: int) -> list[Any]:
    """The content of the newest items, at most so many.

    Raises:
        TrainingError: there is none.
    """
    rows = newest_items(store, items)
    if not rows.height:
        raise TrainingError(
            "there is no item to measure on", "`flywheel embed` takes in the project's items."
        )
    return list(content_of(rows, project.task.modality))


def teacher_pace(store: Store, model: str) -> TeacherPace | None:
    """How fast and how dear a model's newest answered calls were; None where there are none."""
    calls = schema.calls.c
    rows = store.read(
        select(calls.latency_seconds, calls.cost_usd)
        .where(calls.model == model, calls.status == "ok", calls.stage != WRITING_STAGE)
        .order_by(calls.id.desc())
        .limit(NEWEST_CALLS)
    )
    if not rows.height:
        return None
    mean_usd = float(rows["cost_usd"].to_numpy().mean())
    return TeacherPace(model, rows.height, latency(rows["latency_seconds"].to_list()), round(mean_usd, 9))


def latency(seconds: list[float]) -> Latency:
    """Percentiles of at least one measurement."""
    p50, p95, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 95, 99]).round(3).tolist()
    return Latency(p50, p95, p99)


def peak_memory_bytes() -> int:
    """The most memory this process ever held."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    # Kilobytes on Linux, bytes on macOS: getrusage(2).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def threads_used() -> int:
    """The most threads that a numerical library loaded here would use."""
    from threadpoolctl import threadpool_info

    pools = [int(pool["num_threads"]) for pool in threadpool_info()]
    torch = sys.modules.get("torch")
    return max([1, *pools, *([int(torch.get_num_threads())] if torch is not None else [])])


def _onnx_head(student: Student, inputs: Any, batch: Any, clock: Callable[[], float]) -> OnnxPace | None:
    from tasks.student.onnx_comparison import OnnxStudent, graph_inputs
    from tasks.student.onnx_export import graph_bytes

    try:
        graph = OnnxStudent(graph_bytes(student))
    except (ConfigError, TrainingError):
        return None

    def answer(some: Any) -> object:
        return graph.run(graph_inputs(student, some))

    each = _seconds_each(answer, [inputs[row : row + 1] for row in range(len(inputs))], clock)
    return OnnxPace(latency(each), round(_per_second(lambda: answer(batch), clock), 1))


def _deciding(student: Student, policy: Policy | None) -> Callable[[Any], list[bool]]:
    """What the student takes to whether it would answer."""
    thresholds, tree = policy.thresholds if policy else None, student.taxonomy
    return lambda inputs: cleared(student.answers(inputs), tree.levels, thresholds, tree.other)


def _encoder(student: Student) -> Callable[[list[Any]], Any]:
    """Contents to what the student takes: vectors, or the images as they are."""
    if student.reads_images:
        return lambda contents: contents
    return load_encoder(student.encoder).encode


def _seconds_each(
    work: Callable[[Any], object], inputs: list[Any], clock: Callable[[], float]
) -> list[float]:
    for one in islice(cycle(inputs), WARM_UP):
        work(one)
    seconds = []
    for one in inputs:
        started = clock()
        work(one)
        seconds.append(clock() - started)
    return seconds


def _per_second(work: Callable[[], object], clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = clock()
        work()
        seconds.append(clock() - started)
    return BATCH_ROWS / max(float(np.median(seconds)), 1e-9)
