"""The promise in its two-stage form: kept over 200 draws, what it covers, and how many labels it takes.

Run as `python -m tests.benchmarks.adjudication --data DIR [--cache DIR] [--draws 200]`; some minutes on one thread.
On BANKING77 and HWU64 (two levels) a simulated teacher errs in 15 % of its labels (hard items more, towards confusable
labels, half of them systematic). A linear student learns from them on the train split, its threshold path is laid out
of fold; calibration samples are drawn with replacement from the other rows, whose human labels give the true error of
every threshold. One-stage: all rows are adjudicated. Two-stage: disagreements, and agreements by a coin. As many:
one-stage with as many labels as two stages took. Teacher's: agreement with the teacher. One recipe for all cells; the
share of agreements that is checked was fixed on banking77 and hwu64 themselves (notebooks/LOG.md), nothing else was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import binom

from tasks.demo.noise import noisy_passes_from_features
from tasks.duplicates import near_duplicate_groups
from tasks.student.adjudication import Adjudication, Terms, share_to_check
from tasks.student.crossfit import fold_of
from tasks.student.linear import LinearHead
from tasks.student.package import Answers, decode_answers, levels_of
from tasks.student.thresholds import ThresholdPath, accepts, certify, fix_path
from tasks.student.weighted_bounds import TwoStage
from tasks.taxonomy import Taxonomy
from tests.benchmarks.banking77_student import embedded

NOISE, FOLDS, ROUND = 0.15, 5, 0.05
TARGETS, SIZES, CONFIDENCES = (0.02, 0.05, 0.10), (500, 1000, 2000), (0.90, 0.95)
SPENT_DRAWS = 6
"""Labels are counted on so many draws of a cell, by asking in rounds of `ROUND` of the sample."""


@dataclass(frozen=True, eq=False)
class Population:
    """A student's answers to all rows that are drawn from, the truth and the teacher about them, and its path."""

    name: str
    path: ThresholdPath
    answers: Answers
    truth: list[str]
    teacher: list[str]

    @property
    def wrong(self) -> np.ndarray:
        return np.array([a != b for a, b in zip(self.answers.labels, self.truth, strict=True)])

    @property
    def differs(self) -> np.ndarray:
        return np.array([a != b for a, b in zip(self.answers.labels, self.teacher, strict=True)])

    def drawn(self, rows: np.ndarray, coin: np.ndarray, share: float, decided: np.ndarray) -> Adjudication:
        """A sample of it, judged as far as `decided` says."""
        answers = self.answers.take(rows)
        known = [self.truth[row] if judged else None for row, judged in zip(rows, decided, strict=True)]
        keys = [int(row).to_bytes(8, "big") for row in rows]
        return Adjudication(keys, answers, [self.teacher[row] for row in rows], known, coin, share)


def population(name: str, data: Path, cache: Path | None, seed: int) -> Population:
    """The linear student of noisy labels, and all rows that it never saw."""
    table = pl.read_parquet(data / f"{name}.parquet")
    X = embedded(table["text"].to_list(), cache, name)
    levels = ("l1", "label") if "l1" in table.columns else ("label",)
    paths = [" > ".join(row) for row in table.select(levels).iter_rows()]
    taxonomy = Taxonomy(levels, tuple(sorted(set(paths))), {})
    [said] = noisy_passes_from_features(X, paths, NOISE, 1, seed)
    train = (table["split"] == "train").to_numpy()
    y = np.array([taxonomy.leaf_index[label] for label in said])[train]
    frame = table.filter(pl.Series(train))
    folds = fold_of(frame["id"].to_numpy()[near_duplicate_groups(frame["text"].to_list())], FOLDS, seed)
    head = LinearHead()
    out_of_fold = head.tune(X[train], y, folds, n_leaves=len(taxonomy.leaves), seed=seed)
    head.fit(X[train], y, n_leaves=len(taxonomy.leaves), seed=seed)
    decoded = levels_of(taxonomy)
    path = fix_path(decode_answers(out_of_fold, taxonomy, decoded).confidences)
    answers = decode_answers(head.predict_proba(X[~train]), taxonomy, decoded)
    rest = np.flatnonzero(~train)
    return Population(name, path, answers, [paths[row] for row in rest], [said[row] for row in rest])


def oracle(people: Population, target: float) -> float:
    """The most that any one threshold on the deepest confidence covers at a true error of the target or less."""
    order = np.argsort(-people.answers.confidence, kind="stable")
    rates = np.cumsum(people.wrong[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(rates <= target)
    return float((kept[-1] + 1) / len(order)) if len(kept) else 0.0


def labels_spent(
    people: Population, rows: np.ndarray, coin: np.ndarray, share: float, target: float, confidence: float
) -> int:
    """How many rows are judged until nothing waits, a few at a time, the surest first."""
    terms = Terms(people.path, people.answers.confidences.shape[1], None, target, confidence)
    decided = np.zeros(len(rows), bool)
    step = max(1, int(ROUND * len(rows)))
    while len(due := people.drawn(rows, coin, share, decided).waiting(terms)):
        decided[due[:step]] = True
    return int(decided.sum())


@dataclass
class Cell:
    """Promises missed and mean coverage by form; of two stages the share of agreements checked, and the labels."""

    share: float
    missed: np.ndarray
    covered: np.ndarray
    spent: list[int]


def measure(
    people: Population,
    size: int,
    target: float,
    confidence: float,
    draws: int,
    seed: int,
    share: float | None = None,
) -> Cell:
    """Draw, certify in each form, and look up what is true."""
    rng = np.random.default_rng([seed, size, round(1000 * target), round(100 * confidence)])
    wrong, differs, scores = people.wrong, people.differs, people.answers.scores
    share = share_to_check(size, target) if share is None else share
    cell = Cell(share, np.zeros(4), np.zeros(4), [])

    def settle(form: int, rows: np.ndarray, mistaken: np.ndarray, how: TwoStage | None = None) -> None:
        certificate = certify(people.path, scores[rows], mistaken, target, confidence, two_stage=how)
        taken = accepts(scores, certificate.thresholds)
        cell.missed[form] += bool(taken.any()) and wrong[taken].mean() > target
        cell.covered[form] += taken.mean() / draws

    for draw in range(draws):
        rows, coin = rng.integers(0, len(wrong), size), rng.random(size) < share
        if draw < SPENT_DRAWS:
            cell.spent.append(labels_spent(people, rows, coin, share, target, confidence))
        as_many = rows[: int(np.mean(cell.spent))]
        differing = differs[rows]
        settle(0, rows, wrong[rows])
        settle(1, rows, wrong[rows], TwoStage(differing, coin & ~differing, share, bounds=False))
        settle(2, as_many, wrong[as_many])
        settle(3, rows, differing)
    return cell


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the two parquet files")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--names", nargs="*", default=("banking77", "hwu64"))
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--targets", type=float, nargs="*", default=TARGETS)
    parser.add_argument("--confidences", type=float, nargs="*", default=CONFIDENCES)
    parser.add_argument("--share", type=float, help="of agreements checked; default: as the product chooses")
    options = parser.parse_args(arguments)
    for name in options.names:
        if not (options.data / f"{name}.parquet").exists():
            print(f"Skipped: there is no {name}.parquet in {options.data}.")
            continue
        report(population(name, options.data, options.cache, options.seed), options)
    return 0


def report(people: Population, options: argparse.Namespace) -> None:
    """Print a line a cell: coverage as a share of the oracle's and promises missed, by form; and the labels taken."""
    teacher = np.mean([a != b for a, b in zip(people.teacher, people.truth, strict=True)])
    print(
        f"{people.name}: {len(people.wrong)} rows; wrong: teacher {teacher:.1%}, student {people.wrong.mean():.1%}; "
        f"they differ on {people.differs.mean():.1%}\n"
        "target  conf  size  oracle | one-stage   two-stage   as many     teacher's | share  labels     | may miss"
    )
    for target, confidence, size in product(options.targets, options.confidences, options.sizes):
        best = oracle(people, target)
        cell = measure(people, size, target, confidence, options.draws, options.seed, options.share)
        forms = "  ".join(
            f"{covered / best if best else 0:>6.1%} {int(missed):>3}"
            for covered, missed in zip(cell.covered, cell.missed, strict=True)
        )
        spent = float(np.mean(cell.spent))
        print(
            f"{target:>6.0%} {confidence:>5.2f} {size:>5} {best:>7.1%} | {forms} | {cell.share:.2f} {spent:>6.0f} "
            f"{spent / size:>6.1%} | {int(binom.ppf(0.99, options.draws, 1 - confidence)):>3}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
