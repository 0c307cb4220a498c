"""Asks the adjudicator what a student's two-stage sample lacks, a few items at a time, until nothing waits.

The surest are decided first, and what they show may spare the rest: where many of them are wrong, looser thresholds
are out of reach. Puts the sample and the asking together; tests and certificates are made elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.labeling.adjudicating import ask_adjudicator, asking_adjudicator
from tasks.labeling.adjudication_queue import write_plan
from tasks.labeling.batch_book import left_of_run
from tasks.labeling.dispatch import Progress
from tasks.records import Adjudicated
from tasks.student.adjudication import Adjudication, Terms
from tasks.student.samples import decided_by_now

if TYPE_CHECKING:
    from tasks.labeling.asking import Asking
    from tasks.project import Project
    from tasks.store import Store

ROUND = 0.05
"""Of the sample: so much is asked before it is looked at again what the rest is worth."""


def adjudicate(
    project: Project,
    store: Store,
    version: str,
    audited: Adjudication,
    terms: Terms,
    run_id: int,
    progress: Progress | None = None,
) -> Adjudicated:
    """Afterwards the adjudicator, where there is one, has decided what it could; what still lacks is written down.

    After what the certificate needs come the items that the coin drew out of its reach: with them the accuracy on all
    traffic can be estimated.

    Args:
        project: names the adjudicator and the budget of a run.
        store: the open database.
        version: of the model whose sample it is.
        audited: the sample.
        terms: of the certificate.
        run_id: the job's row in `runs`.
        progress: called with answers done, answers in all, and the cost so far.

    Raises:
        ConfigError: the environment holds no key.
        FatalTeacherError: no call can succeed; what was paid for is decided.
    """
    enough = audited.large_enough(terms)
    how, done = asking_adjudicator(project, store) if enough else None, Adjudicated()
    tried: set[bytes] = set()
    size = max(1, round(ROUND * len(audited.keys)))
    while how is not None and done.stopped is None:
        waiting = _untried(audited, audited.waiting(terms), tried)[:size]
        if not len(waiting):
            waiting = _untried(audited, np.flatnonzero(audited.drawn & audited.open), tried)
        if not len(waiting):
            break
        keys = [audited.keys[place] for place in waiting.tolist()]
        tried.update(keys)
        done = _asked(project, store, how, keys, run_id, done, progress)
        audited = decided_by_now(project, store, audited)
    plan = _plan(audited, terms)
    write_plan(project.root, version, plan)
    counts = {
        "items": len(audited.keys),
        "differing": int((plan["differs"] & plan["in_reach"]).sum()),
        "checked": int((plan["drawn"] & ~plan["differs"] & plan["in_reach"]).sum()),
        "share": audited.share,
        "waiting": len(audited.waiting(terms)),
    }
    return replace(done, versions={version: counts})


def _untried(audited: Adjudication, places: NDArray[np.int64], tried: set[bytes]) -> NDArray[np.int64]:
    return np.array([place for place in places.tolist() if audited.keys[place] not in tried], np.int64)


def _asked(
    project: Project,
    store: Store,
    how: Asking,
    keys: list[bytes],
    run_id: int,
    before: Adjudicated,
    progress: Progress | None,
) -> Adjudicated:
    frame = pl.DataFrame({"key": keys}, schema={"key": pl.Binary})
    left = left_of_run(store, run_id, project.teacher.budget_usd)
    asked = ask_adjudicator(store, how, frame, left, run_id, progress=progress)
    return replace(
        before,
        asked=before.asked + asked.answered + asked.invalid,
        invalid=before.invalid + asked.invalid,
        failed=before.failed + asked.failed,
        calls=before.calls + asked.calls,
        cost_usd=round(before.cost_usd + asked.cost_usd, 9),
        stopped=asked.stopped,
    )


def _plan(audited: Adjudication, terms: Terms) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": pl.Series(audited.keys, dtype=pl.Binary),
            "student_label": pl.Series(audited.answers.labels, dtype=pl.String),
            "student_confidence": audited.answers.confidence.astype(np.float64),
            "teacher_label": pl.Series(audited.teacher, dtype=pl.String),
            "differs": audited.differs,
            "drawn": audited.drawn,
            "share": np.full(len(audited.keys), audited.share),
            "in_reach": audited.in_reach(terms),
        }
    )
