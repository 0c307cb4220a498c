"""Heads on BANKING77 and HWU64: chosen regularisation against a grid, levels, noise, and what probabilities are worth.

Run as `python -m tests.benchmarks.heads --data DIR [--cache DIR] [--seeds 3]`; half an hour on one thread. Labels are
the human ones of the train split, or the same with 15 % simulated errors (hard items more, towards confusable labels,
half of them systematic). One recipe for all cells, fixed beforehand: linear, MLP and ensemble as a retrain tunes
them, the student by out-of-fold log-loss. The test split only judges: the grid's best is picked on it, which favours
the grid; an eighth of it stands for the part of gold that fits the temperature, calibration is judged on the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from tasks.demo.noise import noisy_passes_from_features
from tasks.duplicates import near_duplicate_groups
from tasks.project import Student as StudentSettings
from tasks.student.calibration import apply_temperature, expected_calibration_error, fit_temperature
from tasks.student.crossfit import fold_of
from tasks.student.heads import Head
from tasks.student.levels import Levels, decode
from tasks.student.linear import STRENGTHS, LinearHead
from tasks.student.mlp import MAX_EPOCHS, MlpHead, epochs_over
from tasks.student.training import Rows, train_candidates
from tests.benchmarks.banking77_student import embedded
from tests.benchmarks.cleaning import interval

CANDIDATES = ("linear", "mlp", "ensemble")
AVERAGED = StudentSettings(candidates=CANDIDATES).averaged
FOLDS, NOISE = 5, 0.15
VARIANTS = ((0.2, 0.05), (0.2, 0.5), (0.5, 0.05), (0.5, 0.5), (0.7, 0.5))
EVERY_EPOCHS = 5
TEMPERATURE_SHARE = 8


@dataclass(frozen=True, eq=False)
class Task:
    """Rows to learn from with what a teacher said, rows to judge by with what it says there, and the tree."""

    X: np.ndarray
    said: np.ndarray
    folds: np.ndarray
    X_test: np.ndarray
    truth: np.ndarray
    teacher: np.ndarray
    levels: Levels


@dataclass
class Measured:
    """Of one cell over the seeds: by name, whether each test row is right, and numbers."""

    correct: dict[str, list[np.ndarray]] = field(default_factory=dict)
    grids: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)

    def right(self, name: str, correct: np.ndarray) -> None:
        """One more seed."""
        self.correct.setdefault(name, []).append(correct)

    def number(self, name: str, value: float) -> None:
        """One more seed."""
        self.numbers.setdefault(name, []).append(value)


def task_of(data: Path, cache: Path | None, name: str, rate: float, seed: int) -> Task:
    """A data set with a teacher that errs as often."""
    table = pl.read_parquet(data / f"{name}.parquet")
    X = embedded(table["text"].to_list(), cache, name)
    upper = table["l1"].to_list() if "l1" in table.columns else None
    paths = [
        label if upper is None else f"{upper[row]} > {label}" for row, label in enumerate(table["label"])
    ]
    names = sorted(set(paths))
    place = {path: index for index, path in enumerate(names)}
    y = np.array([place[path] for path in paths])
    leaves = np.arange(len(names), dtype=np.int32)
    levels = Levels.flat(len(names))
    if upper is not None:
        above = [path.split(" > ")[0] for path in names]
        node = {label: index for index, label in enumerate(sorted(set(above)))}
        l1 = np.array([node[label] for label in above], np.int32)
        levels = Levels(("l1", "label"), (l1, leaves), (len(node), len(names)))
    train = (table["split"] == "train").to_numpy()
    said = y
    if rate:
        answers = noisy_passes_from_features(X, [str(leaf) for leaf in y.tolist()], rate, 1, seed)[0]
        said = np.array([int(answer) for answer in answers])
    learned = table.filter(pl.Series(train))
    groups = learned["id"].to_numpy()[near_duplicate_groups(learned["text"].to_list())]
    folds = fold_of(groups, FOLDS, seed)
    return Task(X[train], said[train], folds, X[~train], y[~train], said[~train], levels)


def blobs(seed: int, rate: float) -> Task:
    """Six labels about centres, two above them: small enough for a test."""
    rng = np.random.default_rng(seed)
    y = np.arange(480) % 6
    X = np.eye(6, 12)[y] + 0.35 * rng.normal(size=(480, 12))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    said = np.where(rng.random(480) < rate, rng.integers(0, 6, 480), y)
    levels = Levels(("l1", "label"), (np.arange(6, dtype=np.int32) % 2, np.arange(6, dtype=np.int32)), (2, 6))
    folds = (np.arange(240) % FOLDS).astype(np.int16)
    return Task(X[:240], said[:240], folds, X[240:], y[240:], said[240:], levels)


def measure(task: Task, seed: int, into: Measured) -> None:
    """Train as a retrain does, and judge."""
    n, n_leaves = len(task.said), task.levels.n_leaves
    rows = Rows(task.X, task.said, task.said, task.folds, np.ones(n, np.float32))
    candidates, winner = train_candidates(CANDIDATES, rows, n_leaves, seed, ensemble_with=AVERAGED)
    into.chosen.append(winner)
    into.right("teacher", task.teacher == task.truth)
    said = {one.name: one.model.predict_proba(task.X_test) for one in candidates}
    for name, P in said.items():
        into.right(name, P.argmax(axis=1) == task.truth)
    into.right("student", said[winner].argmax(axis=1) == task.truth)
    for grid, points in (("linear", linear_grid(task, seed)), ("mlp", mlp_grid(task, seed))):
        for point, correct in points.items():
            into.grids.setdefault(grid, {}).setdefault(point, []).append(correct)
    calibration(said[winner], task, seed, into)
    if len(task.levels.names) > 1:
        upper_level(task, {one.name: one.model for one in candidates}, said, seed, into)


def linear_grid(task: Task, seed: int) -> dict[str, np.ndarray]:
    """Every strength, fitted on all rows."""
    return {
        f"C {strength:g}": fitted(LinearHead(strength), task, seed).predict_proba(task.X_test).argmax(axis=1)
        == task.truth
        for strength in STRENGTHS[1:-1]
    }


def mlp_grid(task: Task, seed: int) -> dict[str, np.ndarray]:
    """Every dropout, decay and number of epochs, fitted on all rows."""
    found = {}
    seen, dense = np.unique(task.said, return_inverse=True)
    for dropout, decay in VARIANTS:
        head = MlpHead(1, dropout, decay)
        head.seen, head.n_leaves = seen, task.levels.n_leaves
        rows = np.arange(len(dense))
        passes = epochs_over(task.X, rows, dense, None, len(seen), dropout, decay, MAX_EPOCHS, seed)
        for epoch, head.weights in enumerate(passes, 1):
            if epoch % EVERY_EPOCHS == 0:
                P = head.predict_proba(task.X_test)
                found[f"dropout {dropout}, decay {decay}, {epoch} epochs"] = P.argmax(axis=1) == task.truth
    return found


def fitted(head: Head, task: Task, seed: int) -> Head:
    """A head of given settings on all rows."""
    return head.fit(task.X, task.said, n_leaves=task.levels.n_leaves, seed=seed)


def calibration(P: np.ndarray, task: Task, seed: int, into: Measured) -> None:
    """The student's calibration error before and after the temperature that gold gives."""
    order = np.random.default_rng(seed).permutation(len(P))
    fits, judges = np.split(order, [len(P) // TEMPERATURE_SHARE])
    after = apply_temperature(P[judges], fit_temperature(P[fits], task.truth[fits]))
    for name, Q in (("ECE before", P[judges]), ("ECE after", after)):
        into.number(name, expected_calibration_error(Q.max(axis=1), Q.argmax(axis=1) == task.truth[judges]))
    stated, rng = after.max(axis=1), np.random.default_rng(seed)
    perfect = [expected_calibration_error(stated, rng.random(len(stated)) < stated) for _ in range(20)]
    into.number("ECE, were it right as often as it says", float(np.mean(perfect)))


def upper_level(
    task: Task, models: dict[str, Head], said: dict[str, np.ndarray], seed: int, into: Measured
) -> None:
    """The upper level of the joint heads beside heads of its own, and how often the answers contradict each other."""
    above = task.levels.maps[0]
    tops = Rows(task.X, above[task.said].astype(np.int64), above[task.said].astype(np.int64), task.folds,
                np.ones(len(task.said), np.float32))  # fmt: skip
    separate, _ = train_candidates(
        ("linear", "ensemble"), tops, task.levels.sizes[0], seed, ensemble_with=AVERAGED
    )
    for one in separate:
        P, name = one.model.predict_proba(task.X_test), one.name
        top = P.argmax(axis=1)
        into.right(f"upper level, {name} of its own", top == above[task.truth])
        answers = decode(said[name], task.levels)
        into.right(f"upper level, {name}, joint", answers.nodes[:, 0] == above[task.truth])
        into.number(f"contradictions, {name}, joint", int((above[answers.leaf] != answers.nodes[:, 0]).sum()))
        leaf = said[name].argmax(axis=1)
        into.number(f"contradictions, {name}, separate heads", float((above[leaf] != top).mean()))


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> str:
    """Means over the seeds, paired 95 % over the items."""
    pairs = [a.astype(float) - b.astype(float) for a, b in zip(ours, theirs, strict=True)]
    return "{:+.2%} [{:+.2%}, {:+.2%}]".format(*interval(pairs))


def mean(values: Sequence[np.ndarray]) -> float:
    """Over seeds and items."""
    return float(np.mean([value.mean() for value in values]))


def table_of(name: str, found: Measured) -> list[str]:
    """The cell as lines of a Markdown table."""
    seeds = len(found.chosen)
    lines = [
        "",
        f"**{name}** (means of {seeds} seeds; in brackets paired 95 % over items)",
        "",
        "| | |",
        "|---|---|",
    ]
    for who, correct in found.correct.items():
        lines.append(f"| {who} | {mean(correct):.2%} |")
    for kind, grid in found.grids.items():
        best = max(grid, key=lambda point: mean(grid[point]))
        against = difference(found.correct[kind], grid[best])
        lines.append(f"| {kind} against its best on a grid ({best}) | {against} (goal -0.5 % or better) |")
    lines.append(f"| student ({', '.join(found.chosen)}) against its teacher "
                 f"| {difference(found.correct['student'], found.correct['teacher'])} |")  # fmt: skip
    for kind in ("linear", "ensemble"):
        joint = f"upper level, {kind}, joint"
        if joint in found.correct:
            own = found.correct[f"upper level, {kind} of its own"]
            lines.append(f"| {joint}, against its own head | {difference(found.correct[joint], own)} |")
    for number, values in found.numbers.items():
        counted = number.endswith("joint")
        lines.append(
            f"| {number} | {sum(values) if counted else np.mean(values):{'.0f' if counted else '.2%'}} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table a cell after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with banking77.parquet and hwu64.parquet")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--sets", default="banking77,hwu64")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few points instead, to see whether it runs")
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("--data is needed without --quick")
    import torch

    torch.set_num_threads(1)
    sets = ["six blobs"] if options.quick else options.sets.split(",")
    cells = {(name, rate): Measured() for name in sets for rate in (0.0, NOISE)}
    for seed in range(1, options.seeds + 1):
        for (name, rate), found in cells.items():
            began = time.process_time()
            if options.quick:
                task = blobs(seed, rate)
            elif (options.data / f"{name}.parquet").exists():
                task = task_of(options.data, options.cache, name, rate, seed)
            else:
                print(f"Skipped: there is no {name}.parquet in {options.data}.")
                continue
            measure(task, seed, found)
            print(
                f"seed {seed}, {name}, {rate:.0%} noise: {time.process_time() - began:.0f} CPU s", flush=True
            )
        if seed == options.seeds or not options.quick:
            tables = (table_of(f"{name}, {rate:.0%} noise", found) for (name, rate), found in cells.items()
                      if found.chosen)  # fmt: skip
            print(*(line for table in tables for line in table), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
