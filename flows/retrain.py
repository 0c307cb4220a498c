"""Retrain: snapshot, cleaned labels, candidates, calibration, certificate, challenger. And recalibrate alone."""

from __future__ import annotations

from prefect import flow

from flows.job import job
from tasks.cleaning.steps import clean_snapshot
from tasks.records import Recalibrated, Retrained
from tasks.student.steps import (
    adjudicate_audits,
    recalibrate_challenger,
    recalibrate_champion,
    take_snapshot,
    train_and_register,
)


@flow(name="retrain")
def retrain(project: str, full: bool = False) -> Retrained:
    """Train the candidates, register the winner as challenger with its policy.

    Args:
        project: path of the project file.
        full: compare all candidates, even where `student.full_search_days` would let the last winner go on.
    """
    with job(project, "retrain") as (settings, run):
        snapshot = take_snapshot(settings)
        cleaned = clean_snapshot(settings, snapshot)
        retrained = train_and_register(settings, cleaned, run.id, full)
        run.result["retrain"] = retrained.as_dict()
        return retrained


@flow(name="recalibrate")
def recalibrate(project: str) -> Recalibrated:
    """Issue a new policy for the champion from the newest judged items, without training.

    The adjudicator, where there is one, first decides where student and teacher differ on audited traffic, and on a
    random share of what they agree on. A challenger whose audits are adjudicated now gets a new policy, too.

    Args:
        project: path of the project file.
    """
    with job(project, "recalibrate") as (settings, run):
        adjudicated = adjudicate_audits(settings, run.id)
        policy = recalibrate_champion(settings, run.id)
        result = Recalibrated(policy, recalibrate_challenger(settings, run.id), adjudicated)
        run.result["recalibrate"] = policy.as_dict() if policy else None
        run.result["adjudicate"] = adjudicated.as_dict()
        return result
