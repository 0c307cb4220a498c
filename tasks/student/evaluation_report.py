"""All that is told of a student's quality on judged items: labels, calibration, confusions, slices, teacher, limits.

Gathers what the modules of one idea each count; chooses nothing, and nothing is trained but the learning curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.student.beside_teacher import BesideTeacher, beside_teacher
from tasks.student.calibration import Reliability, reliability
from tasks.student.comparison import paired_difference
from tasks.student.evaluation import confused_pairs
from tasks.student.label_scores import LabelScore, label_scores
from tasks.student.learning_curve import Curve, learning_curve
from tasks.student.limits import Evidence, Limit, limit_of
from tasks.student.package import Answers
from tasks.student.retrain import Trained
from tasks.student.slices import Slice, by_content, scored_slices
from tasks.student.training import Rows

RAW = "raw labels"
MOST_PAIRS = 50


@dataclass(frozen=True, eq=False)
class LevelReport:
    """One level: every label's scores, frequent mistakes (true, answered, count), confidence against accuracy."""

    level: str
    labels: list[LabelScore]
    confused: list[tuple[int, int, int]]
    calibration: Reliability
    teacher: BesideTeacher | None


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """The student on the rows that judge it.

    Attributes:
        levels: the first level first.
        slices: of the deepest level; empty without gold.
        against: by candidate, its accuracy at the deepest level less the student's, (value, low, high), paired at 95 %.
        curve: None where there are too few rows for one.
        limit: what to improve first.
    """

    levels: tuple[LevelReport, ...]
    slices: list[Slice]
    against: Mapping[str, tuple[float, float, float]]
    curve: Curve | None
    limit: Limit


def judged_answers(trained: Trained) -> tuple[NDArray[np.int64], Answers]:
    """(true leaf [n], what the student answered) of the rows that it is judged on."""
    index = trained.student.taxonomy.leaf_index
    if trained.gold is not None and trained.judged_on == "gold":
        sample = trained.gold.sample("gold", trained.gold.role("evaluation"))
    else:
        sample = trained.held_out
    return np.array([index[label] for label in sample.truth], np.int64), sample.answers


def evaluation_report(
    trained: Trained,
    rows: Rows,
    said: pl.DataFrame,
    slices: pl.DataFrame,
    noise: float | None,
    overwritten: float,
    curve: Curve | None = None,
    tried: Sequence[str] = (),
) -> EvaluationReport:
    """Count all of it.

    Args:
        trained: the student and the other candidates.
        rows: what they learned from.
        said: key, said: the teacher's answers about gold.
        slices: key and further columns of gold.
        noise: share of the labels estimated wrong at the deepest level, before cleaning.
        overwritten: share of them that cleaning overwrote.
        curve: the learning curve, where it was drawn for nearly these rows before.
        tried: candidates that were compared then.
    """
    levels, names = trained.student.levels, trained.student.taxonomy.levels
    truth, answers = judged_answers(trained)
    told = _teacher_leaves(trained, said)
    both = told >= 0
    teacher = [
        beside_teacher(name, nodes[truth[both]], nodes[answers.leaf[both]], nodes[told[both]])
        if both.any()
        else None
        for name, nodes in zip(names, levels.maps, strict=True)
    ]
    curve = curve or learning_curve(
        rows.vectors,
        rows.labels,
        rows.raw_labels,
        rows.folds,
        rows.weight,
        n_leaves=levels.n_leaves,
        strength=_strength(trained),
    )
    evidence = Evidence(
        teacher=teacher[-1],
        noise=noise,
        overwritten=overwritten,
        curve=curve,
        out_of_fold=_out_of_fold(trained, rows),
        winner=trained.student.kind,
        tried=tried,
    )
    return EvaluationReport(
        levels=tuple(
            _level(name, nodes, truth, answers, depth, teacher[depth])
            for depth, (name, nodes) in enumerate(zip(names, levels.maps, strict=True))
        ),
        slices=_slices(trained, rows, truth, answers, slices),
        against=_against(trained, truth),
        curve=curve,
        limit=limit_of(trained.winner_scores, evidence, trained.judged_on),
    )


def _level(
    name: str,
    nodes: NDArray[np.int32],
    truth: NDArray[np.int64],
    answers: Answers,
    depth: int,
    teacher: BesideTeacher | None,
) -> LevelReport:
    true, answered = nodes[truth], nodes[answers.leaf]
    return LevelReport(
        name,
        label_scores(true, answered),
        confused_pairs(true, answered, MOST_PAIRS),
        reliability(answers.confidences[:, depth], true == answered),
        teacher,
    )


def _teacher_leaves(trained: Trained, said: pl.DataFrame) -> NDArray[np.int64]:
    """The leaf that the teacher named for each judged row; -1 where it was not asked, and for held-out rows."""
    if trained.gold is None or trained.judged_on != "gold":
        return np.full(len(trained.held_out.truth), -1, np.int64)
    index = trained.student.taxonomy.leaf_index
    judged = trained.gold.frame.filter(pl.Series(trained.gold.role("evaluation"))).select("key")
    found = judged.join(said.select("key", "said"), on="key", how="left", maintain_order="left")
    return np.array([index.get(label, -1) for label in found["said"].to_list()], np.int64)


def _slices(
    trained: Trained, rows: Rows, truth: NDArray[np.int64], answers: Answers, columns: pl.DataFrame
) -> list[Slice]:
    if trained.gold is None or trained.judged_on != "gold":
        return []
    real = rows.labels[(rows.labels >= 0) & ~rows.written]
    taught = np.bincount(real, minlength=trained.student.levels.n_leaves)[truth]
    gold = trained.gold.frame.filter(pl.Series(trained.gold.role("evaluation")))
    named = gold.select("key").join(columns, on="key", how="left", maintain_order="left").drop("key")
    texts: Sequence[str | None] = gold["text"].to_list() if "text" in gold.columns else [None] * gold.height
    found: dict[str, Sequence[str | None]] = dict(named.to_dict(as_series=False))
    return scored_slices(found | by_content(texts, taught), answers.leaf == truth)


def _against(trained: Trained, truth: NDArray[np.int64]) -> dict[str, tuple[float, float, float]]:
    """Every other candidate's accuracy less the student's; the student before cleaning is one of them."""
    own = trained.answered[trained.student.kind] == truth
    return {
        name: paired_difference(leaf == truth, own)
        for name, leaf in trained.answered.items()
        if name != trained.student.kind
    }


def _out_of_fold(trained: Trained, rows: Rows) -> dict[str, float]:
    judge = rows.raw_labels >= 0
    return {
        candidate.name: float((candidate.out_of_fold.argmax(axis=1) == rows.raw_labels)[judge].mean())
        for candidate in trained.candidates
        if candidate.name != RAW
    }


def _strength(trained: Trained) -> float | None:
    """The regularisation that a linear head was tuned to, where one was among the candidates."""
    tuned = [
        candidate.settings["strength"]
        for candidate in trained.candidates
        if candidate.name != RAW and "strength" in candidate.settings
    ]
    return float(tuned[0]) if tuned else None
