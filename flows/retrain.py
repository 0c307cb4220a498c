"""Retrain: snapshot, cleaned labels, candidates, calibration, certificate, challenger. And recalibrate alone."""

from __future__ import annotations

from prefect import flow

from flows.job import job
from tasks.cleaning.steps import clean_snapshot
from tasks.records import Policy, Retrained
from tasks.student.steps import recalibrate_champion, take_snapshot, train_and_register


@flow(name="retrain")
def retrain(project: str) -> Retrained:
    """Train the candidates, register the winner as challenger with its policy.

    Args:
        project: path of the project file.
    """
    with job(project, "retrain") as (settings, run):
        snapshot = take_snapshot(settings)
        cleaned = clean_snapshot(settings, snapshot)
        retrained = train_and_register(settings, cleaned, run.id)
        run.result["retrain"] = retrained.as_dict()
        return retrained


@flow(name="recalibrate")
def recalibrate(project: str) -> Policy | None:
    """Issue a new policy for the champion from the newest judged items, without training.

    Args:
        project: path of the project file.
    """
    with job(project, "recalibrate") as (settings, run):
        policy = recalibrate_champion(settings, run.id)
        run.result["recalibrate"] = policy.as_dict() if policy else None
        return policy
