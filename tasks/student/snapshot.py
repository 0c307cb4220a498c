"""The training view: which labelled items a student may learn from, frozen as a parquet with a fingerprint.

Gold, near-duplicates of gold and audits still in their window are taken out and counted. Knows nothing of
models; cleaning reads the snapshot and never changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.duplicates import Signatures, near_duplicate_groups, near_duplicates_of, signatures
from tasks.errors import TrainingError
from tasks.records import Snapshot
from tasks.student.synthetic import unlike, within_share
from tasks.synthetic import SYNTHETIC
from tasks.whole_files import written_whole

COLUMNS = ("key", "label", "source", "group", "weight", "candidates")
DISPUTED = "disputed"
UNSURE_WEIGHT = 0.5
"""Of a row that one pass alone vouches for, beside rows on which independent passes agree: leaving such rows out
keeps only easy items and costs accuracy (see notebooks/LOG.md)."""

SYNTHETIC_WEIGHT = 0.5
"""Of an example that a teacher wrote, which nobody has seen among real items: as little as any real row has. With 0.3
even perfect examples help a third less (tests/benchmarks/banking77_synthesis.py)."""


@dataclass(frozen=True)
class TrainingRows:
    """The training view and what was taken out of it.

    `frame` has key, label, source, group (key of the first near-duplicate), weight in (0, 1], and candidates:
    for rows of source `disputed` what the passes said, whose first is the label; null elsewhere. Synthetic rows
    stand last, each its own group.
    """

    frame: pl.DataFrame
    removed_gold: int
    removed_near_gold: int


def weighted(labels: pl.DataFrame, disputed: pl.DataFrame) -> pl.DataFrame:
    """Settled and disputed labels as one frame: key, label, source, weight, candidates.

    Args:
        labels: key, label, source of the effective labels.
        disputed: key, candidates (labels by pass) of items whose passes differ and nobody decided.
    """
    agreed = (labels["source"] == "consensus").any()
    unsure = pl.col("source").is_in(["single", "imported"]) if agreed else pl.lit(False)
    settled = labels.select(
        "key",
        "label",
        "source",
        pl.when(pl.col("source") == SYNTHETIC)
        .then(SYNTHETIC_WEIGHT)
        .when(unsure)
        .then(UNSURE_WEIGHT)
        .otherwise(1.0)
        .alias("weight"),
        pl.lit(None, pl.List(pl.String)).alias("candidates"),
    )
    doubtful = disputed.select(
        "key",
        pl.col("candidates").list.first().alias("label"),
        pl.lit(DISPUTED).alias("source"),
        pl.lit(UNSURE_WEIGHT).alias("weight"),
        "candidates",
    )
    return pl.concat([settled, doubtful])


def training_rows(
    labels: pl.DataFrame,
    contents: pl.DataFrame,
    gold: pl.DataFrame,
    held_back: pl.DataFrame,
    modality: str,
    most_synthetic: float = 0.5,
    signed: Callable[[pl.Series, Sequence[str]], Signatures] = lambda _, texts: signatures(texts),
) -> TrainingRows:
    """Labelled items fit for training, in the order they arrived, then synthetic ones as far as their share goes.

    A synthetic row that resembles gold, an audit in its window or a real row is left out, uncounted.

    Args:
        labels: as `weighted` gives them; one row a key.
        contents: key, text of all items, in order of arrival.
        gold: key, text of gold items.
        held_back: keys of audits still in their window; they and their near-duplicates are left out, uncounted.
        modality: near-duplicates are looked for among texts only.
        most_synthetic: of a label's rows that may be synthetic, in (0, 1).
        signed: gives the signatures of texts by their keys, for who keeps them.
    """
    every = contents.select("key", "text").join(labels, on="key", how="inner", maintain_order="left")
    every = every.join(held_back.select("key"), on="key", how="anti")
    rows = every.filter(pl.col("source") != SYNTHETIC)
    written = every.filter(pl.col("source") == SYNTHETIC).join(gold.select("key"), on="key", how="anti")
    known_gold = rows.join(gold.select("key"), on="key", how="semi").height
    rows = rows.join(gold.select("key"), on="key", how="anti")
    if modality != "text":
        return TrainingRows(rows.with_columns(pl.col("key").alias("group")).select(COLUMNS), known_gold, 0)
    watched = contents.join(held_back.select("key"), on="key", how="semi")
    texts = rows["text"].to_list()
    known = signed(rows["key"], texts)
    near = near_duplicates_of(texts, gold["text"].to_list(), signed=known)
    kept = ~near & ~near_duplicates_of(texts, watched["text"].to_list(), signed=known)
    rows = rows.filter(pl.Series(kept))
    first = near_duplicate_groups(rows["text"].to_list(), signed=known[kept])
    grouped = rows.with_columns(rows["key"].gather(first).alias("group"))
    written = unlike(written, [*gold["text"].to_list(), *watched["text"].to_list(), *rows["text"].to_list()])
    settled = grouped.filter(pl.col("source") != DISPUTED)
    written = within_share(written.with_columns(pl.col("key").alias("group")), settled, most_synthetic)
    frame = pl.concat([grouped.select(COLUMNS), written.select(COLUMNS)])
    return TrainingRows(frame, known_gold, int(near.sum()))


def write_snapshot(rows: TrainingRows, gold_rows: int, taxonomy_version: str, root: Path) -> Snapshot:
    """Freeze the rows under `snapshots/<fingerprint>/rows.parquet`; the same rows give the same file.

    Raises:
        TrainingError: there are too few labels, or only one, to train on.
    """
    frame = rows.frame
    real = frame.filter(pl.col("source") != SYNTHETIC)  # only these can judge what was learned
    if real["label"].n_unique() < 2 or real.height < 4:
        raise TrainingError(
            f"{real.height} labelled items with {real['label'].n_unique()} different labels are too few",
            "Label more (`flywheel label`), or import the labels you have (`flywheel import-labels`).",
        )
    digest = hashlib.blake2b(taxonomy_version.encode(), digest_size=12)
    for key, label, source, group, weight, candidates in frame.sort("key").iter_rows():
        said = "|".join([label, source, str(weight), *(candidates or [])]).encode()
        digest.update(b"%b\0%b\0%b\n" % (key, group, said))
    fingerprint = digest.hexdigest()
    path = root / "snapshots" / fingerprint / "rows.parquet"
    if not path.exists():
        with written_whole(path) as beside:
            frame.write_parquet(beside)
    return Snapshot(
        str(path),
        fingerprint,
        frame.height,
        gold_rows,
        rows.removed_gold,
        rows.removed_near_gold,
        frame.height - real.height,
    )
