"""What scoring costs: a trained head against its bare products, from the cache, with neighbours, and a routed file.

Run as `python -m tests.benchmarks.scoring [SECTION ...] [--rows N] [--quick] [--folder F]`; all sections take some
minutes and 4 GB of disk. Each figure comes from a process of its own; ratios are of the fastest of several runs that
took turns within one process, because others may be at work: what a CPU second gives does not depend on them. Threads
are of this program, with one BLAS thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.embedding_cache import as_series, cache_in, random_keys
from tests.benchmarks.labelling.figures import Figure, Findings

DIMENSION = 384
LEAVES, MIDDLE, UPPER = 150, 50, 10
THRESHOLDS = (0.8, 0.6, 0.5)
TURNS = 5
TASK_ROWS = 8192
"""What a thread takes at once; the student cuts it into batches of its own."""
QUICK_ROWS = 20_000
NEIGHBOUR_ROWS = 1_000_000
GIGA = 1e9


# ---- what is scored ------------------------------------------------------------------------------------------------


def vectors(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32 [rows, 384] around one centre a leaf, and which leaf each came from."""
    centres = np.random.default_rng(0).standard_normal((LEAVES, DIMENSION), dtype=np.float32)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, LEAVES, rows)
    X = centres[y]
    X += 1.0 * rng.standard_normal(X.shape, dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X, y


@cache
def trained(kind: str) -> Any:
    """A student of three levels over 150 leaves, its head fitted on 3,000 rows; the temperature is a usual one.

    A kind that ends in `, familiarity` keeps prototypes as a retrain leaves them.
    """
    from tasks.embedding.encoders import EncoderSettings
    from tasks.student.ensemble import EnsembleHead
    from tasks.student.familiarity import fit_prototypes
    from tasks.student.linear import LinearHead
    from tasks.student.mlp import MlpHead
    from tasks.student.package import Student
    from tasks.taxonomy import Taxonomy

    paths = [(leaf * UPPER // LEAVES, leaf * MIDDLE // LEAVES, leaf) for leaf in range(LEAVES)]
    leaves = tuple(f"upper {a} > middle {b} > leaf {c}" for a, b, c in paths)
    heads: dict[str, Callable[[], Any]] = {
        "linear": lambda: LinearHead(10.0),
        "mlp": lambda: MlpHead(12),
        "ensemble": lambda: EnsembleHead(10.0, share=0.3),
    }
    X, y = vectors(3_000, seed=1)
    name, _, familiar = kind.partition(", ")
    head = heads[name]().fit(X, y, n_leaves=LEAVES, seed=0)
    taxonomy = Taxonomy(("upper", "middle", "leaf"), leaves, {})
    prototypes = None
    if familiar:
        prototypes, _ = fit_prototypes(X, y, np.arange(len(y)) % 5, y, n_leaves=LEAVES, seed=0)
    settings = EncoderSettings(f"hash:{DIMENSION}")
    return Student(taxonomy, head, name, "text", settings, 1.2, prototypes=prototypes)


def answered(student: Any, X: np.ndarray) -> int:
    """Labels, confidences and thresholds of some rows; how many the student answers."""
    from tasks.student.thresholds import accepts

    answers = student.answers(X)
    assert len(answers.labels) == len(X)
    return int(accepts(answers.scores, THRESHOLDS).sum())


def in_threads(work: Callable[[np.ndarray], int], tasks: Iterable[np.ndarray], threads: int) -> int:
    """The sum of what the work gives; no more tasks are read ahead than there are threads."""
    if threads == 1:
        return sum(work(task) for task in tasks)
    waiting: deque[Future[int]] = deque()
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > threads:
                done += waiting.popleft().result()
    return done + sum(future.result() for future in waiting)


def cut(X: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(X), TASK_ROWS):
        yield X[first : first + TASK_ROWS]


# ---- what the processes do; each prints one JSON object ------------------------------------------------------------


def head(folder: Path, rows: int, kind: str, threads: int) -> dict[str, Any]:
    """Vectors in memory to answers and thresholds, in turns with the products and the softmax alone."""
    from tasks.student.heads import softmax
    from tasks.student.scoring import BATCH_ROWS

    student, (X, _) = trained(kind), vectors(rows, seed=2)
    if student.kind == "linear":
        weights, bias = student.head.weights[:-1], student.head.weights[-1]

        def products(batch: np.ndarray) -> np.ndarray:
            return batch @ weights + bias
    else:
        w = student.head.weights

        def products(batch: np.ndarray) -> np.ndarray:
            return np.maximum(batch @ w["hidden"] + w["hidden_bias"], 0) @ w["out"] + w["out_bias"]

    def bare(task: np.ndarray) -> int:
        for first in range(0, len(task), BATCH_ROWS):
            softmax(products(task[first : first + BATCH_ROWS]))
        return 0

    best: dict[str, float] = {}
    accepted = 0
    for _ in range(TURNS):
        used, started = time.process_time(), time.perf_counter()
        accepted = in_threads(lambda task: answered(student, task), cut(X), threads)
        middle, used = time.perf_counter(), time.process_time() - used
        in_threads(bare, cut(X), threads)
        best["answers"] = min(best.get("answers", 1e9), middle - started)
        best["cpu"] = min(best.get("cpu", 1e9), used)
        best["floor"] = min(best.get("floor", 1e9), time.perf_counter() - middle)
    return best | {"accepted": accepted / rows}


def fill_cache(folder: Path, rows: int) -> dict[str, Any]:
    """A cache of so many vectors, as `embed` leaves it."""
    cache, keys = cache_in(folder), random_keys(rows)
    for place, first in enumerate(range(0, rows, 65_536)):
        names = keys[first : first + 65_536].tobytes()
        some = [names[at : at + 16] for at in range(0, len(names), 16)]
        cache.append(some, vectors(len(some), seed=100 + place)[0])
    return {}


def cached(folder: Path, rows: int, kind: str, threads: int) -> dict[str, Any]:
    """Cached vectors to answers and thresholds, streamed; memory beyond what the process held before."""
    student = trained(kind)
    asked, cache = as_series(random_keys(rows)), cache_in(folder)
    answered(student, next(cache.stream(asked[:TASK_ROWS], TASK_ROWS)))  # imports and the cache's keys
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        in_threads(lambda task: answered(student, task), cache.stream(asked, TASK_ROWS), threads)
        seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds), "before": before}


def gate(folder: Path, rows: int, reference: int, threads: int) -> dict[str, Any]:
    """Each row's nearest neighbours among so many, in turns with the product alone, and with their votes."""
    from tasks.student.neighbours import nearest, votes

    known, y = vectors(reference, seed=3)
    X, _ = vectors(rows, seed=2)

    def search(task: np.ndarray) -> int:
        return len(nearest(task, known)[0])

    def vote(task: np.ndarray) -> int:
        return len(votes(task, known, y, LEAVES))

    def product(task: np.ndarray) -> int:
        step = max(1, (64 << 20) // (4 * reference))
        for first in range(0, len(task), step):
            task[first : first + step] @ known.T
        return 0

    best: dict[str, float] = {}
    for _ in range(3):
        for name, work in (("nearest", search), ("votes", vote), ("floor", product)):
            started = time.perf_counter()
            in_threads(work, (X[first : first + 512] for first in range(0, rows, 512)), threads)
            best[name] = min(best.get(name, 1e9), time.perf_counter() - started)
    return best


def prepare_route(folder: Path, rows: int) -> dict[str, Any]:
    """A project with a champion that answers every item of a file, whose vectors are cached."""
    import polars as pl

    from tasks.embedding.embed import cache_for
    from tasks.project import load_project
    from tasks.promotion.registry import CandidateRun
    from tasks.promotion.tracking import registry_of
    from tasks.records import Policy, text_key
    from tasks.store import open_store
    from tasks.store.policies import append_policy

    student = trained("linear")
    tree: dict[str, dict[str, dict[str, None]]] = {}
    for leaf in student.taxonomy.leaves:
        a, b, c = leaf.split(" > ")
        tree.setdefault(a, {}).setdefault(b, {})[c] = None
    (folder / "taxonomy.yaml").write_text(json.dumps(tree))
    (folder / "bench.yaml").write_text(
        "project: bench\ntask: {taxonomy: taxonomy.yaml, levels: [upper, middle, leaf], other: null}\n"
        "source: {items: in.parquet, id: id, text: text}\nteacher: {model: none}\n"
        f'encoder: {{model: "hash:{DIMENSION}"}}\nrouting: {{audit_rate: 0.0}}\n'
        f"storage: {{root: {folder / 'var' / 'bench'}}}\n"
    )
    project = load_project(folder / "bench.yaml", folder)
    cache = cache_for(student.encoder, project.root)
    for size, name in ((rows // 10, "tenth"), (rows, "whole")):
        texts = [f"product number {number} of the {name} catalogue" for number in range(size)]
        pl.DataFrame({"id": [str(number) for number in range(size)], "text": texts}).write_parquet(
            folder / f"{name}.parquet", row_group_size=max(1, size // 8)
        )
        for place, first in enumerate(range(0, size, 65_536)):
            some = texts[first : first + 65_536]
            cache.append([text_key(text) for text in some], vectors(len(some), seed=100 + place)[0])
    registry = registry_of(project)
    snapshot = folder / "rows.parquet"
    pl.DataFrame({"key": [b"k" * 16], "label": ["l"], "source": ["human"]}).write_parquet(snapshot)
    run = registry.log_retrain(CandidateRun("retrain", {}, {}), [], snapshot, "f" * 24, {}, {})
    version = registry.register(run, student, "It answers everything.", {})
    registry.set_alias("champion", version)
    thresholds = dict.fromkeys(student.taxonomy.levels, 0.0)
    policy = Policy(thresholds, 0.05, 0.95, 1.0, rows, "gold", version)
    append_policy(open_store(project.database_url, project.project), policy, 1)
    return {}


def route(folder: Path, rows: int, name: str) -> dict[str, Any]:
    """The step that routes a file, with its memory beyond what routing a few rows takes."""
    import polars as pl

    from tasks.project import load_project
    from tasks.routing.steps import route_file

    project = load_project(folder / "bench.yaml", folder)
    few = folder / "few.parquet"
    pl.read_parquet(folder / "tenth.parquet")[:100].write_parquet(few)
    route_file.fn(project, str(few), str(folder / "few.out"), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    done = route_file.fn(project, str(folder / f"{name}.parquet"), str(folder / f"{name}.out"), 2)
    first = time.perf_counter() - started
    assert (done.items, done.unanswered, set(done.tiers)) == (rows, 0, {"student"}), done
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    again = route_file.fn(project, str(folder / f"{name}.parquet"), str(folder / "again.out"), 3)
    assert again.tiers == done.tiers
    assert (folder / "again.out").read_bytes() == (folder / f"{name}.out").read_bytes()
    return {"first": first, "again": time.perf_counter() - started, "before": before, "routed": peak}


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (head, fill_cache, cached, gate, prepare_route, route)
}


# ---- the sections --------------------------------------------------------------------------------------------------


def in_a_process(work: str, folder: Path, *arguments: object) -> dict[str, Any]:
    """What the work found, with its process's peak memory in bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.scoring", "--work", work, str(folder)]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | one
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def heads(folder: Path, rows: int) -> Findings:
    """Vectors in memory to answers."""
    found = Findings(
        f"{rows:,} vectors of {DIMENSION} through a head of {LEAVES} leaves in three levels, in memory"
    )
    for kind in ("linear", "linear, familiarity", "mlp"):
        for threads in (1, 2):
            run = in_a_process("head", folder, rows, kind, threads)
            found.rows.append(
                {
                    "": f"{kind}, {threads} threads",
                    "rows/s": rows / run["answers"],
                    "rows/CPU s": rows / run["cpu"],
                    "floor, rows/s": rows / run["floor"],
                    "of the floor": run["floor"] / run["answers"],
                    "accepted": run["accepted"],
                }
            )
            if kind == "linear" and threads == 2:
                found.figures.append(
                    Figure("rows/s, linear head, two threads", rows / run["answers"], ">=", 200_000)
                )
                found.figures.append(
                    Figure("of products and softmax alone", run["floor"] / run["answers"], ">=", 0.67)
                )
    return found


def from_cache(folder: Path, rows: int) -> Findings:
    """Cached vectors to answers."""
    found = Findings(f"{rows:,} cached vectors to answers and thresholds, streamed")
    in_a_process("fill_cache", folder, rows)
    for threads in (1, 2):
        run = in_a_process("cached", folder, rows, "linear", threads)
        beyond = run["peak"] - run["before"]
        found.rows.append(
            {
                "": f"linear, {threads} threads",
                "rows/s": rows / run["seconds"],
                "peak GB": run["peak"] / GIGA,
                "beyond the first batch, MB": beyond / 1e6,
            }
        )
        if threads == 2:
            found.figures.append(Figure("rows/s, two threads", rows / run["seconds"], ">=", 200_000))
            found.figures.append(Figure("memory over the matrix", beyond / (rows * DIMENSION * 4), "<=", 0.2))
    return found


def neighbours(folder: Path, rows: int) -> Findings:
    """The rate with the neighbour gate, which costs as much as it has neighbours to look at."""
    found = Findings("the nearest 15 of so many neighbours, two threads")
    for reference in (1_000, 5_000, 50_000):
        asked = max(1_024, min(rows, NEIGHBOUR_ROWS * 500 // (reference * 10)))
        run = in_a_process("gate", folder, asked, reference, 2)
        found.rows.append(
            {
                "": f"{reference:,}",
                "rows asked": asked,
                "nearest, rows/s": asked / run["nearest"],
                "votes, rows/s": asked / run["votes"],
                "product alone, rows/s": asked / run["floor"],
                "of the product": run["floor"] / run["nearest"],
            }
        )
    return found


def routing(folder: Path, rows: int) -> Findings:
    """A file through cache, student and log; memory must not grow with it."""
    found = Findings(f"a file of {rows:,} rows routed, its vectors cached, the student sure of all")
    in_a_process("prepare_route", folder, rows)
    grown = []
    for name, size in (("tenth", rows // 10), ("whole", rows)):
        run = in_a_process("route", folder, size, name)
        grown.append(run["routed"])
        found.rows.append(
            {
                "": f"{size:,} rows",
                "rows/s": size / run["first"],
                "again, rows/s": size / run["again"],
                "peak GB": run["routed"] / GIGA,
                "beyond a few rows, MB": (run["routed"] - run["before"]) / 1e6,
            }
        )
    found.notes.append(f"{(grown[1] - grown[0]) / (0.9 * rows):.0f} bytes of peak memory a further row")
    return found


SECTIONS: dict[str, Callable[[Path, int], Findings]] = {
    section.__name__: section for section in (heads, from_cache, neighbours, routing)
}


def main() -> None:
    """Run the sections, or one piece of work of theirs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scoring", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows: does it run at all?")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, folder, *arguments = options.work
        found = WORK[name](Path(folder), *(int(a) if a.isdigit() else a for a in arguments))
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(found))
        return
    rows = QUICK_ROWS if options.quick else options.rows
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as own:
        folder = options.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        for section in options.sections or SECTIONS:
            for line in SECTIONS[section](folder, rows).lines():
                print(line, flush=True)
            print(f"   load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)


if __name__ == "__main__":
    main()
