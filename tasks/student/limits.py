"""What limits a student's quality most, in one sentence: its labels, its data, its head or its encoder.

Shares out the error at the deepest level over the four by evidence; where the evidence comes from is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.student.beside_teacher import BesideTeacher
from tasks.student.evaluation import LevelScores
from tasks.student.learning_curve import Curve

CAUSES = ("labels", "data", "head", "encoder")
SMALL = 0.02
"""Below this error nothing limits in particular; what is left is often gold's own mistakes."""

LOST_PER_NOISE = 0.3
"""Accuracy that a share of wrong labels costs, where nothing counted it: 0.27 to 0.33 of that share on BANKING77 and
CLINC150 with 15 % and 25 % simulated errors, as a student averages most wrong labels away."""

MENDED = 0.5
"""Wrong labels fewer an overwritten one: three of four overwrites mend, and one of four does harm."""

ENOUGH_GOLD = 50


@dataclass(frozen=True)
class Evidence:
    """What is known beside the scores; None is unknown.

    Attributes:
        teacher: the student beside its teacher at the deepest level, on gold.
        noise: share of wrong labels among those learned from, before cleaning.
        overwritten: share of the labels that cleaning overwrote.
        curve: the learning curve of a linear head.
        out_of_fold: accuracy of each candidate on rows held out, by name.
        winner: which of them is the student.
        tried: candidates that an earlier night compared it with, which also drew the curve; empty where this one did.
    """

    teacher: BesideTeacher | None
    noise: float | None
    overwritten: float
    curve: Curve | None
    out_of_fold: Mapping[str, float]
    winner: str
    tried: Sequence[str] = ()


@dataclass(frozen=True)
class Limit:
    """The verdict.

    Attributes:
        cause: one of `CAUSES`; None where hardly anything is wrong.
        sentence: the verdict with its numbers and what to do.
        shares: by cause, the accuracy that mending it alone would add at most, in [0, 1]; they may overlap.
        why: by cause, the evidence in a few words.
    """

    cause: str | None
    sentence: str
    shares: Mapping[str, float]
    why: Mapping[str, str]


def limit_of(scores: Sequence[LevelScores], evidence: Evidence, judged_on: str = "gold") -> Limit:
    """Which of the four is behind the largest part of the error at the deepest level.

    - labels: how much more often it is wrong where its teacher is than elsewhere. On BANKING77's dev split, answers of
      four recorded models, that says 5.6, 11.1, 30.4 and 29.2 points; teaching the human labels of the same rows
      instead gains 4.6, 10.4, 37.3 and 36.1. Where the teacher was not asked about gold: by how much it agrees with
      labels held out more than it is right on gold, at least the estimated noise, less what cleaning mended, times
      what a student loses by it. Held-out labels that judge count as errors if wrong.
    - data: what the learning curve promises of rows without end, at most the gap between taught and held-out rows.
    - head: by how much another candidate, or the neighbours in the same vectors, beat the student out of fold.
    - encoder: the rest. No head that was tried finds it in the vectors, and more rows would not.

    Args:
        scores: one a level, the first level first.
        evidence: all else that is known.
        judged_on: gold or heldout.
    """
    deepest = scores[-1]
    wrong = 1 - deepest.top1
    found = {
        "labels": _labels(evidence, deepest.top1, judged_on),
        "data": _data(evidence.curve, wrong, " at the last full search" if evidence.tried else ""),
        "head": _head(evidence),
    }
    shares = {cause: min(wrong, share) for cause, (share, _) in found.items()}
    shares["encoder"] = max(0.0, wrong - sum(shares.values()))
    far = 1 - deepest.top5
    why = {cause: words for cause, (_, words) in found.items()}
    why["encoder"] = (
        f"no head and no more rows would find the rest in these vectors ({far:.1%} not in the first five)"
    )
    first_three = f"{deepest.top1:.1%} are right at {deepest.level}, {deepest.top3:.1%} among the first three"
    if wrong < SMALL:
        return Limit(None, f"Nothing limits quality much: {first_three}.", shares, why)
    cause = max(CAUSES, key=shares.__getitem__)
    others = ", ".join(f"{other} {100 * shares[other]:.1f}" for other in CAUSES if other != cause)
    begins = (
        f"; most errors already begin at {scores[0].level}"
        if len(scores) > 1 and 1 - scores[0].top1 > wrong / 2
        else ""
    )
    verb = "limit" if cause in ("labels", "data") else "limits"
    sentence = (
        f"The {cause} {verb} quality most, by up to {100 * shares[cause]:.1f} of {100 * wrong:.1f} points of error "
        f"({others}): {first_three}{begins}; {why[cause]}, so {_remedy(cause, deepest, evidence)}."
    )
    return Limit(cause, sentence, shares, why)


def _labels(evidence: Evidence, right: float, judged_on: str) -> tuple[float, str]:
    both = evidence.teacher
    if both is not None and both.items >= ENOUGH_GOLD:
        shared, there, elsewhere = both.same + both.different, both.teacher_wrong, both.own_rate
        words = (
            f"of {there:,} gold items that the teacher gets wrong it gets {shared:,} wrong, too ({both.same:,} of them "
            f"alike), of the others {elsewhere:.1%}"
        )
        return max(0.0, (shared - there * elsewhere) / both.items), words
    if evidence.noise is None:
        return 0.0, "nothing is known of how many labels are wrong"
    if judged_on != "gold":
        return evidence.noise, f"about {evidence.noise:.1%} of the labels it is judged by are estimated wrong"
    left = max(0.0, evidence.noise - MENDED * evidence.overwritten)
    lost, agreed = LOST_PER_NOISE * left, evidence.out_of_fold[evidence.winner]
    if agreed - right > lost:
        # What it repeats is at least that: agreement less being right is shared mistakes less what it gains.
        words = f"it agrees with {agreed:.1%} of the labels held out, which is more than it is right on gold"
        return agreed - right, words
    return lost, f"about {left:.1%} of the labels that it learned from are estimated wrong"


def _data(curve: Curve | None, wrong: float, then: str) -> tuple[float, str]:
    if curve is None:
        return wrong, "there are too few rows even to tell what more of them would bring"
    last, half = curve.points[-1], curve.points[-2]
    return curve.endless, (
        f"from {half.rows:,} to {last.rows:,} rows a linear head gained {100 * (last.held_out - half.held_out):+.1f} "
        f"points and twice as many would bring about {100 * curve.doubling:.1f} ({last.taught:.1%} right on rows that "
        f"taught it, {last.held_out:.1%} on others{then})"
    )


def _head(evidence: Evidence) -> tuple[float, str]:
    own = evidence.out_of_fold[evidence.winner]
    rivals = {name: share for name, share in evidence.out_of_fold.items() if name != evidence.winner}
    if evidence.curve is not None:
        # The curve's own linear head stands for the winner where the winner had more rows or other folds to show it.
        own = max(own, evidence.curve.points[-1].held_out)
        rivals["a vote of neighbours"] = evidence.curve.neighbours
    if not rivals:
        return 0.0, "no other head was tried"
    name = max(rivals, key=rivals.__getitem__)
    ahead = rivals[name] - own
    if ahead <= 0:
        return (
            0.0,
            f"nothing else does better on the same vectors ({name} {rivals[name]:.1%} against {own:.1%})",
        )
    return (
        ahead,
        f"{name} is right on {rivals[name]:.1%} of the held-out rows, {evidence.winner} on {own:.1%}",
    )


def _remedy(cause: str, deepest: LevelScores, evidence: Evidence) -> str:
    if cause == "labels":
        return (
            "ask the teacher again about suspects, review what the two disagree on, or word the labels better"
        )
    if cause == "data":
        return "label more items, first for the labels with few"
    if cause == "head":
        missing = [
            name for name in ("mlp", "ensemble") if name not in {*evidence.out_of_fold, *evidence.tried}
        ]
        tried = f"add {' and '.join(missing)} to" if missing else "put another head into"
        return f"{tried} student.candidates"
    if deepest.top3 - deepest.top1 >= 1 - deepest.top5:
        return "train the encoder further (candidate finetuned), or merge or reword what it cannot tell apart"
    return "try another encoder, or give the items more to go by"
