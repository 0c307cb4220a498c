"""Cleaning on BANKING77: label error before and after, and what a student of the labels is worth, beside cleanlab.

Run as `python -m tests.benchmarks.cleaning --data DIR [--cache DIR] [--seeds 3]`; half an hour on one thread.
Labels are the human ones of the train split with simulated errors (0, 5, 15 %: hard items more, towards confusable
labels, half of them systematic), and a real LLM's recorded answers. One recipe for all cells, fixed beforehand: a
linear head judges and a linear head learns, with the regularisation that was chosen out of fold on the labels as they
came (which favours these, if any); 300 rows of the train split are gold that nobody trains on, by which the teacher's
errors are counted. Test and dev only evaluate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cleaning.cleaned_rows import cleaned_frame, to_ask_again, with_second_answers
from tasks.cleaning.confident_learning import label_issues
from tasks.cleaning.evidence import neighbours_outside
from tasks.cleaning.noise import Counted
from tasks.cleaning.relabel import Cleaning, clean
from tasks.cleaning.resubstitution import overwrite_above
from tasks.cleaning.treatment import treat
from tasks.demo.noise import noisy_passes_from_features
from tasks.duplicates import near_duplicate_groups
from tasks.student.crossfit import fold_of
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead
from tasks.student.shared_rows import shared
from tasks.student.training import Rows
from tests.benchmarks.banking77_student import embedded

FOLDS, GOLD, CONFIDENCE, ASKED_AGAIN, CAP = 5, 300, 0.85, 0.1, 0.3
RATES = (0.0, 0.05, 0.15)
RAW, OURS, COUNTED = "labels as they came", "relabel", "relabel, noise counted on 300 gold"
THEIRS, PRUNED = "cleanlab, relabel", "cleanlab, prune"


@dataclass(frozen=True, eq=False)
class Task:
    """Labelled rows: vectors, what the teacher said in two passes, the truth, and folds; and rows that evaluate."""

    X: np.ndarray
    said: np.ndarray
    again: np.ndarray
    truth: np.ndarray
    folds: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    n_labels: int

    def rows(self, kept: np.ndarray) -> Task:
        """The labelled rows that are kept."""
        return Task(
            self.X[kept],
            self.said[kept],
            self.again[kept],
            self.truth[kept],
            self.folds[kept],
            self.X_test,
            self.y_test,
            self.n_labels,
        )


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to clean: what is learned (-1: nothing), with which share of the weight, and of what is left another."""

    labels: np.ndarray
    share: np.ndarray
    rest: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Variant:
        """Labels learned whole, -1 not at all."""
        share = (labels >= 0).astype(np.float32)
        return cls(labels, share, np.full(len(labels), -1, np.int64))


@dataclass
class Measured:
    """Of one variant over the seeds: labels wrong by row, what changed, whether that was right, and test answers."""

    wrong: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    correct: list[np.ndarray] = field(default_factory=list)


def variants_of(
    task: Task, gold: list[Counted], seed: int
) -> tuple[dict[str, Variant], float, dict[str, float]]:
    """What each way of cleaning makes of the labels; the judge's regularisation; what was estimated."""
    y, k = task.said, task.n_labels
    levels, nobody = Levels.flat(k), np.zeros(len(y), bool)
    head = LinearHead()
    P = head.tune(task.X, y, task.folds, n_leaves=k, seed=seed)
    neighbours = neighbours_outside(task.X, y, task.folds)
    V, twins = neighbours.votes(y, k), neighbours.twins(~nobody)
    seen = head.fit(task.X, y, n_leaves=k, seed=seed).predict_proba(task.X)
    by_evidence = clean(y, P, V, levels, max_loss=CAP, twins=twins)
    by_count = clean(y, P, V, levels, max_loss=CAP, gold=gold)
    issues = label_issues(y, P)
    first = overwrite_above(y, seen, P, levels, nobody, CONFIDENCE, 1.0)
    found = {
        RAW: Variant.of(y),
        OURS: Variant.of(by_evidence.labels),
        COUNTED: Variant.of(by_count.labels),
        "the same, drop": _treated(y, by_count, "drop"),
        "the same, reweight": _treated(y, by_count, "reweight"),
        "re-ask a tenth, two of three": Variant.of(_asked_again(task, by_count)),
        THEIRS: Variant.of(np.where(issues, P.argmax(axis=1), y)),
        PRUNED: Variant.of(np.where(issues, -1, y)),
        "first recipe (resubstitution, 0.85)": Variant.of(first.labels),
    }
    estimates = {
        "out of fold": by_evidence.noise_estimate,
        "margin": by_evidence.margin,
        "counted": by_count.noise_estimate,
        "margin counted": by_count.margin,
    }
    return found, float(head.strength or 1.0), estimates


def _treated(y: np.ndarray, cleaning: Cleaning, mode: str) -> Variant:
    treated = treat(y, cleaning, np.zeros(len(y), bool), "drop" if mode == "drop" else "reweight")
    return Variant(np.where(treated.share > 0, y, -1), treated.share, treated.rest)


def _asked_again(task: Task, cleaning: Cleaning) -> np.ndarray:
    n, names = len(task.said), tuple(str(label) for label in range(task.n_labels))
    keys = pl.Series([row.to_bytes(4, "big") for row in range(n)], dtype=pl.Binary)
    nobody = np.zeros(n, bool)
    frame = cleaned_frame(keys, cleaning, treat(task.said, cleaning, nobody, "re-ask"), nobody, names)
    asked = to_ask_again(frame, ASKED_AGAIN)
    answers = pl.DataFrame(
        {"key": keys, "label": [names[leaf] if leaf >= 0 else None for leaf in task.again.tolist()]}
    )
    done, _ = with_second_answers(frame, answers.join(asked, on="key", how="semi"), names, CAP)
    return np.array([int(label) for label in done["label"]], np.int64)


def student_of(task: Task, variant: Variant, strength: float, seed: int) -> np.ndarray:
    """bool [test rows], what the student of these labels gets right."""
    whole = np.ones(len(task.said), np.float32)
    rows = Rows(task.X, np.maximum(variant.labels, 0), task.said, task.folds, whole)
    rows = shared(rows, variant.share, variant.rest)
    kept = rows.labels >= 0
    head = LinearHead(strength)
    head.fit(rows.vectors[kept], rows.labels[kept], rows.weight[kept], n_leaves=task.n_labels, seed=seed)
    return head.predict_proba(task.X_test).argmax(axis=1) == task.y_test


def measure(task: Task, seed: int, into: dict[str, Measured]) -> dict[str, float]:
    """Clean and learn in every way, and count."""
    rng = np.random.default_rng(seed)
    gold = np.zeros(len(task.said), bool)
    gold[rng.permutation(len(task.said))[: min(GOLD, len(task.said) // 4)]] = True
    counted = [Counted(int((task.said != task.truth)[gold].sum()), int(gold.sum()))]
    task = task.rows(~gold & (task.said >= 0))
    variants, strength, estimates = variants_of(task, counted, seed)
    known: dict[bytes, np.ndarray] = {}
    for name, variant in variants.items():
        same = variant.labels.tobytes() + variant.share.tobytes() + variant.rest.tobytes()
        if same not in known:
            known[same] = student_of(task, variant, strength, seed)
        measured = into.setdefault(name, Measured())
        kept = variant.labels >= 0
        moved = variant.labels != task.said
        right = np.where(kept, variant.labels == task.truth, task.said != task.truth)
        measured.wrong.append(kept & (variant.labels != task.truth))
        measured.kept.append(kept)
        measured.changed.append(int(moved.sum()))
        measured.right.append(int((right & moved).sum()))
        measured.correct.append(known[same])
    return estimates


def banking77(data: Path, cache: Path | None, rate: float, seed: int) -> Task:
    """The train split with simulated errors, the test split as it is."""
    table = pl.read_parquet(data / "banking77.parquet")
    X = embedded(table["text"].to_list(), cache, "banking77")
    names = sorted(table["label"].unique())
    place = {name: index for index, name in enumerate(names)}
    y = np.array([place[label] for label in table["label"]])
    train = (table["split"] == "train").to_numpy()
    first, second = noisy_passes_from_features(X[train], [names[leaf] for leaf in y[train]], rate, 2, seed)
    said, again = (np.array([place[label] for label in labels]) for labels in (first, second))
    folds = _folds(table.filter(pl.Series(train)), seed)
    return Task(X[train], said, again, y[train], folds, X[~train], y[~train], len(names))


def recorded(data: Path, cache: Path | None, seed: int) -> Task:
    """A real LLM's first answers; its second ones are there to be asked for."""
    table = pl.read_parquet(data / "banking77_llm_answers.parquet")
    X = embedded(table["text"].to_list(), cache, "banking77_llm_answers")
    leaf = {label: index for index, label in enumerate(sorted(table["label"].unique()))}
    said, again = (np.array([leaf.get(label, -1) for label in table[f"answer_{name}"]]) for name in "ab")
    human = np.array([leaf[label] for label in table["label"]])
    dev = (table["split"] == "dev").to_numpy()
    folds = _folds(table.filter(pl.Series(~dev)), seed)
    return Task(X[~dev], said[~dev], again[~dev], human[~dev], folds, X[dev], human[dev], len(leaf))


def blobs(seed: int) -> Task:
    """Two hundred points around six centres, for a look at whether the benchmark runs."""
    rng = np.random.default_rng(seed)
    true = np.arange(360) % 6
    X = np.eye(6, 12)[true] + 0.35 * rng.normal(size=(360, 12))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    first, second = noisy_passes_from_features(X[:240], [str(leaf) for leaf in true[:240]], 0.15, 2, seed)
    said, again = (np.array([int(label) for label in labels]) for labels in (first, second))
    folds = (np.arange(240) % FOLDS).astype(np.int16)
    return Task(X[:240], said, again, true[:240], folds, X[240:], true[240:], 6)


def _folds(table: pl.DataFrame, seed: int) -> np.ndarray:
    return fold_of(table["id"].to_numpy()[near_duplicate_groups(table["text"].to_list())], FOLDS, seed)


def interval(
    differences: Sequence[np.ndarray], same_items: bool = True, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean over seeds and items of a paired difference, with a 95 % bootstrap interval over the items.

    Where the seeds have different items (other rows are gold), each seed is drawn by itself.
    """
    rng = np.random.default_rng(0)
    together = [np.mean(differences, axis=0)] if same_items else list(differences)
    means = np.zeros(draws)
    for one in together:
        cells, counts = np.unique(one, return_counts=True)
        means += rng.multinomial(len(one), counts / len(one), draws) @ cells / len(one) / len(together)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([one.mean() for one in together])), float(low), float(high)


def table_of(name: str, found: dict[str, Measured]) -> list[str]:
    """The cell as lines of a Markdown table."""
    lines = [
        "",
        f"**{name}** (means of {len(found[RAW].correct)} seeds; in brackets paired 95 % over items)",
        "",
        "| | labels changed | fix precision | labels wrong | student | against labels as they came |",
        "|---|---|---|---|---|---|",
    ]
    for variant, one in found.items():
        changed = np.mean([count / len(kept) for count, kept in zip(one.changed, one.kept, strict=True)])
        precision = f"{sum(one.right) / sum(one.changed):.2f}" if sum(one.changed) else "–"
        wrong = np.mean([rows.sum() / kept.sum() for rows, kept in zip(one.wrong, one.kept, strict=True)])
        right = np.mean([rows.mean() for rows in one.correct])
        gain = _difference(one.correct, found[RAW].correct) if variant != RAW else "–"
        lines.append(f"| {variant} | {changed:.1%} | {precision} | {wrong:.1%} | {right:.1%} | {gain} |")
    for ours in (OURS, COUNTED):
        for theirs in (THEIRS, PRUNED):
            fewer = _difference(found[ours].wrong, found[theirs].wrong, False) if theirs == THEIRS else "n/a"
            better = _difference(found[ours].correct, found[theirs].correct)
            lines.append(f"\n{ours} against {theirs}: labels wrong {fewer}; student {better}")
    return lines


def _difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], same_items: bool = True) -> str:
    pairs = [a.astype(float) - b.astype(float) for a, b in zip(ours, theirs, strict=True)]
    return "{:+.1%} [{:+.1%}, {:+.1%}]".format(*interval(pairs, same_items))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the two BANKING77 parquet files")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few points instead, to see whether it runs")
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("--data is needed without --quick")
    import torch

    torch.set_num_threads(1)
    names = (
        ["six blobs, 15 %"]
        if options.quick
        else [f"simulated, {rate:.0%}" for rate in RATES] + ["recorded answers"]
    )
    cells: dict[str, dict[str, Measured]] = {name: {} for name in names}
    for seed in range(1, options.seeds + 1):
        for name in names:
            began = time.monotonic()
            if options.quick:
                task = blobs(seed)
            elif name == "recorded answers":
                task = recorded(options.data, options.cache, seed)
            else:
                task = banking77(options.data, options.cache, RATES[names.index(name)], seed)
            estimates = measure(task, seed, cells[name])
            said = {key: round(value, 3) for key, value in estimates.items()}
            print(f"seed {seed}, {name}: {json.dumps(said)}, {time.monotonic() - began:.0f} s", flush=True)
        print(*[line for name in names for line in table_of(name, cells[name])], sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
