"""Items of no label the student knows: how many it answers all the same, at what loss of those it does know.

Run as `python -m tests.benchmarks.unfamiliar --data DIR [--cache DIR] [--seeds N] [--draws N] [--rows N]`; three seeds
take some minutes on one thread. Far: the items of the other data set. Near: a fifth of the labels never seen in
training. The recipe of the product (prototypes a label, sharpness) was chosen on HWU64; BANKING77 only confirms it.
Each seed trains the candidate `linear` on another four fifths of the train split, on human labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from tasks.student.certifying import CalibrationSample
from tasks.student.familiarity import Prototypes, fit_prototypes
from tasks.student.linear import LinearHead
from tasks.student.neighbours import nearest
from tasks.student.package import Answers, decode_answers, levels_of
from tasks.student.partial import PartialAnswers, stated_depths, upper_thresholds
from tasks.student.thresholds import ThresholdPath, accepts, certify, fix_path
from tasks.taxonomy import Taxonomy
from tests.benchmarks.banking77_student import embedded, folds_of

LOSSES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.30)
TARGET = 0.05
NEIGHBOURS = 10
HELD_OUT = 0.2
TRAINED_ON = 0.8
RATE = 0.1
CALIBRATION_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its vectors; labels are paths."""

    name: str
    table: pl.DataFrame
    vectors: np.ndarray
    levels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trial:
    """A trained student on items it knows (the test split) and on items of no label it knows."""

    head: LinearHead
    prototypes: Prototypes
    learned: np.ndarray
    path: ThresholdPath
    plain_path: ThresholdPath
    known: CalibrationSample
    vectors: np.ndarray
    unseen: Answers
    unseen_vectors: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return ~self.known.wrong


def read(folder: Path, name: str, cache: Path | None, rows: int | None) -> Data:
    """The first so many rows of each split; BANKING77 is flat, HWU64 has two levels."""
    table = pl.read_parquet(folder / f"{name}.parquet")
    columns = ["l1", "l2"] if "l1" in table.columns else ["label"]
    table = table.select("id", "text", "split", label=pl.concat_str(columns, separator=" > "))
    vectors = embedded(table["text"].to_list(), cache, name) if rows is None else None
    if rows is not None:
        table = table.filter(pl.int_range(pl.len()).over("split") < rows)
        vectors = embedded(table["text"].to_list(), None, name)
    assert vectors is not None
    return Data(name, table, vectors.astype(np.float32), tuple(columns))


def trial(data: Data, seed: int, unseen: np.ndarray | None) -> Trial:
    """Train with that seed; `unseen` are the far items, None holds labels out instead."""
    rng, labels = np.random.default_rng(seed), data.table["label"].to_numpy()
    names = np.unique(labels)
    held = rng.choice(names, round(HELD_OUT * len(names)), replace=False) if unseen is None else names[:0]
    known = ~np.isin(labels, held)
    test = (data.table["split"] == "test").to_numpy()
    train = known & ~test & (rng.random(len(labels)) < TRAINED_ON)
    leaves = tuple(np.unique(labels[train]).tolist())
    test &= np.isin(labels, leaves)
    taxonomy = Taxonomy(data.levels, leaves, {})
    levels, X = levels_of(taxonomy), data.vectors
    y, folds = np.searchsorted(leaves, labels[train]), folds_of(data.table.filter(pl.Series(train)))
    head = LinearHead()
    P = head.tune(X[train], y, folds, n_leaves=len(leaves), seed=seed)
    head.fit(X[train], y, n_leaves=len(leaves), seed=seed)
    said = decode_answers(P, taxonomy, levels)
    prototypes, familiarity = fit_prototypes(X[train], y, folds, said.leaf, n_leaves=len(leaves), seed=seed)

    def answers(vectors: np.ndarray) -> Answers:
        found = decode_answers(head.predict_proba(vectors), taxonomy, levels)
        return replace(found, familiarity=prototypes.familiarity(vectors, found.leaf))

    new = X[~known] if unseen is None else unseen
    gold = CalibrationSample("gold", answers(X[test]), labels[test].tolist())
    return Trial(
        head, prototypes, X[train], path_of(replace(said, familiarity=familiarity)), path_of(said), gold, X[test],
        answers(new), new,
    )  # fmt: skip


def path_of(said: Answers) -> ThresholdPath:
    """As a retrain lays it."""
    never = np.zeros(len(said.labels), bool)
    path = fix_path(said.scores, never, mistaken=1 - said.confidences[:, -1])
    return replace(path, upper=upper_thresholds(path, said.scores, said.confidences, said.depths, never))


# ---- the curve -----------------------------------------------------------------------------------------------------


def energy(trial: Trial, vectors: np.ndarray) -> np.ndarray:
    """The free energy's negative (Liu et al., NeurIPS 2020): the log of the summed exponentials of the scores."""
    scores = vectors @ trial.head.weights[:-1] + trial.head.weights[-1]
    top = scores.max(axis=1)
    return np.asarray(top + np.log(np.exp(scores - top[:, None]).sum(axis=1)))


def neighbours(trial: Trial, vectors: np.ndarray) -> np.ndarray:
    return nearest(vectors, trial.learned, NEIGHBOURS)[0].mean(axis=1)


METHODS: dict[str, Callable[[Trial, np.ndarray, Answers], np.ndarray]] = {
    "max-softmax": lambda trial, vectors, said: said.confidence,
    "energy": lambda trial, vectors, said: energy(trial, vectors),
    "10 neighbours of all rows": lambda trial, vectors, said: neighbours(trial, vectors),
    "max-softmax x 10 neighbours": lambda trial, vectors, said: said.confidence * neighbours(trial, vectors),
    "score (ours)": lambda trial, vectors, said: said.scores[:, -1],
}


def coverage_at(score: np.ndarray, right: np.ndarray, target: float = TARGET) -> float:
    """The largest share of items, surest first, of which at most the target is wrong."""
    wrong = np.cumsum(~right[np.argsort(-score, kind="stable")]) / np.arange(1, len(right) + 1)
    return float((np.flatnonzero(wrong <= target)[-1] + 1) / len(right)) if (wrong <= target).any() else 0.0


def accepted_unseen(known: np.ndarray, unseen: np.ndarray, coverage: float) -> float:
    """The share of unseen items at the threshold that so many of the known ones reach."""
    return float((unseen >= np.quantile(known, 1 - coverage, method="lower")).mean())


def curves(trials: list[Trial]) -> dict[str, np.ndarray]:
    """By method [seeds, 1 + losses]: its coverage at the target, then what it lets through at each loss.

    A loss is counted from what max-softmax covers at the target, knowing all labels, for every method.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for one in trials:
        whole = coverage_at(one.known.answers.confidence, one.right)
        for name, score in METHODS.items():
            known = score(one, one.vectors, one.known.answers)
            unseen = score(one, one.unseen_vectors, one.unseen)
            let = [accepted_unseen(known, unseen, max(0.01, whole - loss)) for loss in LOSSES]
            found[name].append([coverage_at(known, one.right), *let])
    return {name: np.array(rows) for name, rows in found.items()}


def show_curves(title: str, found: dict[str, np.ndarray]) -> None:
    print(f"\n{title}: unseen items accepted (%), by points of coverage lost\n")
    print(f"{'':<30}{'covers':>8}" + "".join(f"{loss:>7.0%}" for loss in LOSSES))
    for name, rows in found.items():
        print(
            f"{name:<30}{rows[:, 0].mean():>8.1%}" + "".join(f"{v:>7.1%}" for v in rows[:, 1:].mean(axis=0))
        )
    ours, plain = found["score (ours)"][:, 1:], found["max-softmax"][:, 1:]
    better = (ours < plain).sum(axis=0)
    points = int((ours.mean(axis=0) < plain.mean(axis=0)).sum())
    print(f"better than max-softmax: in the mean at {points} of {len(LOSSES)} points; "
          f"seeds by point {', '.join(map(str, better.tolist()))} of {len(ours)}", flush=True)  # fmt: skip


# ---- the promise ---------------------------------------------------------------------------------------------------


def mixture(
    trial: Trial, path: ThresholdPath, plain: bool, draws: int, confidence: float, seed: int
) -> np.ndarray:
    """[draws, 3]: the true error, and what share of the known and of the unseen items is answered.

    Every row is drawn with replacement, an unseen item with probability `RATE`; the items at hand are the population,
    so that a threshold's true error is known.
    """
    rng = np.random.default_rng(seed)
    scores = [said.confidences if plain else said.scores for said in (trial.known.answers, trial.unseen)]
    wrong = [trial.known.wrong, np.ones(len(trial.unseen.labels), bool)]
    found = []
    for _ in range(draws):
        strange = int(rng.binomial(CALIBRATION_ROWS, RATE))
        rows = [
            rng.integers(0, len(s), n)
            for s, n in zip(scores, (CALIBRATION_ROWS - strange, strange), strict=True)
        ]
        sample = np.concatenate([s[r] for s, r in zip(scores, rows, strict=True)])
        judged = np.concatenate([w[r] for w, r in zip(wrong, rows, strict=True)])
        thresholds = certify(path, sample, judged, TARGET, confidence).thresholds
        found.append(_true_error(scores, wrong, thresholds))
    return np.array(found)


def _true_error(
    scores: list[np.ndarray], wrong: list[np.ndarray], thresholds: tuple[float, ...] | None
) -> tuple[float, float, float]:
    taken = [accepts(s, thresholds) for s in scores]
    covered, mistaken = [t.mean() for t in taken], [(t & w).mean() for t, w in zip(taken, wrong, strict=True)]
    answered = (1 - RATE) * covered[0] + RATE * covered[1]
    error = ((1 - RATE) * mistaken[0] + RATE * mistaken[1]) / answered if answered else 0.0
    return float(error), float(covered[0]), float(covered[1])


def partial(trial: Trial, draws: int, confidence: float, seed: int) -> np.ndarray:
    """[draws, 5]: the true error with partial answers, coverage in full and in part; coverage and error without."""
    rng, said = np.random.default_rng(seed), trial.known.answers
    path, depths, never = trial.path, said.depths, np.zeros(len(said.labels), bool)
    levels = said.scores.shape[1]
    wrong, found = trial.known.wrong_by_level(levels), []
    for _ in range(draws):
        rows = rng.integers(0, len(never), CALIBRATION_ROWS)
        drawn = (said.scores[rows], wrong[rows, -1], TARGET, confidence)
        stopping = PartialAnswers(path, said.scores[rows], depths[rows], wrong[rows], never[rows])
        whole, both = certify(path, *drawn), certify(path, *drawn, stopping=stopping)
        stated = stated_depths(said.scores, depths, both.thresholds, both.partial_thresholds)
        mistaken = wrong[np.arange(len(stated)), np.maximum(stated, 1) - 1] & (stated > 0)
        alone = accepts(said.scores, whole.thresholds)
        found.append(
            (
                mistaken.sum() / max(1, (stated > 0).sum()),
                (stated == depths).mean(),
                ((stated > 0) & (stated < depths)).mean(),
                alone.mean(),
                wrong[alone, -1].sum() / max(1, alone.sum()),
            )
        )
    return np.array(found)


def show_promises(data: Data, far: list[Trial], near: list[Trial], draws: int) -> None:
    print(
        f"\n{data.name}: {draws} draws a seed of {CALIBRATION_ROWS} rows, {RATE:.0%} of them unseen, "
        f"target {TARGET:.0%}\n"
    )
    print(
        f"{'':<8}{'':<14}{'confidence':>12}{'promise missed':>16}{'known answered':>16}{'unseen answered':>17}"
    )
    for kind, trials in (("far", far), ("near", near)):
        for name, plain in (("max-softmax", True), ("score (ours)", False)):
            for confidence in (0.90, 0.95):
                rows = np.concatenate([
                    mixture(one, one.plain_path if plain else one.path, plain, draws, confidence, seed)
                    for seed, one in enumerate(trials)
                ])  # fmt: skip
                missed, (known, unseen) = (rows[:, 0] > TARGET).mean(), rows[:, 1:].mean(axis=0)
                print(
                    f"{kind:<8}{name:<14}{confidence:>12.0%}{missed:>16.1%}{known:>16.1%}{unseen:>17.1%}",
                    flush=True,
                )
    if len(data.levels) == 1:
        return
    print(
        f"\n{data.name}, answers may stop at the upper level: {draws} draws a seed of {CALIBRATION_ROWS} known rows\n"
    )
    print(
        f"{'confidence':>10}{'missed':>8}{'in full':>9}{'in part':>9}   without: {'missed':>8}{'in full':>9}"
    )
    for confidence in (0.90, 0.95):
        rows = np.concatenate([partial(one, draws, confidence, seed) for seed, one in enumerate(far)])
        full, part, alone = rows[:, 1].mean(), rows[:, 2].mean(), rows[:, 3].mean()
        print(f"{confidence:>10.0%}{(rows[:, 0] > TARGET).mean():>8.1%}{full:>9.1%}{part:>9.1%}   without: "
              f"{(rows[:, 4] > TARGET).mean():>8.1%}{alone:>9.1%}", flush=True)  # fmt: skip


def measure(data: Data, other: Data, seeds: int, draws: int) -> None:
    """Print everything about one data set."""
    far = [trial(data, seed, other.vectors) for seed in range(seeds)]
    near = [trial(data, seed, None) for seed in range(seeds)]
    show_curves(f"{data.name}, far ({other.name})", curves(far))
    show_curves(f"{data.name}, near (a fifth of the labels)", curves(near))
    show_promises(data, far, near, draws)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with banking77.parquet and hwu64.parquet"
    )
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=67, help="calibration samples a seed")
    parser.add_argument("--rows", type=int, help="only the first so many of each split")
    options = parser.parse_args(arguments)
    names = ("hwu64", "banking77")
    if not all((options.data / f"{name}.parquet").exists() for name in names):
        print(f"Skipped: there is no hwu64.parquet beside banking77.parquet in {options.data}.")
        return 0
    import torch

    torch.set_num_threads(1)
    first, second = (read(options.data, name, options.cache, options.rows) for name in names)
    measure(first, second, options.seeds, options.draws)
    measure(second, first, options.seeds, options.draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())
