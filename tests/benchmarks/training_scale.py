"""What training heads takes where rows are many: seconds and memory by step, and an epoch beside its bare products.

Run as `python -m tests.benchmarks.training_scale [SECTION ...] [--rows N] [--dimension N] [--leaves N]`; by default
743,000 made-up vectors of 768 dimensions with 280 leaves, half an hour on two cores and 3 GB of disk. Vectors lie in
the embedding cache and come out of it as a retrain reads them; each head is tuned (out-of-fold probabilities of every
row, regularisation, temperature) and fitted by the code that a retrain runs, in a process of its own, so that its peak
memory is its own. Beside it scikit-learn's LogisticRegression on a share of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.embedding_cache import as_series, cache_in, random_keys, timed
from tests.benchmarks.labelling.figures import Figure, Findings

GIGA = 1e9
SHARD_ROWS = 16_384
TEST_ROWS = 20_000
WRONG = 0.05
FOLDS = 5
EPOCH_ROWS, EPOCH_DIMENSION, EPOCH_LEAVES = 200_000, 384, 150
TURNS = 5


def peak() -> float:
    """The most memory that this process has held so far, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGA


def made_up(rows: int, dimension: int, leaves: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors about a centre a leaf, leaves of one department near each other, and the leaves.

    As of real encoders the directions differ in variance: it falls as the inverse of their rank.
    """
    spectrum = (1 / np.sqrt(np.arange(1, dimension + 1))).astype(np.float32)
    centres = np.random.default_rng(1)
    department = centres.standard_normal((max(1, leaves // 12), dimension), dtype=np.float32)
    centre = centres.standard_normal((leaves, dimension), dtype=np.float32)
    centre += department[np.arange(leaves) % len(department)]
    rng = np.random.default_rng((seed, 2))
    y = rng.integers(0, leaves, rows)
    X = 0.45 * centre[y] + rng.standard_normal((rows, dimension), dtype=np.float32)
    X *= spectrum
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X, y


def labels_of(y: np.ndarray, leaves: int) -> np.ndarray:
    """What a teacher said: one in twenty wrong."""
    rng = np.random.default_rng(3)
    return np.where(rng.random(len(y)) < WRONG, rng.integers(0, leaves, len(y)), y)


# ---- what the processes do; each prints one JSON object ------------------------------------------------------------


def fill_cache(folder: Path, rows: int, dimension: int, leaves: int) -> dict[str, Any]:
    """Vectors in the cache as `embed` leaves them, and their leaves beside it."""
    cache, names, found = cache_in(folder), random_keys(rows), []
    for place, first in enumerate(range(0, rows, SHARD_ROWS)):
        some = [key.tobytes() for key in names[first : first + SHARD_ROWS]]
        X, y = made_up(len(some), dimension, leaves, place)
        cache.append(some, X)
        found.append(y)
    np.save(folder / "leaves.npy", np.concatenate(found))
    return {"peak": peak()}


def train(folder: Path, kind: str, rows: int, dimension: int, leaves: int, epochs: int) -> dict[str, Any]:
    """One head from the cache to a fitted model, and what it is worth on rows of its own."""
    from tasks.student.heads import Head, make_head
    from tasks.student.mlp import MlpHead

    keys = as_series(random_keys(rows))
    y = labels_of(np.load(folder / "leaves.npy"), leaves)
    folds = (np.random.default_rng(4).permutation(rows) % FOLDS).astype(np.int16)
    weight = np.ones(rows, np.float32)
    head: Head = MlpHead(epochs) if kind == "mlp" and epochs else make_head(kind)
    steps: dict[str, Any] = {"before": {"seconds": 0.0, "cpu": 0.0, "peak": peak()}}

    def step(name: str, work: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        cpu = time.process_time()
        seconds = timed(lambda: kept.append(work()))
        steps[name] = {"seconds": seconds, "cpu": time.process_time() - cpu, "peak": peak()}
        return kept[0]

    X = step("read from the cache", lambda: cache_in(folder).read(keys))
    P = step("tune", lambda: head.tune(X, y, folds, weight, n_leaves=leaves, seed=0))
    correct = sum(
        int((P[at : at + 9999].argmax(1) == y[at : at + 9999]).sum()) for at in range(0, rows, 9999)
    )
    step("fit", lambda: head.fit(X, y, weight, n_leaves=leaves, seed=0))
    X_test, y_test = made_up(TEST_ROWS, dimension, leaves, 10**6)
    right = (head.predict_proba(X_test).argmax(axis=1) == y_test).mean()
    return {
        "steps": steps,
        "settings": head.settings(),
        "out of fold": correct / rows,
        "test": float(right),
    }


def beside(folder: Path, rows: int, dimension: int, leaves: int, strength: float) -> dict[str, Any]:
    """One fit of ours and one of scikit-learn's on the same rows with the same regularisation."""
    import warnings

    from sklearn.linear_model import LogisticRegression

    from tasks.student.linear import LinearHead

    y = labels_of(np.load(folder / "leaves.npy"), leaves)[:rows]
    X = cache_in(folder).read(as_series(random_keys(len(np.load(folder / "leaves.npy")))).head(rows))
    X_test, y_test = made_up(TEST_ROWS, dimension, leaves, 10**6)
    found: dict[str, Any] = {}
    ours, theirs = LinearHead(strength), LogisticRegression(C=strength, max_iter=300)
    for name, work in (
        ("ours", lambda: ours.fit(X, y, n_leaves=leaves, seed=0)),
        ("scikit-learn", lambda: theirs.fit(X, y)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cpu = time.process_time()
            found[name] = {"seconds": timed(work), "cpu": time.process_time() - cpu, "peak": peak()}
    found["ours"]["test"] = float((ours.predict_proba(X_test).argmax(axis=1) == y_test).mean())
    found["scikit-learn"]["test"] = float((theirs.predict(X_test) == y_test).mean())
    return found


def epoch(folder: Path, rows: int, threads: int) -> dict[str, Any]:
    """Epochs of the MLP and the same products alone, in turns; their ratio is of the medians."""
    import torch

    from tasks.student.mlp import WIDTH, epochs_over

    torch.set_num_threads(threads)
    X, y = made_up(rows, EPOCH_DIMENSION, EPOCH_LEAVES, 0)
    passes = epochs_over(X, np.arange(rows), y, None, EPOCH_LEAVES, 0.2, 0.05, TURNS + 1, 0)
    batch = min(1024, max(16, rows // 16))
    x, hidden, out = (torch.randn(batch, size) for size in (EPOCH_DIMENSION, WIDTH, EPOCH_LEAVES))
    to_hidden, to_out = torch.randn(EPOCH_DIMENSION, WIDTH), torch.randn(WIDTH, EPOCH_LEAVES)

    def products() -> None:
        for _ in range(rows // batch):
            x @ to_hidden, hidden @ to_out  # forward
            hidden.T @ out, out @ to_out.T, x.T @ hidden  # backward

    next(passes)
    products()
    both = [(timed(lambda: next(passes)), timed(products)) for _ in range(TURNS)]
    return {
        "epoch": statistics.median(ours for ours, _ in both),
        "products": statistics.median(floor for _, floor in both),
        "ratio": statistics.median(ours / floor for ours, floor in both),
    }


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    work.__name__: work for work in (fill_cache, train, beside, epoch)
}


def in_a_process(work: str, folder: Path, *arguments: object) -> dict[str, Any]:
    """What the work found."""
    command = [sys.executable, "-m", "tests.benchmarks.training_scale", "--work", work, str(folder)]
    done = subprocess.run([*command, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


# ---- the sections --------------------------------------------------------------------------------------------------


def heads(folder: Path, options: argparse.Namespace) -> Findings:
    """Both heads on all rows."""
    rows, dimension, leaves = options.rows, options.dimension, options.leaves
    if not (folder / "leaves.npy").exists():
        in_a_process("fill_cache", folder, rows, dimension, leaves)
    found = Findings(f"{rows:,} rows x {dimension} dimensions x {leaves} leaves, from the cache")
    for kind in options.heads.split(","):
        run = in_a_process("train", folder, kind, rows, dimension, leaves, options.epochs)
        for name, step in run["steps"].items():
            found.rows.append(
                {
                    "": f"{kind}, {name}",
                    "s": step["seconds"],
                    "cpu s": step["cpu"],
                    "peak so far, GB": step["peak"],
                }
            )
        chosen = ", ".join(f"{name} {value:.3g}" for name, value in run["settings"].items() if name != "kind")
        found.notes.append(
            f"{kind}: {run['out of fold']:.1%} of the labels out of fold, {run['test']:.1%} of the truth on "
            f"{TEST_ROWS:,} rows of their own; {chosen}"
        )
        most = max(step["peak"] for step in run["steps"].values())
        found.figures.append(Figure(f"peak GB, {kind}", most, "<=", 12))
    return found


def scikit_learn(folder: Path, options: argparse.Namespace) -> Findings:
    """One fit on a share of the rows."""
    rows = min(options.beside, options.rows)
    if not (folder / "leaves.npy").exists():
        in_a_process("fill_cache", folder, options.rows, options.dimension, options.leaves)
    run = in_a_process("beside", folder, rows, options.dimension, options.leaves, 3.0)
    found = Findings(f"one fit on {rows:,} of the rows, C = 3")
    for name, of in run.items():
        found.rows.append({"": name, "s": of["seconds"], "cpu s": of["cpu"], "test": of["test"]})
    return found


def mlp_epoch(folder: Path, options: argparse.Namespace) -> Findings:
    """An epoch over its products."""
    rows = min(EPOCH_ROWS, options.rows)
    found = Findings(f"an epoch of the MLP, {rows:,} x {EPOCH_DIMENSION} from memory, {EPOCH_LEAVES} leaves")
    for threads in (1, 2):
        run = in_a_process("epoch", folder, rows, threads)
        found.rows.append({"": f"threads {threads}", "epoch s": run["epoch"], "products s": run["products"]})
        found.figures.append(Figure(f"epoch over products, threads {threads}", run["ratio"], "<=", 1.5))
    return found


SECTIONS: dict[str, Callable[[Path, argparse.Namespace], Findings]] = {
    section.__name__: section for section in (heads, scikit_learn, mlp_epoch)
}


def main(arguments: list[str] | None = None) -> int:
    """Run the sections, or one piece of work of theirs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_scale", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rows", type=int, default=743_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--leaves", type=int, default=280)
    parser.add_argument("--beside", type=int, default=50_000, help="rows for scikit-learn")
    parser.add_argument("--heads", default="linear,mlp")
    parser.add_argument("--epochs", type=int, default=0, help="of the MLP; by default they are chosen")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        name, folder, *given = options.work
        print(json.dumps(WORK[name](Path(folder), *(_number(value) for value in given))))
        return 0
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as own:
        folder = options.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        for section in options.sections or SECTIONS:
            for line in SECTIONS[section](folder, options).lines():
                print(line, flush=True)
            print(f"   load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    return 0


def _number(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main())
