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
from tasks.student.package import Answers
from tasks.student.thresholds import Certificate, ThresholdPath, certify

ENOUGH_ROWS = 100


@dataclass(frozen=True, eq=False)
class CalibrationSample:
    """Judged items: the student's answers and the true leaf labels, and who judged (`against`)."""

    against: str
    answers: Answers
    truth: Sequence[str]
    cross_fitted: bool = False

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool [n]: any stated level wrong, which on full paths is the leaf."""
        return np.array(
            [given != true for given, true in zip(self.answers.labels, self.truth, strict=True)], bool
        )


def first_large_enough(samples: Sequence[CalibrationSample]) -> CalibrationSample | None:
    """The first sample with enough rows; else the largest there is; None where there is none."""
    for sample in samples:
        if len(sample.truth) >= ENOUGH_ROWS:
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
) -> tuple[Policy, Certificate | None]:
    """Certify on the sample and write the outcome down as a policy (not yet stored)."""
    if sample is None:
        sentence = "Nothing can be certified: there is no gold, no audited traffic and no held-out label."
        return Policy(None, target_error, confidence, 0.0, 0, "none", model_version, sentence=sentence), None
    never = np.array([label == other for label in sample.answers.labels], bool)
    certificate = certify(path, sample.answers.confidences, sample.wrong, target_error, confidence, never)
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
        sentence=_sentence(certificate, sample),
        certificate=_shortened(certificate),
    )
    return policy, certificate


def path_as_dict(path: ThresholdPath) -> dict[str, Any]:
    """A path as plain values, to be kept with its student."""
    return {
        "coverages": path.coverages.tolist(),
        "thresholds": path.thresholds.tolist(),
        "starts": path.starts.tolist(),
    }


def path_from_dict(values: Mapping[str, Any]) -> ThresholdPath:
    """The inverse of `path_as_dict`."""
    return ThresholdPath(
        np.asarray(values["coverages"], np.float64),
        np.asarray(values["thresholds"], np.float64),
        np.asarray(values["starts"], np.int64),
    )


def _sentence(certificate: Certificate, sample: CalibrationSample) -> str:
    sentence = certificate.sentence
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
