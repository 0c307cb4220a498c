"""What the embedding cache costs: reading against `np.load`, a second run, ten million keys, growth; with memory.

Run as `python -m tests.benchmarks.embedding_cache [SECTION ...] [--rows N] [--keys N] [--folder F]`; all sections take
about three minutes and 5 GB of disk. Each figure comes from a process of its own, so that its peak memory is its
own; ratios are of the fastest of eight runs that took turns within one process, because others may be at work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.benchmarks.labelling.figures import Figure, Findings

DIMENSION = 384
SHARD_ROWS = 4096
TURNS = 8
GIGA = 1e9
ENCODER = "hash:384"  # its name makes the fingerprint; nothing is encoded here
PROJECT = """project: bench
task: {taxonomy: taxonomy.yaml}
source: {items: items.csv, id: id, text: text}
teacher: {model: none}
encoder: {model: "hash:384"}
storage: {root: var}
"""


def cache_in(folder: Path) -> Any:
    """The cache of the benchmark's project."""
    from tasks.embedding.embed import cache_for
    from tasks.embedding.encoders import EncoderSettings

    return cache_for(EncoderSettings(ENCODER), folder / "var")


def random_keys(rows: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, 16]."""
    return np.random.default_rng(seed).integers(0, 256, (rows, 16), dtype=np.uint8)


def as_series(keys: np.ndarray) -> pl.Series:
    """Keys as the database gives them."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(np.ascontiguousarray(keys))]
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), buffers)
    return pl.Series("key", pl.from_arrow(fixed.cast(pa.binary())), pl.Binary)


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds; what the work gives is freed before they are told."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# ---- what the processes do; each prints one JSON object ------------------------------------------------------------


def write(folder: Path, rows: int, dimension: int = DIMENSION) -> dict[str, Any]:
    """Append `rows` vectors in shards, as `embed` does, and compact them; the matrix also as `.npy`."""
    from tasks.embedding.compaction import compact

    rng, cache, keys = np.random.default_rng(1), cache_in(folder), random_keys(rows)
    matrix = rng.standard_normal((rows, dimension), dtype=np.float32)
    names = [keys[first : first + SHARD_ROWS].tobytes() for first in range(0, rows, SHARD_ROWS)]
    shards = [[name[at : at + 16] for at in range(0, len(name), 16)] for name in names]

    def append() -> None:
        for place, shard in enumerate(shards):
            cache.append(shard, matrix[place * SHARD_ROWS : place * SHARD_ROWS + len(shard)])

    seconds = timed(append)
    parts = len(cache.parts())
    compacting = timed(lambda: compact(cache))
    np.save(folder / "matrix.npy", matrix)
    return {"write": seconds, "parts": parts, "compact": compacting, "parts after": len(cache.parts())}


def read(folder: Path, rows: int) -> dict[str, Any]:
    """`np.load` and the cache in turns, as written and shuffled; the look at every key is in it."""
    from tasks.embedding.cache import EmbeddingCache
    from tasks.embedding.folders import LocalFolder

    keys = random_keys(rows)
    order = np.random.default_rng(2).permutation(rows)
    asked = {"as written": as_series(keys), "shuffled": as_series(keys[order])}
    path = Path(str(cache_in(folder).folder))
    seconds: dict[str, list[float]] = {}
    for _ in range(TURNS):
        seconds.setdefault("np.load", []).append(timed(lambda: np.load(folder / "matrix.npy")))
        for name, series in asked.items():
            seconds.setdefault(name, []).append(
                timed(lambda series=series: EmbeddingCache(LocalFolder(path)).read(series))  # type: ignore[misc]
            )
    expected = np.load(folder / "matrix.npy", mmap_mode="r")
    for name, rows_of in (("as written", np.arange(rows)), ("shuffled", order)):
        few = np.random.default_rng(3).choice(rows, min(rows, 1_000), replace=False)
        assert np.array_equal(cache_in(folder).read(asked[name].gather(few)), expected[rows_of[few]])
    fastest = {name: min(values) for name, values in seconds.items()}
    return fastest | {f"{name}, median": statistics.median(values) for name, values in seconds.items()}


def peak(folder: Path, rows: int, how: str) -> dict[str, Any]:
    """Memory while every key is read once, beyond what the process held with the keys and all imports."""
    order = np.random.default_rng(2).permutation(rows)
    keys = random_keys(rows)
    asked = as_series(keys if how == "as written" else keys[order])
    del order, keys
    cache = cache_in(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if how == "stream":
        seen = sum(len(batch) for batch in cache.stream(asked))
    else:
        seen = len(cache.read(asked))
    assert seen == rows
    return {"before": before * 1024}


def prepare_rerun(folder: Path, rows: int) -> dict[str, Any]:
    """A project whose database holds an item for every cached key."""
    from tasks.store import open_store, schema

    (folder / "bench.yaml").write_text(PROJECT)
    (folder / "taxonomy.yaml").write_text("a: \nb: \n")
    (folder / "items.csv").write_text("id,text\n")
    store = open_store(f"sqlite:///{folder / 'var' / 'flywheel.db'}", "bench")
    keys = random_keys(rows)
    store.append(
        schema.items,
        (
            {
                "key": keys[n].tobytes(), "source_id": str(n), "text": f"product number {n} of the catalogue",
                "image": None, "origin": "source", "run_id": 1, "added_at": 0.0,
            }
            for n in range(rows)
        ),
    )  # fmt: skip
    return {}


def rerun(folder: Path, rows: int) -> dict[str, Any]:
    """The whole step `embed` over an unchanged project."""
    from tasks.embedding.steps import embed
    from tasks.project import load_project

    project = load_project(folder / "bench.yaml", folder)
    started = time.perf_counter()
    done = embed.fn(project)
    assert (done.encoded, done.cached) == (0, rows), done
    return {"step": time.perf_counter() - started}


def write_keys(folder: Path, rows: int) -> dict[str, Any]:
    """A cache of many keys; their vectors are short, for only the keys matter here."""
    from tasks.embedding.compaction import compact

    cache, keys = cache_in(folder / "keys"), random_keys(rows)
    shard = 65_536
    for first in range(0, rows, shard):
        name = keys[first : first + shard].tobytes()
        some = [name[at : at + 16] for at in range(0, len(name), 16)]
        cache.append(some, np.zeros((len(some), 1), np.float32))
    compact(cache)
    return {}


def antijoin(folder: Path, rows: int) -> dict[str, Any]:
    """All known keys and some new ones, shuffled, against the cache of a process that knows nothing yet."""
    new = rows // 100
    keys = np.concatenate([random_keys(rows), random_keys(new, seed=9)])
    frame = as_series(keys[np.random.default_rng(4).permutation(len(keys))]).to_frame()
    del keys
    started = time.perf_counter()
    assert cache_in(folder / "keys").missing(frame).height == new
    return {"anti-join": time.perf_counter() - started}


def grown(folder: Path, rows: int) -> dict[str, Any]:
    """Write, anti-join and read of so many vectors: the fastest of three."""
    from tasks.embedding.cache import EmbeddingCache
    from tasks.embedding.folders import LocalFolder

    asked, path = as_series(random_keys(rows)), Path(str(cache_in(folder).folder))
    frame = asked.to_frame()
    written = min(_rewritten(folder, rows, path) for _ in range(3))
    joined = min(timed(lambda: EmbeddingCache(LocalFolder(path)).missing(frame)) for _ in range(3))
    read_in = min(timed(lambda: EmbeddingCache(LocalFolder(path)).read(asked)) for _ in range(3))
    return {"write": written, "anti-join": joined, "read": read_in}


def _rewritten(folder: Path, rows: int, path: Path) -> float:
    shutil.rmtree(path, ignore_errors=True)
    return float(write(folder, rows)["write"])


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (write, read, peak, prepare_rerun, rerun, write_keys, antijoin, grown)
}


# ---- the sections --------------------------------------------------------------------------------------------------


def in_a_process(work: str, folder: Path, *arguments: object) -> dict[str, Any]:
    """What the work found, with its process's wall seconds and peak memory in bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.embedding_cache", "--work", work, str(folder)]
    started = time.perf_counter()
    done = subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) | {"wall": time.perf_counter() - started}


def reading(folder: Path, rows: int, _: int) -> Findings:
    """One matrix out of the cache against `np.load` of the same one."""
    found, size = Findings(f"reading {rows:,} x {DIMENSION} float32"), rows * DIMENSION * 4
    written = in_a_process("write", folder, rows)
    found.notes.append(
        f"written in {written['write']:.1f} s as {written['parts']} parts, merged into {written['parts after']} in "
        f"{written['compact']:.1f} s"
    )
    seconds = in_a_process("read", folder, rows)
    base = seconds["np.load"]
    found.rows.append({"": "np.load", "seconds": base, "median": seconds["np.load, median"]})
    for name in ("as written", "shuffled"):
        memory = in_a_process("peak", folder, rows, name)
        share = memory["peak"] / size
        speed = base / seconds[name]
        median = seconds[f"{name}, median"]
        found.rows.append(
            {"": name, "seconds": seconds[name], "median": median, "speed": speed, "peak / matrix": share}
        )
        found.figures.append(Figure(f"{name}: of np.load's speed", speed, ">=", 0.55))
        found.figures.append(Figure(f"{name}: peak memory of the process over the matrix", share, "<=", 1.3))
    memory = in_a_process("peak", folder, rows, "stream")
    beyond = (memory["peak"] - memory["before"]) / size
    found.rows.append({"": "stream", "seconds": memory["wall"], "peak / matrix": memory["peak"] / size})
    found.notes.append(f"a stream adds {beyond:.1%} of the matrix to what the process held before")
    return found


def second_run(folder: Path, rows: int, _: int) -> Findings:
    """The step `embed` where nothing is new."""
    found = Findings(f"a second run over {rows:,} unchanged items")
    if not cache_in(folder).parts():
        in_a_process("write", folder, rows)
    in_a_process("prepare_rerun", folder, rows)
    runs = [in_a_process("rerun", folder, rows) for _ in range(3)]
    found.rows += [
        {"": f"run {n}", "step, s": run["step"], "process, s": run["wall"], "peak GB": run["peak"] / GIGA}
        for n, run in enumerate(runs, 1)
    ]
    found.figures.append(
        Figure("seconds of the step", statistics.median(run["step"] for run in runs), "<=", 5)
    )
    found.figures.append(Figure("peak GB", max(run["peak"] for run in runs) / GIGA, "<=", 1))
    return found


def keys(folder: Path, _: int, many: int) -> Findings:
    """Anti-join of many keys."""
    found = Findings(f"{many:,} keys to anti-join")
    in_a_process("write_keys", folder, many)
    run = in_a_process("antijoin", folder, many)
    found.rows.append({"": "anti-join", "seconds": run["anti-join"], "peak GB": run["peak"] / GIGA})
    found.figures.append(Figure("peak GB", run["peak"] / GIGA, "<=", 4))
    return found


def growth(folder: Path, rows: int, _: int) -> Findings:
    """Seconds as a power of the number of vectors."""
    found = Findings("growth")
    sizes = [rows // 100, rows // 10, rows]
    measured = [in_a_process("grown", folder / f"grown-{size}", size) for size in sizes]
    for size, seconds in zip(sizes, measured, strict=True):
        found.rows.append(
            {"vectors": size} | {name: seconds[name] for name in ("write", "anti-join", "read")}
        )
        shutil.rmtree(folder / f"grown-{size}")
    for name in ("write", "anti-join", "read"):
        exponent = np.polyfit(np.log(sizes), np.log([seconds[name] for seconds in measured]), 1)[0]
        found.figures.append(Figure(f"exponent of {name}", float(exponent), "<=", 1.1))
    return found


SECTIONS: dict[str, Callable[[Path, int, int], Findings]] = {
    section.__name__: section for section in (reading, second_run, keys, growth)
}


@contextmanager
def _room(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as own:
        yield Path(own)


def main() -> None:
    """Run the sections, or one piece of work of theirs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.embedding_cache", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, folder, *arguments = options.work
        Path(folder).mkdir(parents=True, exist_ok=True)
        found = WORK[name](Path(folder), *(int(a) if a.isdigit() else a for a in arguments))
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(found))
        return
    with _room(options.folder) as folder:
        for section in options.sections or SECTIONS:
            for line in SECTIONS[section](folder, options.rows, options.keys).lines():
                print(line, flush=True)
            print(f"   load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)


if __name__ == "__main__":
    main()
