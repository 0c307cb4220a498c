"""What choosing buys on BANKING77: random choice of 2,000 items against the project's mix at 1,400, gold teacher.

Run as `python -m tests.benchmarks.banking77_selection --data DIR [--cache DIR] [--file hwu64] [--head ensemble]`.
The mix is chosen as the product does, night by night: 400 items without a student, then 200 five times, each time with
the student of all labels so far. The teacher's answers are the human labels of the train split; accuracy is that of
the linear student on the test split, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.labeling.acquisition import Sight, margins_of
from tasks.labeling.selection import Acquisition, choose, lacking
from tasks.project import Mix
from tasks.records import text_key
from tasks.student.heads import Head, make_head
from tasks.student.linear import LinearHead
from tests.benchmarks.banking77_student import embedded

NIGHTS = (400, 200, 200, 200, 200, 200)
RANDOM = {"uncertain": 0.0, "diverse": 0.0, "random": 1.0}
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t at 97.5 % by how many differences there are."""


@dataclass(frozen=True, eq=False)
class Data:
    """Train and test split: vectors float32 [n, d], label indices [n]; the train items' keys are distinct."""

    items: pl.DataFrame
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    n_labels: int

    def places(self, keys: pl.DataFrame) -> np.ndarray:
        """Rows of the train split that bear these keys (a column `key`), in order."""
        found = keys.join(self.items, on="key", how="left", maintain_order="left")
        return (found["item_id"] - 1).to_numpy()


def read(file: Path, cache: Path | None) -> Data:
    table = pl.read_parquet(file)
    X = embedded(table["text"].to_list(), cache, file.stem)
    names = sorted(table["label"].unique())
    y = np.array([names.index(label) for label in table["label"]])
    keys = pl.Series("key", [text_key(text) for text in table["text"]], pl.Binary)
    train = (table["split"] == "train").to_numpy() & keys.is_first_distinct().to_numpy()
    test = (table["split"] == "test").to_numpy()
    items = pl.DataFrame({"item_id": range(1, train.sum() + 1), "key": keys.filter(pl.Series(train))})
    return Data(items, X[train], y[train], X[test], y[test], len(names))


def student_of(data: Data, rows: np.ndarray, kind: str, seed: int, near: float | None) -> Head:
    head = LinearHead(near=near) if kind == "linear" else make_head(kind)
    return head.fit(data.X[rows], data.y[rows], n_leaves=data.n_labels, seed=seed)


def chosen_rows(data: Data, nights: Sequence[int], mix: Mapping[str, float], seed: int) -> np.ndarray:
    """The rows that were asked about after so many nights."""
    asked = pl.DataFrame(schema={"key": pl.Binary, "pass": pl.Int64})
    strength: float | None = None
    for night, limit in enumerate(nights):
        labelled = data.places(asked)
        head = None
        if len(labelled) and mix["uncertain"] > 0:
            head = student_of(data, labelled, "linear", seed, strength)
            strength = float(head.settings()["strength"])

        def look(items: pl.DataFrame, labelled: np.ndarray = labelled, head: Head | None = head) -> Sight:
            vectors = data.X[data.places(items.join(data.items, on="item_id", maintain_order="left"))]
            margins = margins_of(head.predict_proba(vectors)) if head else None
            return Sight(np.arange(items.height), vectors, data.X[labelled], margins)

        acquisition = Acquisition(mix, asked.select("key").clear(), look)
        due = lacking(data.items, asked, asked.clear(), 1)
        picked = choose(due, 1, limit, seed * len(nights) + night, acquisition).due
        keys = picked.join(data.items, on="item_id", maintain_order="left").select(
            "key", pl.col("pass").cast(pl.Int64)
        )
        asked = pl.concat([asked, keys])
    return data.places(asked)


def main() -> int:
    """Print accuracy by recipe over the seeds, and the paired differences to random choice of 2,000."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FLYWHEEL_DATA"), help="folder with the data"
    )
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument("--file", default="banking77", help="banking77 or hwu64")
    parser.add_argument(
        "--head", default="linear", help="the student judged in the end: linear, mlp or ensemble"
    )
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    file = Path(options.data or ".") / f"{options.file}.parquet"
    if not file.exists():
        print(f"skipped: {file.name} is not there; name its folder by --data or FLYWHEEL_DATA")
        return 0
    import torch

    torch.set_num_threads(1)
    data, mix = read(file, options.cache), Mix().model_dump()
    total = sum(NIGHTS)
    no_student = {"uncertain": 0.0, "diverse": mix["uncertain"] + mix["diverse"], "random": mix["random"]}
    said = ", ".join(f"{kind} {share:g}" for kind, share in mix.items())
    recipes: dict[str, tuple[Sequence[int], Mapping[str, float]]] = {
        "random 2,000": ((2_000,), RANDOM),
        f"random {total:,}": ((total,), RANDOM),
        f"the mix {total:,} ({said})": (NIGHTS, mix),
        f"the mix without a student {total:,}": (NIGHTS, no_student),
        f"only uncertain {total:,}": (NIGHTS, {"uncertain": 1.0, "diverse": 0.0, "random": 0.0}),
        f"only diverse {total:,}": (NIGHTS, {"uncertain": 0.0, "diverse": 1.0, "random": 0.0}),
    }
    print(f"{options.file}: {len(data.X):,} items to choose from, {len(data.X_test):,} to judge by, "
          f"{options.head} student, {options.seeds} seeds")  # fmt: skip
    print(f"{'':<58}{'accuracy':>9}{'sd':>6}   minus random 2,000 (by seed)  seconds")
    baseline: np.ndarray | None = None
    for name, (nights, shares) in recipes.items():
        started = time.monotonic()
        accuracy = []
        for seed in range(options.seeds):
            rows = chosen_rows(data, nights, shares, seed)
            head = student_of(data, rows, options.head, seed, None)
            accuracy.append(float((head.predict_proba(data.X_test).argmax(axis=1) == data.y_test).mean()))
        found = 100 * np.array(accuracy)
        line = f"{name:<58}{found.mean():>9.2f}{found.std(ddof=1):>6.2f}   "
        if baseline is None:
            baseline = found
            line += " " * 28
        else:
            each = found - baseline
            half = T_975[len(each)] * each.std(ddof=1) / len(each) ** 0.5
            line += f"{each.mean():+.2f} [{each.mean() - half:+.2f}, {each.mean() + half:+.2f}]".ljust(28)
        print(f"{line}  {(time.monotonic() - started) / options.seeds:.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
