"""Which labels have too few real examples, how many may be written for each, and what is already there.

Counts and frames only; knows nothing of a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tasks.synthetic import SYNTHETIC, most_synthetic
from tasks.taxonomy import Taxonomy


@dataclass(frozen=True)
class Starved:
    """A label with too few real examples.

    Attributes:
        label: the leaf.
        real: its real examples.
        synthetic: those that were written for it and count.
        wanted: how many are still to be written.
        room: how many more its share would allow.
    """

    label: str
    real: int
    synthetic: int
    wanted: int
    room: int


def starved_labels(
    taxonomy: Taxonomy,
    real: Mapping[str, int],
    synthetic: Mapping[str, int],
    below: int,
    most_share: float,
) -> list[Starved]:
    """The leaves with fewer than `below` real examples, the most starved first; "none of these" is never one.

    Real and synthetic examples together are to reach `below`, as far as `tasks.synthetic.most_synthetic` allows.

    Args:
        taxonomy: its leaves.
        real: examples with a usable label, by leaf.
        synthetic: examples that a teacher wrote and that count, by leaf.
        below: from so many real examples on a label is not starved.
        most_share: of a label's examples that may be synthetic, in (0, 1).
    """
    found = []
    for leaf in taxonomy.leaves:
        have, written = real.get(leaf, 0), synthetic.get(leaf, 0)
        if leaf == taxonomy.other or have >= below:
            continue
        most = most_synthetic(have, most_share)
        wanted = max(0, min(below - have, most) - written)
        found.append(Starved(leaf, have, written, wanted, max(0, most - written)))
    return sorted(found, key=lambda starved: starved.real)


def reference_rows(
    real: pl.DataFrame, others: pl.DataFrame, contents: pl.DataFrame, gold: pl.DataFrame
) -> pl.DataFrame:
    """What an example must not resemble, as a `Screen` takes it: key, text, label (null where it is none of `real`).

    Args:
        real: key, label of the real items with a settled label.
        others: keys of further items: disputed ones, audits still in their window.
        contents: key, text, origin of all items; synthetic ones are always among what is returned.
        gold: key, text.
    """
    wanted = pl.concat([real.select("key"), others.select("key")]).unique()
    rows = [
        contents.join(wanted, on="key", how="semi", maintain_order="left"),
        contents.filter(pl.col("origin") == SYNTHETIC),
        gold,
    ]
    distinct = pl.concat([frame.select("key", "text") for frame in rows])
    distinct = distinct.unique("key", keep="first", maintain_order=True)
    return distinct.join(real.select("key", "label"), on="key", how="left", maintain_order="left")
