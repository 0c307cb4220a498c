"""Nightly: the whole wheel once. Nothing new means it ends in seconds having done nothing."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.clean import clean
from flows.embed import embed
from flows.events import tell_of_failure
from flows.job import job
from flows.label import label
from flows.promote import promote
from flows.report import report
from flows.retrain import recalibrate, retrain
from tasks.monitoring.steps import look_for_drift, nothing_changed, remember_state
from tasks.project import Approval
from tasks.routing.steps import route_new_traffic
from tasks.student.steps import already_trained


@flow(name="nightly", on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def nightly(
    project: str,
    limit: Annotated[int, Field(ge=1)] | None = None,
    budget_usd: Annotated[float, Field(gt=0)] | None = None,
    approval: Approval | None = None,
) -> dict[str, Any]:
    """Route new traffic, label what is owed, embed, clean, retrain, recalibrate, promote, report.

    With `teacher.batch.nightly` the labelling goes through the provider's Batch API: what was sent the night before
    is fetched first, what is due is sent, and nothing is waited for. A failure changes nothing for the champion, and
    is told as an event.

    Args:
        project: path of the project file.
        limit: ask about at most so many unlabelled items; empty leaves it at `labeling.limit`.
        budget_usd: the most that this run may spend on the teacher, in US dollars, whatever it asks for; empty leaves
            it at `teacher.budget_usd`.
        approval: whether a better version then serves by itself or a person is asked; empty does as
            `promotion.approval` says.
    """
    with job(project, "nightly", budget_usd=budget_usd, approval=approval, limit=limit) as (settings, run):
        routed = route_new_traffic(settings, run.id)
        labelled = label(project, limit, batches="submit" if settings.teacher.batch.nightly else "none")
        done: dict[str, Any] = {"route": routed.as_dict(), "label": labelled.as_dict()}
        if nothing_changed(settings):
            run.result.update(done | {"changed": False})
            return done | {"changed": False}
        # Of the old policy: the next one has seen no traffic.
        done["monitor"] = look_for_drift(settings).as_dict()
        done["embed"] = embed(project).as_dict()
        cleaned = clean(project)
        done["clean"] = cleaned.as_dict()
        # New traffic alone may change nothing that is learned from: audits are kept out while they judge.
        known = already_trained(settings, cleaned)
        done["retrain"] = None if known else retrain(project).as_dict()
        recalibrated = recalibrate(project)
        done["adjudicate"] = recalibrated.adjudication.as_dict()
        done["recalibrate"] = recalibrated.policy.as_dict() if recalibrated.policy else None
        done["promote"] = promote(project).as_dict()
        done["report"] = report(project)
        remember_state(settings)
        run.result.update(done | {"changed": True})
        return done | {"changed": True}
