"""Nested cross-fitting: each row judged by a head none of whose lessons owe anything to that row or its part.

Where cleaning has overwritten labels, leaving a row out of training is not enough: its label has helped to overwrite
its neighbours', which then teach what it says. Knows heads and arrays; where the lessons come from is decided above.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.crossfit import unjudged_probabilities
from tasks.student.ensemble import EnsembleHead
from tasks.student.heads import Head
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead

Lesson = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]
"""Vectors [m, d], leaf indices [m] and weights [m] to learn from."""


@dataclass(frozen=True, eq=False)
class Apart:
    """`part_of` int64 [n], each row's part, -1 for rows that nobody judges; `lesson` is learned to judge a part."""

    part_of: NDArray[np.int64]
    lesson: Callable[[int], Lesson]


def judged_apart(
    head: Head, X: NDArray[np.float32], apart: Apart, *, n_leaves: int, seed: int
) -> NDArray[np.float32]:
    """Each row judged by a head with the same settings that had its part's lesson.

    Args:
        head: tuned; what it has learned plays no part.
        X: float32 [n, d].
        apart: the parts of these rows.
        n_leaves: columns of the result.
        seed: of training.

    Returns:
        float32 [n, n_leaves], rows summing to 1; uniform for rows that nobody judges.
    """
    P = unjudged_probabilities(len(X), n_leaves)
    for part in np.unique(apart.part_of[apart.part_of >= 0]).tolist():
        vectors, labels, weight = apart.lesson(part)
        judge = _untaught(head).fit(vectors, labels, weight, n_leaves=n_leaves, seed=seed)
        held_out = np.flatnonzero(apart.part_of == part)
        P[held_out] = judge.predict_proba(X[held_out])
    return P


def _untaught(head: Head) -> Head:
    """One with the same settings and temperature that begins anew, from no weights that others left."""
    again = copy(head)
    if isinstance(again, EnsembleHead):
        again.linear = _linear(again.linear)
        again.others = {name: _untaught(other) for name, other in again.others.items()}
    elif isinstance(again, LinearHead):
        return _linear(again)
    elif isinstance(again, MlpHead):
        again.starts, again.ends = {}, {}
    return again


def _linear(head: LinearHead) -> LinearHead:
    again = copy(head)
    again.starts, again.ends, again._near = {}, {}, None
    return again
