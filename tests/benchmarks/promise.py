"""Whether the promise holds over draws of the calibration sample, and how much of what an oracle covers it lets answer.

Run as `python -m tests.benchmarks.promise [single] [cross_fitted] --data DIR [--cache DIR] [--names banking77 hwu64]`.
A student is trained on some of the pooled rows (`--train`: the fewer, the harder), all others are the population.

`single`: each draw takes so many rows of the population, certifies on them, and looks up the error among all rows of
the population that the thresholds accept (the promise is about where the sample came from) and among those that were
not drawn. Missed is a draw whose error exceeds the target; of 200 draws so many may be missed as a binomial of
1 - confidence exceeds once in forty times. The oracle is the loosest threshold on the deepest level's score whose error
in the population keeps the target.

`cross_fitted`: each draw is a training set of its own; its out-of-fold answers calibrate, the student is fitted again
on all of it, and the error is counted on all rows that were not in it. This is the empirical check without which
calibrating on training rows would be a hope. With `--noise 0.15` the labels are a simulated teacher's (hard items err
more, half of it systematically) and are cleaned as a retrain cleans them; error is disagreement with what that teacher
says of fresh rows. `--in-sample` judges the rows by heads that learned labels which those rows helped to clean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cleaning.crossfitted import clean_rows
from tasks.cleaning.left_out import lessons_by_part
from tasks.cleaning.treatment import Treated, treat
from tasks.demo.noise import noisy_passes_from_features
from tasks.duplicates import near_duplicate_groups
from tasks.embedding.settings import EncoderSettings
from tasks.project import Cleaning as CleaningSettings
from tasks.project import Student as StudentSettings
from tasks.student.certifying import certified
from tasks.student.crossfit import fold_of
from tasks.student.linear import LinearHead
from tasks.student.package import levels_of
from tasks.student.retrain import Trained, retrain
from tasks.student.shared_rows import Instead, apart
from tasks.student.thresholds import ThresholdPath, accepts, certify
from tasks.student.training import Rows
from tasks.taxonomy import Taxonomy
from tests.benchmarks.banking77_student import embedded

SIZES, TARGETS, CONFIDENCES, SEED = (500, 1_000, 2_000), (0.02, 0.05, 0.10), (0.90, 0.95), 0
NOBODY = {"key": pl.Binary, "label": pl.String, "role": pl.String}

Certify = Callable[
    [ThresholdPath, np.ndarray, np.ndarray, float, float, np.random.Generator], tuple[float, ...] | None
]
"""Path, scores [n, levels], wrong [n], target and confidence to thresholds; the generator is for what else is drawn."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All rows of a data set: texts, unit vectors [n, d], leaf paths."""

    texts: list[str]
    X: np.ndarray
    labels: list[str]
    levels: tuple[str, ...]

    def taxonomy(self) -> Taxonomy:
        return Taxonomy(self.levels, tuple(sorted(set(self.labels))), {}, None)


@dataclass(frozen=True, eq=False)
class Population:
    """What certificates are about: scores [n, levels] of a student, what it says wrongly [n], and its path."""

    path: ThresholdPath
    scores: np.ndarray
    wrong: np.ndarray

    def oracle(self, target: float) -> float:
        """The most that a threshold on the deepest score covers without breaking the promise."""
        order = np.argsort(-self.scores[:, -1], kind="stable")
        kept = np.flatnonzero(np.cumsum(self.wrong[order]) / np.arange(1, len(order) + 1) <= target)
        return float((kept[-1] + 1) / len(order)) if len(kept) else 0.0


@dataclass(frozen=True)
class Cell:
    """Draws missed in the population, and on the rows not drawn; mean coverage of the population."""

    missed: int
    missed_on_rest: int
    coverage: float


def single_stage(
    path: ThresholdPath,
    scores: np.ndarray,
    wrong: np.ndarray,
    target: float,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[float, ...] | None:
    """The product's certificate on a sample that is judged whole."""
    return certify(path, scores, wrong, target, confidence).thresholds


def may_miss(draws: int, confidence: float) -> int:
    """The number of missed promises that chance alone exceeds once in forty times."""
    from scipy.stats import binom

    return int(binom.ppf(0.975, draws, 1 - confidence))


def measure(
    people: Population, size: int, target: float, confidence: float, draws: int, by: Certify = single_stage
) -> Cell:
    """Certify on `draws` samples drawn without replacement, and look up what is true."""
    rng, n = np.random.default_rng([SEED, size]), len(people.wrong)
    missed, missed_on_rest, coverage = 0, 0, 0.0
    for _ in range(draws):
        rows = rng.permutation(n)[:size]
        thresholds = by(people.path, people.scores[rows], people.wrong[rows], target, confidence, rng)
        taken = accepts(people.scores, thresholds)
        rest = taken.copy()
        rest[rows] = False
        missed += bool(taken.any()) and people.wrong[taken].mean() > target
        missed_on_rest += bool(rest.any()) and people.wrong[rest].mean() > target
        coverage += taken.mean() / draws
    return Cell(int(missed), int(missed_on_rest), coverage)


def pool_of(name: str, data: Path, cache: Path | None) -> Pool:
    """A data set of `--data`, its splits pooled."""
    table = pl.read_parquet(data / f"{name}.parquet")
    levels = ("l1", "label") if "l1" in table.columns else ("label",)
    paths = [" > ".join(row) for row in table.select(levels).iter_rows()]
    texts = table["text"].to_list()
    return Pool(texts, embedded(texts, cache, name), paths, levels)


def blobs(seed: int = 0) -> Pool:
    """Twelve labels under three, in 24 dimensions, to see whether it runs."""
    rng = np.random.default_rng(seed)
    centres, y = rng.normal(size=(12, 24)), rng.integers(0, 12, 3000)
    X = centres[y] + rng.normal(scale=1.1, size=(3000, 24))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    texts = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 12)) for _ in range(3000)]
    return Pool(texts, X, [f"{label % 3} > {label}" for label in y.tolist()], ("upper", "label"))


def trained(
    pool: Pool, rows: np.ndarray, said: Sequence[str], names: Sequence[str], clean: str = "not"
) -> Trained:
    """What the product's retrain makes of the rows and what was said of them, without gold, by its defaults."""
    taxonomy, settings = pool.taxonomy(), StudentSettings()
    y = np.array([taxonomy.leaf_index[said[row]] for row in rows], np.int64)
    groups = near_duplicate_groups([pool.texts[row] for row in rows])
    folds = fold_of(groups, settings.folds, SEED)
    training = Rows(pool.X[rows], y, y, folds, np.ones(len(y), np.float32))
    if clean != "not":
        training = cleaned(training, fold_of(groups, 2, SEED + 1), taxonomy, clean == "in sample")
    return retrain(
        training,
        names,
        taxonomy,
        EncoderSettings("hash:16"),
        "text",
        pl.DataFrame(schema=NOBODY),
        (pool.X[:0], None),
        SEED,
        prototypes=settings.prototypes,
        ensemble_with=[name for name in settings.averaged if name in names],
    )


def cleaned(rows: Rows, halves: np.ndarray, taxonomy: Taxonomy, in_sample: bool) -> Rows:
    """The rows as a project's first cleaning leaves them; unless `in_sample`, with what judges each fold instead."""
    levels, n, strength = levels_of(taxonomy), len(rows.labels), None

    def again(kept: np.ndarray, folds: np.ndarray = halves) -> Treated:
        nonlocal strength
        nobody = np.zeros(int(kept.sum()), bool)
        result, strength = clean_rows(
            rows.vectors[kept],
            rows.labels[kept],
            rows.weight[kept],
            np.full((len(nobody), 1), -1),
            folds[kept],
            nobody,
            nobody,
            levels,
            CleaningSettings().cap,
            head=LinearHead(strength),
        )
        return treat(rows.labels[kept], result, nobody, "relabel")

    treated, share, rest = again(np.ones(n, bool), rows.folds), np.ones(n, np.float32), np.full(n, -1)
    taught = replace(rows, labels=treated.labels)
    if in_sample:
        return taught
    lessons = lessons_by_part(treated, rows.labels, rows.folds, halves, again)
    of = {part: lessons.parts == part for part in np.unique(lessons.parts).tolist()}
    columns = (lessons.rows, lessons.labels, lessons.share, lessons.rest)
    instead = {part: Instead(*(column[ours] for column in columns)) for part, ours in of.items()}
    return apart(taught, share, rest, rows.folds, instead)


def population(pool: Pool, rows: int, names: Sequence[str]) -> Population:
    """A student of so many rows, and all rows that it never saw."""
    order = np.random.default_rng(SEED).permutation(len(pool.labels))
    of = trained(pool, order[:rows], pool.labels, names)
    answers = of.student.answers(pool.X[order[rows:]])
    truth = [pool.labels[row] for row in order[rows:]]
    wrong = np.array([given != true for given, true in zip(answers.labels, truth, strict=True)])
    return Population(of.path, answers.scores, wrong)


def single(name: str, pool: Pool, options: argparse.Namespace) -> None:
    people = population(pool, options.train, options.candidates)
    print(
        f"\n{name}: {options.train:,} rows taught, {len(people.wrong):,} are the population, {people.wrong.mean():.1%} "
        f"of them answered wrongly; {options.draws} draws\n\n"
        "| target | rows | confidence | oracle covers | covered, of the oracle's | missed | on the rest | may miss |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for target in options.targets:
        oracle = people.oracle(target)
        for size in options.sizes:
            for confidence in CONFIDENCES:
                cell = measure(people, size, target, confidence, options.draws)
                share = cell.coverage / oracle if oracle else 0.0
                print(
                    f"| {target:.0%} | {size:,} | {confidence:.2f} | {oracle:.1%} | **{share:.1%}** | {cell.missed} | "
                    f"{cell.missed_on_rest} | {may_miss(options.draws, confidence)} |",
                    flush=True,
                )


def cross_fitted(name: str, pool: Pool, options: argparse.Namespace) -> None:
    taxonomy, n, said = pool.taxonomy(), len(pool.labels), pool.labels
    found: dict[tuple[float, float], list[tuple[float, float, float]]] = {}
    clean = "not" if not options.noise else "in sample" if options.in_sample else "apart"
    for draw in range(options.draws):
        order = np.random.default_rng([SEED, draw]).permutation(n)
        rows, fresh = order[: options.cross_fit], order[options.cross_fit :]
        if options.noise:
            [said] = noisy_passes_from_features(pool.X, pool.labels, options.noise, 1, draw)
        of = trained(pool, rows, said, options.candidates, clean)
        answers = of.student.answers(pool.X[fresh])
        wrong = np.array([given != said[row] for given, row in zip(answers.labels, fresh, strict=True)])
        for target in options.targets:
            for confidence in CONFIDENCES:
                levels = len(taxonomy.levels)
                certificate, ours, missed = certified(of.path, of.held_out, levels, None, target, confidence)
                seen = float(missed.sum() / max(1, ours.sum()))
                taken = accepts(answers.scores, certificate.thresholds)
                error = float(wrong[taken].mean()) if taken.any() else 0.0
                found.setdefault((target, confidence), []).append((error, float(taken.mean()), seen))
    print(
        f"\n{name}: {options.draws} training sets of {options.cross_fit:,} rows, {', '.join(options.candidates)}; "
        f"{n - options.cross_fit:,} fresh rows"
        f"{f'; {options.noise:.0%} wrong, cleaned, judged {clean}' if options.noise else ''}\n\n"
        "| target | confidence | covered | error among those that certified | among fresh ones | missed | may miss |\n"
        "|---|---|---|---|---|---|---|"
    )
    for (target, confidence), draws in found.items():
        errors, covered, seen = np.array(draws).T
        print(
            f"| {target:.0%} | {confidence:.2f} | {covered.mean():.1%} | {seen[covered > 0].mean():.1%} | "
            f"{errors[covered > 0].mean():.1%} | "
            f"{(errors > target).sum()} | {may_miss(len(draws), confidence)} |"
            if covered.any()
            else f"| {target:.0%} | {confidence:.2f} | 0 | – | – | 0 | {may_miss(len(draws), confidence)} |",
            flush=True,
        )


SECTIONS = {"single": single, "cross_fitted": cross_fitted}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--data", type=Path, help="folder with the parquet files")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--names", nargs="*", default=("banking77", "hwu64"))
    parser.add_argument("--candidates", nargs="*", default=StudentSettings().candidates)
    parser.add_argument("--train", type=int, default=4_000, help="rows that `single` teaches")
    parser.add_argument(
        "--cross-fit", type=int, default=1_000, help="rows of a training set of `cross_fitted`"
    )
    parser.add_argument("--noise", type=float, default=0.0, help="wrong labels of `cross_fitted`, a share")
    parser.add_argument("--in-sample", action="store_true", help="what cleaning did before: see above")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--targets", type=float, nargs="*", default=TARGETS)
    parser.add_argument("--quick", action="store_true", help="a few points instead, to see whether it runs")
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("--data is needed without --quick")
    import torch

    torch.set_num_threads(1)
    for name in ["blobs"] if options.quick else options.names:
        if not options.quick and not (options.data / f"{name}.parquet").exists():
            print(f"Skipped: there is no {name}.parquet in {options.data}.")
            continue
        pool = blobs() if options.quick else pool_of(name, options.data, options.cache)
        for section in options.sections or SECTIONS:
            SECTIONS[section](name, pool, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
