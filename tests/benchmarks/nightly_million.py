"""What a nightly run costs where nearly everything is known already: seconds, CPU and memory by step.

Run as `python -m tests.benchmarks.nightly_million [--items 10000,100000,1000000] [--new N] [--dimension N] [--leaves N]
[--folder F]`. Of each size a project is made whose items have texts, cached vectors, a teacher's answers and labels of
which one in twenty is wrong; a first night trains on it (a full search), then new items arrive, the simulated teacher
is asked about them over HTTP, and a nightly run does what `flows/nightly.py` does, its rooms called plainly. The two
nights are processes of their own; peak memory is of each step, freed memory not counted.

With `--first N` the first night sees N items only, and its search is taken for one of all: cheaper, and harder on the
nightly run, whose training goes on from weights that most rows are new to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from tests.benchmarks.labelling.figures import Cell, Figure, Findings
from tests.benchmarks.labelling.measured import ENVIRONMENT
from tests.benchmarks.labelling.scene import Scene
from tests.benchmarks.labelling.teacher import ROOT, running_teacher

WRONG, TWINS, VAGUE = 0.05, 0.01, 0.1
"""Shares of labels that are wrong, of items that repeat another one's words, and that lack the words of their label."""

GOLD_ROWS = 3_000
LEAST_GOLD = 300
ROWS_AT_ONCE = 16_384
GIGA = 1e9
NAME = "million"

# ---- what there is to learn from -----------------------------------------------------------------------------------


def leaf_paths(leaves: int) -> list[str]:
    """Paths of three levels, four leaves to a category and five categories to a department."""
    return [f"department {leaf // 20} > category {leaf // 4} > type {leaf:03d}" for leaf in range(leaves)]


def words(count: int, seed: int) -> np.ndarray:
    """Made-up words of five to nine letters."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return np.array(["".join(rng.choice(letters, size)) for size in rng.integers(5, 10, count)])


def made_up(first: int, count: int, leaves: int) -> tuple[list[str], np.ndarray]:
    """Items `first` to `first + count`: their texts, all different, and their leaves."""
    of_leaf = words(leaves * 6, 1).reshape(leaves, 6)
    of_department = words((leaves // 20 + 1) * 6, 2).reshape(-1, 6)
    common = words(3_000, 3)
    rng = np.random.default_rng((4, first))
    y = rng.integers(0, leaves, count)
    picked = rng.integers(0, 6, (3, count))
    said = [of_leaf[y, picked[0]], of_leaf[y, picked[1]], of_department[y // 20, picked[2]]]
    vague = rng.random(count) < VAGUE
    said = [np.where(vague, common[rng.integers(0, 3_000, count)], column) for column in said]
    said += [common[rng.integers(0, 3_000, count)] for _ in range(2)]
    twins = np.flatnonzero(rng.random(count) < TWINS)
    twins = twins[twins > 0]
    for column in said:
        column[twins] = column[twins - 1]
    y[twins] = y[twins - 1]
    rows = zip(*(column.tolist() for column in said), strict=True)
    return [f"{' '.join(row)} {number:07x}" for number, row in enumerate(rows, first)], y


def said_of(y: np.ndarray, leaves: int) -> np.ndarray:
    """What the teacher says: one in twenty wrong, half of those in another department."""
    rng = np.random.default_rng((5, len(y)))
    near = np.minimum(y // 20 * 20 + rng.integers(0, 20, len(y)), leaves - 1)
    other = np.where(rng.random(len(y)) < 0.5, near, rng.integers(0, leaves, len(y)))
    return np.where(rng.random(len(y)) < WRONG, other, y)


def hashed_vectors(texts: Sequence[str], dimension: int) -> np.ndarray:
    """What the project's encoder (`hash:DIMENSION`) gives of ASCII texts in small letters, forty times faster."""
    padded = [f"  {text}  " for text in texts]
    data = np.frombuffer("".join(padded).encode("ascii"), np.uint8).astype(np.uint32)
    ends = np.cumsum([len(text) for text in padded])
    owner = np.repeat(np.arange(len(padded)), np.diff(ends, prepend=0))[:-2]
    inside = np.arange(len(owner)) < ends[owner] - 2
    codes = (data[:-2] | data[1:-1] << 8 | data[2:] << 16)[inside]
    distinct, place = np.unique(codes, return_inverse=True)
    digests = [
        int.from_bytes(blake2b(int(code).to_bytes(3, "little"), digest_size=4).digest(), "little")
        for code in distinct
    ]
    digest = np.array(digests, np.int64)[place]
    counted = np.bincount(
        owner[inside] * dimension + digest % dimension,
        np.where(digest & 0x80000000, 1.0, -1.0),
        len(padded) * dimension,
    )
    X = counted.reshape(-1, dimension).astype(np.float32)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)


def write_files(folder: Path, items: int, new: int, leaves: int) -> None:
    """Taxonomy, gold and the teacher's recorded answers about what will be new; no item is in the source yet."""
    paths = leaf_paths(leaves)
    tree: dict[str, dict[str, dict[str, None]]] = {}
    for path in paths:
        department, category, leaf = path.split(" > ")
        tree.setdefault(department, {}).setdefault(category, {})[leaf] = None
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(tree))
    (folder / "items").mkdir()
    texts, y = made_up(items, new, leaves)
    said = said_of(y, leaves)
    answers = {"text": texts, "label": [paths[leaf] for leaf in said.tolist()]}
    pl.DataFrame(answers).write_parquet(folder / "answers.parquet")
    texts, y = made_up(items + new, max(LEAST_GOLD, min(GOLD_ROWS, items // 10)), leaves)
    judged = {"text": texts, "label": [paths[leaf] for leaf in y.tolist()]}
    pl.DataFrame(judged).write_parquet(folder / "gold.parquet")


def write_project(folder: Path, base_url: str, dimension: int, candidates: str) -> Path:
    """The project's file."""
    settings: dict[str, Any] = {
        "project": NAME,
        "task": {"taxonomy": "taxonomy.yaml", "levels": ["department", "category", "type"], "other": None},
        "source": {"items": "items/*.parquet", "text": "text"},
        "gold": "gold.parquet",
        "teacher": {"base_url": base_url, "model": "simulated-teacher", "passes": 1},
        "encoder": {"model": f"hash:{dimension}"},
    }
    if candidates:
        settings["student"] = {"candidates": candidates.split(",")}
    file = folder / f"{NAME}.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


# ---- what the processes do; each prints one JSON object ------------------------------------------------------------


@dataclass
class Meter:
    """Seconds, CPU seconds and peak gigabytes by step, in their order."""

    steps: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside; a step met twice adds up."""
        Path("/proc/self/clear_refs").write_text("5")  # the most resident memory is counted from here on
        started, cpu = time.perf_counter(), time.process_time()
        yield
        now = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        before = self.steps.get(name, {"seconds": 0.0, "cpu": 0.0, "peak": 0.0})
        found = {key: before[key] + value for key, value in now.items()}
        self.steps[name] = found | {"peak": max(before["peak"], peak())}
        print(f"   {name}: {json.dumps(self.steps[name])}", file=sys.stderr, flush=True)


def peak() -> float:
    """The most memory since the mark was last cleared, in gigabytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIGA


def fill(folder: Path, first: int, last: int, dimension: int, leaves: int) -> dict[str, Any]:
    """Items `first` to `last` taken in, with a teacher's answers, labels, signatures and cached vectors."""
    from tasks.embedding.embed import cache_for
    from tasks.embedding.vectors import encoder_settings
    from tasks.kept_signatures import kept_signatures
    from tasks.labeling.asking import asking_teacher
    from tasks.labeling.steps import take_in_items
    from tasks.project import load_project
    from tasks.records import text_key
    from tasks.store import open_store, schema
    from tasks.store.labels import append_labels
    from tasks.store.runs import working

    project, meter = load_project(folder / f"{NAME}.yaml"), Meter()
    store = open_store(project.database_url, project.project)
    paths, version = leaf_paths(leaves), asking_teacher(project).version
    texts, y = made_up(first, last - first, leaves)
    pl.DataFrame({"text": texts}).write_parquet(folder / "items" / f"known-{first}.parquet")
    keys, said = [text_key(text) for text in texts], said_of(y, leaves).tolist()
    known = {"pass": 1, "prompt_version": version.prompt_version, "model": version.model}
    known |= {"parameters": version.parameters, "attempts": 1, "at": time.time()}
    with working(store, project.project, "label") as run:
        with meter.step("items taken in"):
            assert take_in_items.fn(project, run.id).new == len(texts)
        with meter.step("answers and labels written"):
            rows = ({"key": key, "label": paths[leaf], **known} for key, leaf in zip(keys, said, strict=True))
            store.append(schema.answers, rows)
            judged = ((key, paths[leaf], "single") for key, leaf in zip(keys, said, strict=True))
            append_labels(store, judged, run.id)
        with meter.step("vectors written"):
            cache = cache_for(encoder_settings(project.encoder), project.cache_root)
            for place in range(0, len(texts), ROWS_AT_ONCE):
                here = slice(place, place + ROWS_AT_ONCE)
                cache.append(keys[here], hashed_vectors(texts[here], dimension))
        with meter.step("signatures kept"):
            kept_signatures(project.root / "signatures", pl.Series("key", keys, pl.Binary), texts)
    return {"steps": meter.steps}


def taken_for_all(folder: Path, items: int) -> dict[str, Any]:
    """What the first night searched, as if so many items had been searched."""
    from tasks.project import load_project
    from tasks.student.search import JUDGE_FILE, SEARCH_FILE, read_search, write_search

    project = load_project(folder / f"{NAME}.yaml")
    for file in (project.root / JUDGE_FILE, project.root / SEARCH_FILE):
        search = read_search(file)
        assert search is not None, "the first night was too small for a search to be kept"
        missing = items - search.learned.height  # rows that nobody knows take their places
        unknown = pl.DataFrame({"key": [f"unknown {place}".encode() for place in range(missing)]})
        learned = pl.concat([search.learned, unknown], how="diagonal")
        write_search(file, replace(search, learned=learned))
    return {}


def night(folder: Path) -> dict[str, Any]:
    """All that a nightly run does, step by step."""
    from tasks.cleaning.steps import clean_snapshot
    from tasks.embedding.steps import embed
    from tasks.labeling.steps import label_with_teacher, take_in_items, write_review_queue
    from tasks.monitoring.steps import nothing_changed, remember_state, write_report
    from tasks.project import load_project
    from tasks.promotion.steps import promote_challenger
    from tasks.store import open_store
    from tasks.store.runs import working
    from tasks.student import steps as student

    project, meter = load_project(folder / f"{NAME}.yaml"), Meter()
    store, step = open_store(project.database_url, project.project), meter.step
    with working(store, project.project, "nightly") as run:
        with step("take in items"):
            taken = take_in_items.fn(project, run.id)
        with step("ask the teacher, settle"):
            labelled = label_with_teacher.fn(project, run.id)
        with step("review queue"):
            write_review_queue.fn(project)
        with step("has anything changed"):
            assert not nothing_changed.fn(project)
        with step("embed"):
            take_in_items.fn(project, run.id)
            embedded = embed.fn(project)
        with step("snapshot"):
            snapshot = student.take_snapshot.fn(project)
        with step("clean"):
            cleaned = clean_snapshot.fn(project, snapshot)
        with step("snapshot, again"):  # as the flow of retrain does, which may be run by itself
            assert not student.already_trained.fn(project, cleaned)
            again = clean_snapshot.fn(project, student.take_snapshot.fn(project))
            assert again.snapshot.fingerprint == cleaned.snapshot.fingerprint
        with step("train and register"):
            retrained = student.train_and_register.fn(project, cleaned, run.id)
        with step("recalibrate"):
            student.adjudicate_audits.fn(project, run.id)
            student.recalibrate_champion.fn(project, run.id)
            student.recalibrate_challenger.fn(project, run.id)
        with step("promote"):
            promoted = promote_challenger.fn(project)
        with step("report"):
            write_report.fn(project)
            remember_state.fn(project)
    overwritten = cleaned.levels[project.taxonomy.levels[-1]]["overwritten"]
    return {
        "steps": meter.steps,
        "new": taken.new,
        "asked": labelled.calls,
        "encoded": embedded.encoded,
        "rows": snapshot.rows,
        "overwritten": overwritten,
        "student": retrained.student,
        "candidates": sorted(retrained.candidates),
        "top1": retrained.metrics["gold.type.top1"],
        "coverage": retrained.policy.certified_coverage,
        "promoted": promoted.promoted,
        "reasons": promoted.reasons,
    }


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (fill, taken_for_all, night)
}


def in_a_process(work: str, folder: Path, *arguments: int) -> dict[str, Any]:
    """What the work found."""
    command = [sys.executable, "-m", "tests.benchmarks.nightly_million", "--work", work, str(folder)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "FLYWHEEL_HOME": str(folder)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ---- a size --------------------------------------------------------------------------------------------------------


def measured(folder: Path, items: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each process found: `fill`, `first` (night) and `nightly`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, items, options.new, options.leaves)
    shape, first = (options.dimension, options.leaves), min(items, options.first or items)
    found: dict[str, dict[str, Any]] = {}
    with running_teacher(Scene(folder, options.new), latency_ms=50) as teacher:
        write_project(folder, teacher.base_url, options.dimension, options.candidates)
        found["fill"] = in_a_process("fill", folder, 0, first, *shape)
        found["first"] = in_a_process("night", folder)
        if first < items:
            found["fill"] = in_a_process("fill", folder, first, items, *shape)
            in_a_process("taken_for_all", folder, items)
        new = pl.read_parquet(folder / "answers.parquet", columns=["text"])
        new.write_parquet(folder / "items" / "new.parquet")
        found["nightly"] = in_a_process("night", folder)
    (folder / "found.json").write_text(json.dumps(found))
    return found


def findings(items: int, new: int, found: dict[str, dict[str, Any]]) -> Findings:
    """One size as a table, the nightly held against its goals."""
    told = Findings(f"{items:,} labelled items, then {new:,} new ones")
    first, nightly = found["first"], found["nightly"]
    for name, step in nightly["steps"].items():
        row: dict[str, Cell] = {"": name}
        for night_name, of in (("first night", first["steps"][name]), ("nightly", step)):
            row |= {f"{night_name}, s": of["seconds"], "cpu s" + " " * len(row): of["cpu"]}
            row["peak GB" + " " * len(row)] = of["peak"]
        told.rows.append(row)
    for name, night_found in (("first night", first), ("nightly", nightly)):
        facts = {key: value for key, value in night_found.items() if key not in ("steps", "reasons")}
        told.notes.append(f"{name}: {json.dumps(facts)}")
    told.notes.append(f"gate: {'; '.join(nightly['reasons'])}")
    steps = nightly["steps"].values()
    told.figures.append(Figure("nightly, minutes", sum(step["seconds"] for step in steps) / 60, "<=", 10.0))
    told.figures.append(Figure("nightly, CPU minutes", sum(step["cpu"] for step in steps) / 60, "<=", 20.0))
    told.figures.append(Figure("nightly, peak GB", max(step["peak"] for step in steps), "<=", 6.0))
    return told


def growth(sizes: dict[int, dict[str, dict[str, Any]]]) -> Findings:
    """CPU seconds of the nightly by step at every size."""
    told = Findings("CPU seconds of a nightly by step, as the project grows")
    steps = next(iter(sizes.values()))["nightly"]["steps"]
    for name in steps:
        of = {f"{items:,}": found["nightly"]["steps"][name]["cpu"] for items, found in sizes.items()}
        told.rows.append({"": name, **of})
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sizes, or one piece of work of theirs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.nightly_million", description=__doc__)
    parser.add_argument("--items", default="10000,100000,1000000", help="labelled items, one size or several")
    parser.add_argument("--first", type=int, default=0, help="items of the first night; by default all")
    parser.add_argument("--new", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--leaves", type=int, default=120)
    parser.add_argument("--candidates", default="", help="of the student; by default the project's own")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        name, folder, *given = options.work
        print(json.dumps(WORK[name](Path(folder), *map(int, given))))
        return 0
    sizes: dict[int, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as own:
        for items in map(int, options.items.split(",")):
            sizes[items] = measured((options.folder or Path(own)) / str(items), items, options)
            for line in findings(items, options.new, sizes[items]).lines():
                print(line, flush=True)
            print(f"   load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    for line in growth(sizes).lines():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
