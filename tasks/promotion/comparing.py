"""Champion and challenger on the same items: what the gate is given, from gold, audited traffic or held-out labels.

Loads both versions and lets them answer; what follows from it is the gate's to say, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from tasks.errors import TrainingError
from tasks.project import Project
from tasks.promotion.gate import Judged, Verdict, first_promotion, judge, succession, within_latency
from tasks.promotion.registry import Registry
from tasks.records import Policy
from tasks.sources import read_gold
from tasks.store import Store
from tasks.store.items import newest_items, read_contents
from tasks.store.moved import current_labels, today, today_or_then
from tasks.store.policies import policy_in_force
from tasks.store.traffic import audits
from tasks.student.judged import judged_audits, with_roles
from tasks.student.package import Student
from tasks.student.seen_rows import not_learned

WouldAnswer = Callable[[Student, Policy | None, Any], Sequence[bool]]


def compare(
    project: Project,
    store: Store,
    registry: Registry,
    champion: str | None,
    challenger: str,
    would_answer: WouldAnswer,
    p95_ms: Callable[[Student, Policy | None], float],
) -> tuple[Verdict, bool]:
    """What the gate says of the challenger, and whether it could serve at all.

    Args:
        project: its settings.
        store: has the items, the audits and the policies.
        registry: has both versions.
        champion: the version that serves; None where none does.
        challenger: the version that would.
        would_answer: which answers of a student its policy lets out, bool [n].
        p95_ms: measures the latency of single items, where the project limits it.
    """
    try:
        new, policy = registry.load(challenger), policy_in_force(store, challenger)
    except TrainingError as error:
        return Verdict(False, [f"the challenger does not load: {error}"]), False
    if not _scores(project, store, new):
        return Verdict(False, ["the challenger gives no probabilities"]), False
    verdict = _compared(project, store, registry, champion, challenger, (new, policy), would_answer)
    if (most_ms := project.promotion.max_latency_ms) is not None:
        verdict = within_latency(verdict, p95_ms(new, policy), most_ms)
    return verdict, True


def _compared(
    project: Project,
    store: Store,
    registry: Registry,
    champion: str | None,
    challenger: str,
    new: tuple[Any, Policy | None],
    would_answer: WouldAnswer,
) -> Verdict:
    coverage = new[1].certified_coverage if new[1] else 0.0
    verified = project.gold is not None
    if champion is None:
        return first_promotion(coverage, verified)
    try:
        old = registry.load(champion), policy_in_force(store, champion)
    except TrainingError as error:
        remedy = "nothing to compare with: bring them back, or `flywheel promote --force REASON`"
        return Verdict(False, [f"the champion does not load: {error.problem}", remedy])
    if _knows_nothing(project, old[0]):
        return succession(coverage, verified)
    gold = with_roles(read_gold(project))
    for version in (champion, challenger):
        gold = not_learned(project, store, version, gold)
    samples = _paired(project, store, gold, old, new, would_answer) or _held_out(
        project, champion, challenger, old[0]
    )
    lapsed = old[1] is None or old[1].thresholds is None
    leaves = _known(project, new[0])
    return judge(samples, project.taxonomy.levels, leaves, project.promotion.margin, lapsed)


def _scores(project: Project, store: Store, student: Any) -> bool:
    """Whether the student gives a finite probability for some item at hand."""
    from tasks.student.samples import inputs_of

    P = student.probabilities(inputs_of(project, student, newest_items(store, 1)))
    return bool(np.isfinite(P).all())


def _paired(
    project: Project,
    store: Store,
    gold: pl.DataFrame,
    champion: tuple[Any, Policy | None],
    challenger: tuple[Any, Policy | None],
    would_answer: WouldAnswer,
) -> list[Judged]:
    """Gold's evaluation half and the audits of the same half, each judged by both."""
    gold = gold.filter(pl.col("role") == "evaluation")
    watched = audits(store, project.routing.audit_window_days, misses_only=True)
    audited = judged_audits(watched, current_labels(store, project.taxonomy))
    audited = (
        audited.with_columns(today(audited["label"], project.taxonomy))
        .filter(pl.col("role") == "evaluation")
        .join(read_contents(store, audited), on="key", how="inner", maintain_order="left")
    )
    known, samples = _known(project, champion[0]), []
    for name, rows in (("gold", gold), ("audited traffic", audited)):
        shared = rows.filter(pl.col("label").is_in(known))
        if shared.height:
            judged = _judge_pair(project, name, shared, champion, challenger, would_answer)
            samples.append(replace(judged, left_out=rows.height - shared.height))
    return samples


def _known(project: Project, student: Any) -> list[str]:
    """What a student's labels are today."""
    return today_or_then(student.taxonomy.leaves, project.taxonomy)


def _knows_nothing(project: Project, student: Any) -> bool:
    """Whether not one of today's labels, but for `other`, is among a student's."""
    today = set(project.taxonomy.leaves) - {project.taxonomy.other}
    return today.isdisjoint(_known(project, student))


def _held_out(project: Project, champion: str, challenger: str, old: Any) -> list[Judged]:
    """Without gold and audits: what each said out of fold about the labelled items that both were trained on."""
    files = [project.root / "retrains" / f"{version}.heldout.parquet" for version in (champion, challenger)]
    if not all(file.exists() for file in files):
        return []
    before, after = (pl.read_parquet(file) for file in files)
    both = after.join(before, on="key", how="inner", suffix="_before", maintain_order="left")
    known = _known(project, old)
    both = both.filter(
        pl.Series(today_or_then(both["label"].to_list(), project.taxonomy), dtype=pl.String).is_in(known)
    )
    if not both.height:
        return []
    truth, said, said_before = (
        today_or_then(both[name].to_list(), project.taxonomy)
        for name in ("label", "answered", "answered_before")
    )
    covers = both["covered_before"].to_numpy(), both["covered"].to_numpy()
    return [Judged("held-out labels (no gold: unverified)", truth, said_before, said, covers)]


def _judge_pair(
    project: Project,
    name: str,
    rows: pl.DataFrame,
    champion: tuple[Any, Policy | None],
    challenger: tuple[Any, Policy | None],
    would_answer: WouldAnswer,
) -> Judged:
    from tasks.student.samples import inputs_of

    said, covers = [], []
    for student, policy in (champion, challenger):
        answers = student.answers(inputs_of(project, student, rows))
        said.append(today_or_then(answers.labels, project.taxonomy))
        covers.append(np.array(would_answer(student, policy, answers), bool))
    return Judged(name, rows["label"].to_list(), said[0], said[1], (covers[0], covers[1]))
