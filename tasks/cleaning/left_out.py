"""What would be learned had one part of the rows said nothing: lessons for the heads that judge that part.

A label that a part's own rows helped to overwrite agrees with them by that alone, so that a head which learned it may
not judge them. Knows arrays only, and nothing of how rows are cleaned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.treatment import Treated


@dataclass(frozen=True, eq=False)
class Lessons:
    """The rows [m] that are learned otherwise while a part [m] is judged, and what is learned of them there.

    `labels`, `share` and `rest` are as in `Treated`; `part_of` is the part of each of all rows, [n].
    """

    part_of: NDArray[np.int64]
    rows: NDArray[np.int64]
    parts: NDArray[np.int64]
    labels: NDArray[np.int64]
    share: NDArray[np.float32]
    rest: NDArray[np.int64]


def lessons_by_part(
    treated: Treated,
    given: NDArray[np.integer],
    parts: NDArray[np.integer],
    halves: NDArray[np.integer],
    again: Callable[[NDArray[np.bool_]], Treated],
) -> Lessons:
    """Treat the rows once more without each part's.

    Args:
        treated: what became of all rows [n].
        given: leaves [n].
        parts: the part of each row, [n].
        halves: [n], what `again` cross-fits by; where all that are left share one half nobody judges them, and they
            are learned as they were given.
        again: what becomes of the rows of a mask [n] when they are all there are.
    """
    found = []
    for part in np.unique(parts):
        kept = parts != part
        rows = np.flatnonzero(kept)
        alone = len(np.unique(halves[rows])) < 2
        other = _as_given(given[rows]) if alone else again(kept)
        same = (
            (other.labels == treated.labels[rows])
            & (other.share == treated.share[rows])
            & (other.rest == treated.rest[rows])
        )
        differs = np.flatnonzero(~same)
        found.append((rows[differs], np.full(len(differs), part), other, differs))
    return Lessons(
        part_of=parts.astype(np.int64),
        rows=np.concatenate([rows for rows, *_ in found]).astype(np.int64),
        parts=np.concatenate([part for _, part, *_ in found]).astype(np.int64),
        labels=np.concatenate([other.labels[differs] for *_, other, differs in found]),
        share=np.concatenate([other.share[differs] for *_, other, differs in found]),
        rest=np.concatenate([other.rest[differs] for *_, other, differs in found]),
    )


def _as_given(given: NDArray[np.integer]) -> Treated:
    n, none = len(given), np.zeros(len(given), bool)
    return Treated(given.astype(np.int64), none, np.ones(n, np.float32), np.full(n, -1, np.int64), none)
