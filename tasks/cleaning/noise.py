"""How many labels are wrong at each level, from the best evidence there is, and the margin that follows from it.

Knows counts and probabilities; which rows they are of and what is done about them is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.student.levels import ROWS_AT_ONCE, Levels, marginals

Source = Literal["gold", "passes", "twins", "out_of_fold", "given"]

LOWEST_MARGIN = 0.4
"""The margin at and above `NOISY`: with 15 % wrong it leaves the fewest wrong, on HWU64 as on BANKING77."""

QUIET, NOISY = 0.05, 0.16
"""Out-of-fold estimate up to which nothing is overwritten, and from which the margin is at its lowest.

Human labels are estimated at 0.03 to 0.06 (what the student contradicts there is its own mistakes), 5 % uniform errors
at 0.08 to 0.10, 15 % at 0.2; but a real teacher's 13 % errors at only 0.06, no more than clean ones. Out-of-fold
evidence alone cannot tell those two apart, so the rule leaves both nearly alone."""

TWINS_DIFFER, TWINS_HIGHEST_MARGIN, TWINS_NOISY = 0.02, 0.65, 0.12
"""The most alike items (`evidence.TWINS_SHARE`) bear one label in clean data, however hard the rest: in HWU64 1.2 % do
not, in BANKING77 0.7 %, with 5 % errors 5 %, with 15 % errors 13 to 15 %; with a real teacher's 13 %, which errs alike
on items alike, 3.2 %. From a share of 2 % on, what the student contradicts is held to be the teacher's mistake: the
margin falls from 0.65 at `QUIET` to the lowest at 0.12. The real teacher's figure was known when this was chosen."""

COUNTED_QUIET, COUNTED_NOISY = 0.02, 0.16
"""The same two ends where errors were counted: on gold that the teacher answered, or by passes that differ.

On the train splits of HWU64 and BANKING77 with simulated errors on hard items the fewest wrong labels were left at a
margin of 0.7 to 0.8 where 5 % were wrong, and at 0.4 where 15 % were; where none were, every margin did harm."""

EASIEST = 0.1
"""No level's ends shrink below this share of the deepest one's, however sure the student is."""

ENOUGH_GOLD, ENOUGH_PAIRS = 100, 200


@dataclass(frozen=True)
class Counted:
    """Errors that were counted, not estimated: `wrong` of `items`, as a share of one pass's answers."""

    wrong: float
    items: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.wrong / self.items if self.items else 0.0


@dataclass(frozen=True)
class Noise:
    """One level's share of wrong labels, what it was learned from, and the margin a contradiction must reach there."""

    share: float
    source: Source
    margin: float


def estimate_noise(P: NDArray[np.floating], y: NDArray[np.integer]) -> float:
    """The share of wrong labels by confident learning (Northcutt, Jiang & Chuang, JAIR 70, 2021, section 3.1).

    A row counts where some label's out-of-fold probability reaches that label's own average among the rows that
    bear it; the estimate is the share of those rows whose likeliest such label is not the given one. It leans low:
    errors that the teacher makes systematically are learned by the student and leave no trace, and those on hard
    items hide among the rows that do not count.

    Args:
        P: out-of-fold probabilities [n, labels].
        y: given labels [n], all labelled.

    Returns:
        A share in [0, 1]; 0 where no row counts.
    """
    given = P[np.arange(len(y)), y].astype(np.float64)
    counts = np.bincount(y, minlength=P.shape[1])
    usual = np.bincount(y, given, P.shape[1]) / np.maximum(counts, 1)
    usual[counts == 0] = np.inf
    confident, differing = 0, 0
    for first in range(0, len(y), ROWS_AT_ONCE):
        here = slice(first, first + ROWS_AT_ONCE)
        reached = np.where(usual <= P[here], P[here], -1.0)
        counted = reached.max(axis=1) >= 0
        confident += int(counted.sum())
        differing += int((reached.argmax(axis=1) != y[here])[counted].sum())
    return differing / confident if confident else 0.0


def counted_by_pairs(said: NDArray[np.integer], levels: Levels) -> list[Counted]:
    """How often one pass errs at each level, from how often two independent ones differ.

    Passes that err independently with probability e and never alike agree with probability (1 - e)^2, so that
    e = 1 - sqrt(1 - share that differs). Errors that they share leave no trace: it leans low, too.

    Args:
        said: leaf indices [m, 2] of what two passes said about each item.
        levels: the tree.
    """
    items, found = len(said), []
    for nodes in levels.maps:
        differ = int((nodes[said[:, 0]] != nodes[said[:, 1]]).sum())
        found.append(Counted(items * (1 - math.sqrt(1 - differ / items)) if items else 0.0, items))
    return found


def margin_for(noise: float, quiet: float = QUIET, noisy: float = NOISY, highest: float = 1.0) -> float:
    """The margin a contradiction must reach: `LOWEST_MARGIN` at `noisy` and above, rising to `highest` at `quiet`.

    Returns:
        A number in [LOWEST_MARGIN, highest], or inf (never) at or below `quiet`.
    """
    if noise <= quiet:
        return math.inf
    quietness = min(1.0, max(0.0, (noisy - noise) / (noisy - quiet)))
    return LOWEST_MARGIN + (highest - LOWEST_MARGIN) * quietness


def noise_by_level(
    y: NDArray[np.integer],
    P: NDArray[np.floating],
    levels: Levels,
    gold: Sequence[Counted] = (),
    passes: Sequence[Counted] = (),
    twins: NDArray[np.integer] | None = None,
) -> Mapping[str, Noise]:
    """Each level's noise with its margin, from the best evidence that there is enough of.

    Errors counted on gold say it all. Passes that differ and out-of-fold evidence both lean low, so the lower of their
    two margins holds; but where passes hardly ever differ, what the student contradicts is the student's mistake.
    Out-of-fold evidence is believed sooner where even the most alike items bear different labels.

    The two ends were measured at the deepest level. An upper one is easier for the student, too, so its contradictions
    mean more: there the ends shrink by the square of the ratio of the student's mean doubt (1 less its highest
    probability). On HWU64 clean labels are estimated at 0.011 above and 0.038 below, the doubt being 0.06 and 0.10.

    Args:
        y: given leaves [n], all labelled; the rows that may be overwritten.
        P: out-of-fold probabilities [n, leaves].
        levels: the tree.
        gold: by level, the teacher's errors on gold it was asked about.
        passes: by level, as `counted_by_pairs` gives them.
        twins: leaves [m, 2] of the most alike items (`evidence.Neighbours.twins`).
    """
    at_levels = marginals(P, levels)
    doubt = [float((1 - marginal.max(axis=1)).mean()) if len(P) else 0.0 for marginal in at_levels]
    found = {}
    for depth, (name, nodes, marginal) in enumerate(zip(levels.names, levels.maps, at_levels, strict=True)):
        ease = min(1.0, max(EASIEST, (doubt[depth] / doubt[-1]) ** 2)) if doubt[-1] > 0 else 1.0
        if gold and gold[depth].items >= ENOUGH_GOLD:
            found[name] = counted_noise(gold[depth].share, "gold", ease)
            continue
        share = estimate_noise(marginal, nodes[y]) if len(y) else 0.0
        found[name] = Noise(share, "out_of_fold", margin_for(share, ease * QUIET, ease * NOISY))
        if twins is not None and twins_differ(nodes[twins], ease * TWINS_DIFFER):
            margin = margin_for(share, ease * QUIET, ease * TWINS_NOISY, TWINS_HIGHEST_MARGIN)
            found[name] = Noise(share, "twins", margin)
        if passes and passes[depth].items >= ENOUGH_PAIRS:
            differing = counted_noise(passes[depth].share, "passes", ease)
            if math.isinf(differing.margin) or differing.margin < found[name].margin:
                found[name] = differing
    return found


def twins_differ(twins: NDArray[np.integer], least: float) -> bool:
    """Whether the two of each row [m, 2] differ in at least such a share of the rows, by one standard error."""
    count = int((twins[:, 0] != twins[:, 1]).sum())
    return count > 0 and count - math.sqrt(count) >= least * len(twins)


def counted_noise(share: float, source: Source, ease: float = 1.0) -> Noise:
    """Noise that was counted, with its margin; `ease` shrinks both ends."""
    return Noise(share, source, margin_for(share, ease * COUNTED_QUIET, ease * COUNTED_NOISY))
