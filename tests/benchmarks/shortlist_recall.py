"""How often the true label is among the nearest: recall at K on the catalogue and BANKING77, and how long it takes.

Run as `python -m tests.benchmarks.shortlist_recall [--data DIR] [--cache DIR]`; without `--data` only the catalogue,
which the project makes, is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.demo.catalogue import LEVELS, generate
from tasks.demo.vocabulary import NONE_OF_THESE, taxonomy_mapping
from tasks.labeling.shortlist import label_texts, label_vectors, listed_labels, nearest
from tasks.taxonomy import Taxonomy, build_taxonomy
from tests.benchmarks.banking77_student import embedded

AT = (1, 3, 5, 10, 15, 20, 30)
ITEMS_A_LABEL = (0, 1, 3, 10, 50)


def recall(
    name: str,
    taxonomy: Taxonomy,
    asked: tuple[Sequence[str], Sequence[str]],
    labelled: tuple[Sequence[str], Sequence[str]],
    cache: Path | None,
) -> None:
    """Print recall of the asked texts' labels, with so many labelled items of each label."""
    place = {label: number for number, label in enumerate(listed_labels(taxonomy))}
    X, y = embedded(list(asked[0]), cache, f"{name}-asked"), np.array([place[label] for label in asked[1]])
    Z = embedded(list(labelled[0]), cache, f"{name}-labelled")
    z = np.array([place[label] for label in labelled[1]])
    texts = embedded(label_texts(taxonomy), cache, f"{name}-labels")
    print(f"\n{name}: {len(y)} items, {len(place)} labels")
    print(f"{'labelled items a label':<24}" + "".join(f"{f'at {k}':>8}" for k in AT))
    order = np.random.default_rng(0).permutation(len(z))
    for most in ITEMS_A_LABEL:
        some = np.concatenate([order[z[order] == label][:most] for label in range(len(place))])
        L = label_vectors(texts, Z[some], z[some])
        hit = nearest(X, L, max(AT)) == y[:, None]
        print(f"{most:<24}" + "".join(f"{hit[:, :k].any(axis=1).mean():>8.1%}" for k in AT))


def speed(items: int, labels: int) -> None:
    """Print how long the nearest 20 of many labels take for many items."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((items, 384), dtype=np.float32)
    L = rng.standard_normal((labels, 384), dtype=np.float32)
    started = time.process_time()
    nearest(X, L, 20)
    seconds = time.process_time() - started
    print(f"\n{items:,} items x {labels:,} labels: {seconds:.1f} CPU s, {items / seconds:,.0f} items a CPU s")


def main() -> None:
    """Print a table a data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    taxonomy = build_taxonomy(taxonomy_mapping(), LEVELS, other=NONE_OF_THESE)
    catalogue = generate(items=6000, gold=1500, traffic=0, drifted_traffic=0)
    gold = catalogue.gold.with_columns(label=pl.concat_str(LEVELS, separator=" > ", ignore_nulls=True))
    pairs = [
        (frame["name"].to_list(), frame["label"].to_list())
        for frame in (
            table.filter(pl.col("label") != NONE_OF_THESE) for table in (gold, catalogue.items_truth)
        )
    ]
    recall("catalogue", taxonomy, pairs[0], pairs[1], arguments.cache)
    if arguments.data is not None:
        table = pl.read_parquet(arguments.data / "banking77.parquet")
        flat = build_taxonomy({label.replace("_", " "): None for label in sorted(table["label"].unique())})
        pairs = [
            (frame["text"].to_list(), frame["label"].str.replace_all("_", " ").to_list())
            for frame in (table.filter(pl.col("split") == split) for split in ("test", "train"))
        ]
        recall("BANKING77", flat, pairs[0], pairs[1], arguments.cache)
    speed(20_000, 10_000)


if __name__ == "__main__":
    main()
