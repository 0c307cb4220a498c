"""Which audited items have to be judged before a two-stage sample of them may certify a student, and in which order.

Where student and teacher differ an item is judged for certain, where they agree by the fall of a coin. Knows answers,
labels and a threshold path; who judges, and where it is written down, is for others to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.student.certifying import CalibrationSample, certified
from tasks.student.package import Answers
from tasks.student.thresholds import ThresholdPath
from tasks.student.weighted_bounds import TwoStage

FALSE_AGREEMENTS = 24
"""How many wrong rows a check of agreements should meet where all errors of a sample at the target lie among them.

Fewer checks save labels and prove much less: notebooks/LOG.md has both for 8 to 32.
"""


def share_to_check(rows: int, target_error: float) -> float:
    """The share of agreements to check: enough for the target, less of a larger sample; in steps of a hundredth."""
    return min(1.0, float(np.ceil(100 * FALSE_AGREEMENTS / max(1.0, rows * target_error))) / 100)


def drawn_by_coin(keys: Sequence[bytes], secret: str, share: float) -> NDArray[np.bool_]:
    """bool [n]: a share of all items, by a keyed hash: always the same ones, and among them those of a smaller share.

    Nobody without the secret can tell which; the audit's own coin is another one.
    """
    coin = hashlib.blake2b(digest_size=8, key=secret.encode()[:64], person=b"agreements")
    return np.array([_toss(coin.copy(), key) < share * (1 << 64) for key in keys], bool)


def _toss(coin: hashlib.blake2b, key: bytes) -> int:
    coin.update(key)
    return int.from_bytes(coin.digest(), "big")


@dataclass(frozen=True)
class Terms:
    """What is to be certified: along which path, what error is allowed, with what confidence.

    `levels` are how many there are, `other` is never answered; `partial` answers may stop at an upper level.
    """

    path: ThresholdPath
    levels: int
    other: str | None
    target_error: float
    confidence: float
    partial: bool = False


@dataclass(frozen=True, eq=False)
class Adjudication:
    """A two-stage sample as far as it has been judged.

    Attributes:
        keys: of the n items.
        answers: of the student about them.
        teacher: what the teacher said; None where it has not.
        decided: what a person or an adjudicator said; None where nobody has.
        drawn: bool [n], items whose coin came up.
        share: probability with which it does.
    """

    keys: Sequence[bytes]
    answers: Answers
    teacher: Sequence[str | None]
    decided: Sequence[str | None]
    drawn: NDArray[np.bool_]
    share: float

    @property
    def differs(self) -> NDArray[np.bool_]:
        """bool [n]: student and teacher differ; an item without the teacher's answer is like one."""
        return np.array([a != b for a, b in zip(self.answers.labels, self.teacher, strict=True)], bool)

    @property
    def open(self) -> NDArray[np.bool_]:
        """bool [n]: nobody has decided."""
        return np.array([label is None for label in self.decided], bool)

    @property
    def two_stage(self) -> TwoStage:
        """How the items come to be judged."""
        differs = self.differs
        return TwoStage(differs, self.drawn & ~differs, self.share, open=self.open)

    def sample(self) -> CalibrationSample:
        """To certify on; what is open counts as wrong where it should have been judged."""
        truth = [label or "" for label in self.decided]
        two_stage = self.two_stage if self.open.any() else None
        return CalibrationSample("adjudicated", self.answers, truth, two_stage=two_stage)

    def in_reach(self, terms: Terms) -> NDArray[np.bool_]:
        """bool [n]: items on which it can still depend what is certified.

        They are what would be answered if everything open turned out right. Looser points fail already, whatever is
        decided. Where nothing in reach is open, all points up to there have been tested as if all items had been
        judged, and what is left out are tests that fail: so the certificate is as valid, however one came there.
        """
        return self._answered([a or b for a, b in zip(self.decided, self.answers.labels, strict=True)], terms)

    def large_enough(self, terms: Terms) -> bool:
        """Whether so many items could certify anything if all of them were right."""
        return bool(self._answered(self.answers.labels, terms).any())

    def waiting(self, terms: Terms) -> NDArray[np.int64]:
        """Places of the items in reach that have to be judged before anything is certified, the surest first."""
        places = np.flatnonzero(self.in_reach(terms) & self.two_stage.counts & self.open)
        return places[np.argsort(-self.answers.confidence[places], kind="stable")]

    def _answered(self, truth: Sequence[str], terms: Terms) -> NDArray[np.bool_]:
        quick = replace(self.two_stage, bounds=False)
        sample = CalibrationSample("adjudicated", self.answers, truth, two_stage=quick)
        _, answered, _ = certified(
            terms.path, sample, terms.levels, terms.other, terms.target_error, terms.confidence, terms.partial
        )
        return answered
