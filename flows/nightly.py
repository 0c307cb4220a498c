"""Nightly: the whole wheel once. Nothing new means it ends in seconds having done nothing."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.clean import clean
from flows.embed import embed
from flows.job import job
from flows.label import label
from flows.promote import promote
from flows.report import report
from flows.retrain import recalibrate, retrain
from tasks.monitoring.steps import nothing_changed, remember_state
from tasks.routing.steps import route_new_traffic
from tasks.student.steps import already_trained


@flow(name="nightly")
def nightly(project: str) -> dict[str, Any]:
    """Route new traffic, label what is owed, embed, clean, retrain, recalibrate, promote, report.

    With `teacher.batch.nightly` the labelling goes through the provider's Batch API: what was sent the night before
    is fetched first, what is due is sent, and nothing is waited for.

    Args:
        project: path of the project file.
    """
    with job(project, "nightly") as (settings, run):
        routed = route_new_traffic(settings, run.id)
        labelled = label(project, batches="submit" if settings.teacher.batch.nightly else "none")
        done: dict[str, Any] = {"route": routed.as_dict(), "label": labelled.as_dict()}
        if nothing_changed(settings):
            run.result.update(done | {"changed": False})
            return done | {"changed": False}
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
