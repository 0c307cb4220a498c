"""What synthetic examples may do in training: teach within their share, never judge, never give an answer away.

Knows frames and arrays; not who wrote the examples.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.duplicates import near_duplicates_of
from tasks.student.crossfit import never_judged
from tasks.synthetic import most_synthetic


def within_share(written: pl.DataFrame, real: pl.DataFrame, most_share: float) -> pl.DataFrame:
    """The synthetic rows that may stand beside the real ones: of each label the oldest, up to its share.

    Args:
        written: synthetic rows with a `label`, in order of arrival.
        real: real rows with a `label`.
        most_share: of a label's examples that may be synthetic, in (0, 1).
    """
    if not written.height:
        return written
    counts = dict(real.group_by("label").len().iter_rows())
    most = [most_synthetic(counts.get(label, 0), most_share) for label in written["label"].to_list()]
    place = pl.int_range(pl.len()).over("label")
    return written.with_columns(pl.Series("most", most, pl.Int64)).filter(place < pl.col("most")).drop("most")


def unlike(written: pl.DataFrame, texts: list[str]) -> pl.DataFrame:
    """The synthetic rows (with a `text`) that are near-duplicates of none of the texts."""
    if not written.height:
        return written
    return written.filter(~pl.Series(near_duplicates_of(written["text"].to_list(), texts), dtype=pl.Boolean))


def folds_beside(
    vectors: NDArray[np.float32],
    labels: NDArray[np.integer],
    folds: NDArray[np.int16],
    written: NDArray[np.bool_],
) -> NDArray[np.int16]:
    """Folds in which synthetic rows judge nothing and give nothing away.

    A synthetic row was written beside real ones of its label, so it may say what they say. It goes with the nearest of
    them: whoever judges that one has not learned from it.

    Args:
        vectors: float32 [n, d], unit length.
        labels: leaf indices [n].
        folds: [n], by near-duplicate group.
        written: bool [n], the synthetic rows.

    Returns:
        int16 [n]: the folds of real rows as they were, `never_judged` folds of synthetic ones.
    """
    beside = folds.copy()
    for label in np.unique(labels[written]):
        rows, real = np.flatnonzero(written & (labels == label)), np.flatnonzero(~written & (labels == label))
        if len(real):
            beside[rows] = folds[real[(vectors[rows] @ vectors[real].T).argmax(axis=1)]]
    beside[written] = never_judged(beside[written])
    return beside
