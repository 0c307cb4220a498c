"""The judged items a certificate may rest on, the most trustworthy first, seen by one student.

Reads audits and gold, asks the student about them; what the sample proves is `certifying`'s business, what has to be
judged first `adjudication`'s.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from tasks.embedding.vectors import vectors_of
from tasks.labeling.adjudicating import decided_labels
from tasks.project import Project
from tasks.records import half_of
from tasks.store import Store
from tasks.store.database import get_meta
from tasks.store.items import content_of, read_contents
from tasks.store.moved import today, today_or_then
from tasks.store.traffic import audits
from tasks.student.adjudication import Adjudication, Terms, drawn_by_coin, share_to_check
from tasks.student.certifying import CalibrationSample, path_from_dict
from tasks.student.package import Answers, Student
from tasks.student.retrain import Judged, judge_with


def inputs_of(project: Project, student: Student, items: pl.DataFrame) -> Any:
    """What the student reads of the items (key and text or image): their vectors, or their images."""
    if student.reads_images:
        return content_of(items, "image")
    return vectors_of(student.encoder, project.cache_root, items, student.modality)


def judge_today(project: Project, student: Student, rows: pl.DataFrame, contents: pl.DataFrame) -> Judged:
    """What a student says about judged items (key, label, role), in the labels of today; contents in the same order."""
    judged = judge_with(student, rows, inputs_of(project, student, contents))
    return replace(judged, answers=_in_labels_of_today(project, judged.answers))


def samples(project: Project, store: Store, student: Student, gold: Judged | None) -> list[CalibrationSample]:
    """Adjudicated audits, then gold, then audits by the teacher; those of them there are.

    Audits are adjudicated where all were decided, or everything that a two-stage sample needs; else by the teacher.

    Args:
        project: names the window of audits, the terms and the cache.
        store: has the audits.
        student: is to be certified.
        gold: the student on gold; None where there is no gold.
    """
    calibrated, gold_sample = None, []
    if gold is not None:
        calibrated = gold.frame.filter(pl.col("role") == "temperature").select("key")
        fitted = gold.frame["key"].is_in(fitted_on(student)["key"].implode()).to_numpy()
        gold_sample = [gold.sample("gold", gold.role("calibration") & ~fitted)]
    audited = audited_sample(project, store, student, calibrated)
    if audited is None:
        return gold_sample
    terms = terms_of(project, student)
    if not audited.open.any() or (audited.large_enough(terms) and not len(audited.waiting(terms))):
        return [audited.sample(), *gold_sample]
    return [*gold_sample, *_by_teacher(audited)]


def fitted_on(student: Student) -> pl.DataFrame:
    """key of the gold that its temperature was fitted on, whatever role less or more gold gives it today."""
    keys = [bytes.fromhex(key) for key in student.about.get("temperature_keys", [])]
    return pl.DataFrame({"key": keys}, schema={"key": pl.Binary})


def terms_of(project: Project, student: Student) -> Terms:
    """What the project wants certified of a student."""
    routing = project.routing
    return Terms(
        path_from_dict(student.about["path"]),
        len(student.taxonomy.levels),
        student.taxonomy.other,
        routing.target_error,
        routing.confidence,
        routing.partial,
    )


def audited_sample(
    project: Project, store: Store, student: Student, without: pl.DataFrame | None = None
) -> Adjudication | None:
    """The audited cache misses that may certify, as the student answers them and as far as they are decided.

    Args:
        project: names the window of audits, the share to check and the cache.
        store: has the audits.
        student: is to be certified.
        without: keys (a column `key`) that judge nothing, beside those its temperature was fitted on.

    Returns:
        None where nothing was audited.
    """
    rows = audits(store, project.routing.audit_window_days, misses_only=True)
    role = pl.Series([half_of(key) for key in rows["key"].to_list()], dtype=pl.String)
    rows = rows.filter(role == "calibration")  # the other half is the gate's
    fixed = project.routing.checked_agreements
    share = share_to_check(rows.height, project.routing.target_error) if fixed is None else fixed
    for known in (fitted_on(student), *([] if without is None else [without])):
        rows = rows.join(known, on="key", how="anti", maintain_order="left")
    if not rows.height:
        return None
    contents = rows.select("key").join(
        read_contents(store, rows), on="key", how="left", maintain_order="left"
    )
    answers = student.answers(inputs_of(project, student, contents))
    keys = rows["key"].to_list()
    secret = get_meta(store, "audit_secret", secrets.token_hex(16))
    said = Adjudication(
        keys=keys,
        answers=_in_labels_of_today(project, answers),
        teacher=today(rows["teacher_label"], project.taxonomy).to_list(),
        decided=[None] * rows.height,
        drawn=drawn_by_coin(keys, secret, share),
        share=share,
    )
    return decided_by_now(project, store, said)


def decided_by_now(project: Project, store: Store, audited: Adjudication) -> Adjudication:
    """The same items with what has been decided about them."""
    keys = pl.DataFrame({"key": audited.keys}, schema={"key": pl.Binary})
    decided = keys.join(
        decided_labels(store, keys, project.taxonomy), on="key", how="left", maintain_order="left"
    )
    return replace(audited, decided=decided["label"].to_list())


def _by_teacher(audited: Adjudication) -> list[CalibrationSample]:
    """The best word there is about each item, which is mostly the teacher's."""
    words = [decided or said for decided, said in zip(audited.decided, audited.teacher, strict=True)]
    rows = np.array([row for row, word in enumerate(words) if word is not None], np.int64)
    truth = [word for word in words if word is not None]
    return [CalibrationSample("teacher", audited.answers.take(rows), truth)] if truth else []


def _in_labels_of_today(project: Project, answers: Answers) -> Answers:
    return replace(answers, labels=today_or_then(answers.labels, project.taxonomy))
