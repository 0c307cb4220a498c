"""What becomes of a label that is contradicted: overwritten, left out, shared with its rival, or asked about again.

The same rows whatever the mode, so that modes can be compared. Knows arrays only, and nothing of how the rows were
found; raw labels stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning.relabel import Cleaning

Mode = Literal["relabel", "drop", "reweight", "re-ask"]


@dataclass(frozen=True, eq=False)
class Treated:
    """What training learns.

    Attributes:
        labels: int64 [n], the label to learn.
        overwritten: bool [n], where it is not the given one.
        share: float32 [n] in [0, 1], of the row's weight that `labels` gets: 0 where the row is left out.
        rest: int64 [n], the label that gets what is left of the weight; -1 where none does.
        suspects: bool [n], contradicted and yet not overwritten: for review.
    """

    labels: NDArray[np.int64]
    overwritten: NDArray[np.bool_]
    share: NDArray[np.float32]
    rest: NDArray[np.int64]
    suspects: NDArray[np.bool_]


def treat(given: NDArray[np.integer], cleaning: Cleaning, disputed: NDArray[np.bool_], mode: Mode) -> Treated:
    """Apply a mode to what cleaning proposes.

    `relabel` takes the proposal. `drop` learns nothing from the contradicted rows. `reweight` learns both labels
    from them, weighted by the evidence for each, which is cross-entropy against a soft label of two entries
    (soft bootstrapping of Reed et al., arXiv 1412.6596, kept to the two labels in question). `re-ask` leaves them
    as they are until the teacher has been asked again. Disputed rows have no label of their own to defend: of them
    all modes take what the third vote chose.

    Args:
        given: leaves [n].
        cleaning: the proposal.
        disputed: bool [n].
        mode: see above.
    """
    n, given = len(given), np.asarray(given, np.int64)
    share, rest = np.ones(n, np.float32), np.full(n, -1, np.int64)
    if mode == "relabel":
        return Treated(cleaning.labels, cleaning.overwritten, share, rest, cleaning.held_back)
    contradicted = cleaning.overwritten & ~disputed
    labels = np.where(contradicted, given, cleaning.labels)
    if mode == "drop":
        share[contradicted] = 0.0
    elif mode == "reweight":
        mine = np.maximum(cleaning.confidence - cleaning.gain, 0.0)
        share[contradicted] = (mine / np.maximum(mine + cleaning.confidence, 1e-12))[contradicted]
        rest[contradicted] = cleaning.favourite[contradicted]
    return Treated(labels, labels != given, share, rest, cleaning.held_back | contradicted)


def two_of_three(
    given: NDArray[np.integer], favourite: NDArray[np.integer], again: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The given label, the held-out student's favourite and the teacher's second answer vote.

    Args:
        given: leaves [n].
        favourite: leaves [n], each another than the given one.
        again: leaves [n]; -1 where the second answer is no label.

    Returns:
        int64 [n], the favourite where the second answer is the same, else the given label; and bool [n], where two
        of the three agreed on that.
    """
    changed = again == favourite
    return np.where(changed, favourite, given).astype(np.int64), changed | (again == given)
