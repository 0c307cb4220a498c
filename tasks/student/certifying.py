"""Issuing a policy: which sample certifies, against whom, and the thresholds that follow.

Audited traffic that people or a stronger model decided comes first, then gold, then the teacher's own answers
(which is agreement, not correctness). What certifies was never used to choose anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.records import Policy
from tasks.student.calibration_profile import calibration_profile
from tasks.student.package import Answers
from tasks.student.partial import PartialAnswers
from tasks.student.thresholds import Certificate, ThresholdPath, accepts, certify
from tasks.student.weighted_bounds import TwoStage
from tasks.taxonomy import truncate

ENOUGH_ROWS = 100
ENOUGH_AUDITS = 500
"""Adjudicated audits are the traffic itself, but one sample of 300 rows in eight proves nothing, one of 560 in six
hundred (notebooks/LOG.md): until there are so many, a larger gold goes first."""


@dataclass(frozen=True, eq=False)
class CalibrationSample:
    """Judged items: the student's answers and the true leaf labels, and who judged (`against`).

    Of a `two_stage` sample not all were judged; those that should have been and were not have no true label ("").
    """

    against: str
    answers: Answers
    truth: Sequence[str]
    cross_fitted: bool = False
    two_stage: TwoStage | None = None

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool [n]: any stated level wrong, which on full paths is the leaf."""
        return np.array(
            [given != true for given, true in zip(self.answers.labels, self.truth, strict=True)], bool
        )

    def wrong_by_level(self, levels: int) -> NDArray[np.bool_]:
        """bool [n, levels]: wrong at that level or above; the last is `wrong`."""
        pairs = list(zip(self.answers.labels, self.truth, strict=True))
        upper = [
            [given != true and truncate(given, depth) != truncate(true, depth) for depth in range(1, levels)]
            for given, true in pairs
        ]
        return np.column_stack([np.array(upper, bool).reshape(len(pairs), levels - 1), self.wrong])


def first_large_enough(samples: Sequence[CalibrationSample]) -> CalibrationSample | None:
    """The first sample with enough rows; else the largest there is; None where there is none.

    Sizes alone decide: to try one sample after the other would spend the allowance twice.
    """
    large = [sample for sample in samples if len(sample.truth) >= ENOUGH_ROWS]
    gold = max((len(sample.truth) for sample in large if sample.against == "gold"), default=0)
    for sample in large:
        if sample.against != "adjudicated" or len(sample.truth) >= min(ENOUGH_AUDITS, gold):
            return sample
    return max(
        (sample for sample in samples if len(sample.truth)),
        key=lambda sample: len(sample.truth),
        default=None,
    )


def issue_policy(
    path: ThresholdPath,
    sample: CalibrationSample | None,
    levels: Sequence[str],
    other: str | None,
    target_error: float,
    confidence: float,
    model_version: str,
    partial: bool = False,
) -> tuple[Policy, Certificate | None]:
    """Certify on the sample and write the outcome down as a policy (not yet stored).

    Where answers may be `partial`, those that stop at an upper level are part of the event that is certified.
    """
    if sample is None:
        sentence = "Nothing can be certified: there is no gold, no audited traffic and no held-out label."
        return Policy(None, target_error, confidence, 0.0, 0, "none", model_version, sentence=sentence), None
    certificate, answered, wrong = certified(
        path, sample, len(levels), other, target_error, confidence, partial
    )
    stages = _stages(sample, answered, wrong)
    thresholds = (
        None
        if certificate.thresholds is None
        else {level: float(value) for level, value in zip(levels, certificate.thresholds, strict=True)}
    )
    policy = Policy(
        thresholds=thresholds,
        target_error=target_error,
        confidence=confidence,
        certified_coverage=certificate.certified_coverage,
        calibration_items=certificate.calibration_items,
        against=sample.against,
        model_version=model_version,
        cross_fitted=sample.cross_fitted,
        sentence=_sentence(certificate, sample, stages),
        partial_coverage=certificate.partial_coverage,
        partial_thresholds=(
            None
            if certificate.partial_thresholds is None
            else dict(zip(levels, certificate.partial_thresholds, strict=False))
        ),
        certificate=_shortened(certificate) | ({"two_stage": stages} if stages else {}),
        calibration_profile=calibration_profile(sample.answers),
    )
    return policy, certificate


def certified(
    path: ThresholdPath,
    sample: CalibrationSample,
    levels: int,
    other: str | None,
    target_error: float,
    confidence: float,
    partial: bool = False,
) -> tuple[Certificate, NDArray[np.bool_], NDArray[np.bool_]]:
    """What the sample proves, and bool [n] twice: rows answered at its thresholds, and those of them stated wrongly."""
    answers, stopping = sample.answers, None
    never = np.array([label == other for label in answers.labels], bool)
    if partial and path.upper is not None and levels > 1:
        wrong = sample.wrong_by_level(levels)
        stopping = PartialAnswers(path, answers.scores, answers.depths, wrong, never)
    certificate = certify(
        path, answers.scores, sample.wrong, target_error, confidence, never, sample.two_stage, stopping
    )
    if stopping is None or certificate.thresholds is None:
        answered = accepts(answers.scores, certificate.thresholds, never)
        return certificate, answered, sample.wrong & answered
    best = max(place for place, point in enumerate(certificate.curve) if point.certified)
    return certificate, *stopping(best)


def path_as_dict(path: ThresholdPath) -> dict[str, Any]:
    """A path as plain values, to be kept with its student."""
    return {
        "coverages": path.coverages.tolist(),
        "thresholds": path.thresholds.tolist(),
        "starts": path.starts.tolist(),
        "upper": None if path.upper is None else path.upper.tolist(),
        "expected_errors": None if path.expected_errors is None else path.expected_errors.tolist(),
    }


def path_from_dict(values: Mapping[str, Any]) -> ThresholdPath:
    """The inverse of `path_as_dict`."""
    return ThresholdPath(
        np.asarray(values["coverages"], np.float64),
        np.asarray(values["thresholds"], np.float64),
        np.asarray(values["starts"], np.int64),
        *(
            None if values.get(name) is None else np.asarray(values[name], np.float64)
            for name in ("upper", "expected_errors")
        ),
    )


def _stages(
    sample: CalibrationSample, answered: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> dict[str, float]:
    """What was judged of the answered items of a two-stage sample, and found wrong; empty for any other sample."""
    how = sample.two_stage
    if how is None:
        return {}
    differing_wrong, checked_wrong = how.errors(wrong)
    return {
        "differing": int((how.all_judged & answered).sum()),
        "differing_wrong": differing_wrong,
        "agreeing": int((~how.all_judged & answered).sum()),
        "checked": int((how.drawn & answered).sum()),
        "checked_wrong": checked_wrong,
        "checked_share": how.share,
    }


def _sentence(certificate: Certificate, sample: CalibrationSample, stages: Mapping[str, float]) -> str:
    sentence = certificate.sentence
    if stages and certificate.thresholds is not None:
        sentence = sentence.replace(
            f"{certificate.errors} of {certificate.accepted} accepted were wrong",
            f"of {certificate.accepted} accepted, all {stages['differing']} on which the teacher differs and a random "
            f"{stages['checked']} of the {stages['agreeing']} others were judged, {stages['differing_wrong']} and "
            f"{stages['checked_wrong']} of them wrong",
        )
    elif stages:
        sentence = sentence.replace("more adjudicated items", "more audited items, partly adjudicated,")
    if sample.against == "teacher":
        sentence = sentence.replace("accepted were wrong", "accepted differed from the teacher")
        sentence = sentence.replace(" errors with", " disagreement with")
        sentence += (
            " This is agreement with the teacher, whose own mistakes eat the allowance: "
            "a few hundred adjudicated or gold items would lift coverage."
        )
    if sample.cross_fitted:
        sentence = sentence.replace(
            ", which proves at most", "; by cross-fitting, which is empirical, at most"
        )
    return sentence


def _shortened(certificate: Certificate) -> dict[str, Any]:
    body = asdict(certificate)
    body["curve"] = [
        {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(point).items()
        }
        for point in certificate.curve
    ]
    return body
