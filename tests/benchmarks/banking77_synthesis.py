"""Synthesis on BANKING77: what the screen drops, and what examples bring to labels with three real items.

Run as `python -m tests.benchmarks.banking77_synthesis --data DIR [--cache DIR]`; takes some minutes on one thread. No
LLM writes here. The floor is the simulated teacher, which recombines the three items, the ceiling real items that were
held back; what an LLM writes should lie between.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from deployments.teacher_sim import AnswerBook
from deployments.teacher_sim.synthesis import Wanted, write_examples
from tasks.labeling.screening import KEPT, OFF_LABEL, Screen
from tasks.records import normalise, text_key
from tasks.student.linear import LinearHead
from tests.benchmarks.banking77_student import embedded

REAL, STARVED, OTHERS, SEEDS = 3, 10, 60, 3
EXAMPLES = {0.5: 3, 0.8: 12}
"""Synthetic examples beside three real ones, by the share that they are of all."""

LABELS_STEP = 3  # the screen is measured on every third label
WEIGHTS = (0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Data:
    """Every question of the two splits: text, vector [n, 384], leaf, whether it is of the training split."""

    texts: list[str]
    X: np.ndarray
    y: np.ndarray
    train: np.ndarray
    names: list[str]

    def screen(self, rows: np.ndarray, encoded: dict[str, np.ndarray]) -> Screen:
        texts = [self.texts[row] for row in rows]
        keys = pl.DataFrame({"key": [text_key(text) for text in texts]}, schema={"key": pl.Binary})
        labels = [self.names[leaf] for leaf in self.y[rows]]
        return Screen(
            keys, texts, self.X[rows], labels, lambda new: np.stack([encoded[text] for text in new])
        )


def screened(data: Data) -> None:
    """How much is called off-label: of real items of the label, of the label most like it, and of any other."""
    rng = np.random.default_rng(2)
    vectors = dict(zip(data.texts, data.X, strict=True))
    leaves = range(len(data.names))
    centroids = np.stack([data.X[data.train & (data.y == leaf)].mean(axis=0) for leaf in leaves])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    for examples in (1, 3, 5, 10):
        dropped: dict[str, list[bool]] = {"own": [], "likest": [], "other": []}
        for leaf in leaves[::LABELS_STEP]:
            shown = rng.choice(np.flatnonzero(data.train & (data.y == leaf)), examples, replace=False)
            rows = np.concatenate([np.flatnonzero(data.train & (data.y != leaf)), shown])
            likest = np.argsort(centroids @ centroids[leaf])[-2]
            test = ~data.train
            judged = {
                "own": np.flatnonzero(test & (data.y == leaf)),
                "likest": np.flatnonzero(test & (data.y == likest)),
                "other": rng.choice(np.flatnonzero(test & (data.y != leaf)), 40, replace=False),
            }
            every = np.concatenate(list(judged.values()))
            said = data.screen(rows, vectors).judge([(data.texts[row], data.names[leaf]) for row in every])
            verdicts = iter([verdict for _, verdict in said])
            for name, of in judged.items():
                part = islice(verdicts, len(of))
                dropped[name] += [verdict == OFF_LABEL for verdict in part if verdict in (KEPT, OFF_LABEL)]
        print(f"{examples:>2} real examples, called off-label: " + ", ".join(
            f"{name} {np.mean(found):.1%}" for name, found in dropped.items()
        ), flush=True)  # fmt: skip


def brought(data: Data, cache: Path | None) -> None:
    """Test accuracy on the starved labels and on all others, by what stands beside their three real items."""
    for share, most in EXAMPLES.items():
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(SEEDS):
            for name, scores in _one_draw(data, most, seed, cache).items():
                found.setdefault(name, []).append(scores)
        print(f"{STARVED} labels with {REAL} real items, {most} more each (a share of {share:.0%}):")
        for name, scored in found.items():
            starved, others = np.mean(scored, axis=0)
            print(f"  {name:<40} starved labels {starved:>6.1%}  others {others:>6.1%}", flush=True)


def _one_draw(data: Data, most: int, seed: int, cache: Path | None) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(seed)
    starved = rng.choice(len(data.names), STARVED, replace=False)
    kept, spare = [], []
    for leaf in range(len(data.names)):
        rows = rng.permutation(np.flatnonzero(data.train & (data.y == leaf)))
        kept.append(rows[: REAL if leaf in starved else OTHERS])
        spare += [rows[REAL : REAL + most]] if leaf in starved else []
    rows, held_back = np.concatenate(kept), np.concatenate(spare)
    book = AnswerBook({data.texts[r]: [data.names[data.y[r]]] for r in rows if data.y[r] in starved})
    written = {leaf: write_examples(book, Wanted(data.names[leaf], 4 * most), seed) for leaf in starved}
    every = list(dict.fromkeys(text for texts in written.values() for text in texts))
    X = embedded(every, cache, f"banking77-written-{most}-{seed}")
    encoded = dict(zip(map(normalise, every), X / np.linalg.norm(X, axis=1, keepdims=True), strict=True))
    screen, new, new_y = data.screen(rows, encoded), [], []
    for leaf, texts in written.items():
        verdicts = screen.judge([(text, data.names[leaf]) for text in texts])
        fit = [text for text, verdict in verdicts if verdict == KEPT][:most]
        new += [encoded[text] for text in fit]
        new_y += [int(leaf)] * len(fit)
    tuned = LinearHead()
    tuned.tune(data.X[rows], data.y[rows], np.arange(len(rows)) % 5, n_leaves=len(data.names), seed=0)
    beside = {"nothing": (np.zeros((0, data.X.shape[1]), np.float32), np.zeros(0, np.int64), 1.0)}
    for weight in WEIGHTS:
        beside[f"recombined, weight {weight}"] = np.stack(new), np.array(new_y), weight
        beside[f"real items held back, weight {weight}"] = data.X[held_back], data.y[held_back], weight
    test = ~data.train
    of_starved = np.isin(data.y[test], starved)
    scores = {}
    for name, (more_X, more_y, weight) in beside.items():
        head = LinearHead(tuned.strength).fit(
            np.concatenate([data.X[rows], more_X]),
            np.concatenate([data.y[rows], more_y]),
            np.concatenate([np.ones(len(rows)), np.full(len(more_y), weight)]).astype(np.float32),
            n_leaves=len(data.names),
            seed=0,
        )
        right = head.predict_proba(data.X[test]).argmax(axis=1) == data.y[test]
        scores[name] = float(right[of_starved].mean()), float(right[~of_starved].mean())
    return scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77.parquet")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    file = options.data / "banking77.parquet"
    if not file.exists():
        print(f"Skipped: there is no banking77.parquet in {options.data}.")
        return 0
    table = pl.read_parquet(file)
    X = embedded(table["text"].to_list(), options.cache, "banking77")
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    names = sorted(table["label"].unique())
    y = np.array([names.index(label) for label in table["label"]])
    data = Data(
        [normalise(text) for text in table["text"]], X, y, (table["split"] == "train").to_numpy(), names
    )
    screened(data)
    brought(data, options.cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
