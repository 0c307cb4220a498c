"""Promote: the gate between challenger and champion. And the way back."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.job import job
from tasks.promotion.steps import promote_challenger, rollback_champion
from tasks.records import Promoted


@flow(name="promote")
def promote(project: str, approve: bool = False, force_reason: str | None = None) -> Promoted:
    """Compare champion and challenger on the same items and promote if the gate lets it pass.

    Args:
        project: path of the project file.
        approve: a person's yes, where the project asks for one.
        force_reason: promote against the gate, for this reason, which is recorded.
    """
    with job(project, "promote") as (settings, run):
        promoted = promote_challenger(settings, approve, force_reason)
        run.result["promote"] = promoted.as_dict()
        return promoted


@flow(name="rollback")
def rollback(project: str) -> dict[str, Any]:
    """Give the champion's place back to its predecessor, with the policy it had.

    Args:
        project: path of the project file.
    """
    with job(project, "rollback") as (settings, run):
        restored = rollback_champion(settings)
        run.result["rollback"] = restored
        return restored
