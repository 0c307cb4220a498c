"""Promote: the gate between challenger and champion, with a person behind it where the project wants one. And back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field, StringConstraints

from flows.job import job
from tasks.project import Project, load_project
from tasks.promotion.gate_in_words import comparison
from tasks.promotion.steps import (
    answer_challenger,
    note_question,
    open_question,
    promote_challenger,
    rollback_champion,
)
from tasks.records import Promoted

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=500)]


class Answer(RunInput):
    """The form a person fills in."""

    decision: Literal["approve", "reject"] = Field(description="Whether this version may serve.")
    name: Words = Field(description="Who decides; kept with the version.")
    reason: Words = Field(description="Why; kept with the version.")


@flow(name="promote")
def promote(project: str, approve: bool = False, force_reason: Words | None = None) -> Promoted:
    """Compare champion and challenger on the same items and promote if the gate lets it pass.

    Where `promotion.approval` is `human`, a run of the deployment then shows the comparison and waits, suspended and
    without a process, for a person to approve or reject; silence for `promotion.approval_hours` is a no. After the
    answer the flow begins anew and finds its own question open, so nothing is compared twice. A nightly run waits for
    nobody: it starts a run of the deployment that asks, and goes on. On the command line nothing is suspended.

    Args:
        project: path of the project file.
        approve: a person's yes given beforehand; leave it off to be shown the comparison and asked, where the project
            asks for a person at all.
        force_reason: promote against the gate, for this reason, which is recorded; empty leaves the gate its say.
    """
    settings = load_project(project)
    run_id = _run_that_can_wait()
    asked = open_question(settings, run_id) if run_id else None
    if asked is None:
        with job(project, "promote", approve=approve, force_reason=force_reason) as (settings, run):
            asked = promote_challenger(settings, approve, force_reason, ask_again=run_id is not None)
            run.result["promote"] = asked.as_dict()
        if not asked.waiting:
            return asked
        if run_id is None:
            if _is_part_of_another():
                _let_another_run_ask(settings, asked)
            return asked
        note_question(settings, asked, run_id)
    said = suspend_flow_run(
        wait_for_input=Answer.with_initial_data(description=comparison(asked)),
        timeout=round(settings.promotion.approval_hours * 3600),
        key=_pair(asked),
    )
    with job(project, "promote", decision=said.decision, by=said.name) as (settings, run):
        decided = answer_challenger(settings, asked, said.decision == "approve", said.name, said.reason)
        run.result["promote"] = decided.as_dict()
        return decided


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


def _run_that_can_wait() -> str | None:
    """The id of this run, if a worker can take it up again after it was suspended: a deployment's, and no part."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None or run.parent_task_run_id is not None:
        return None
    return str(run.id)


def _is_part_of_another() -> bool:
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.parent_task_run_id)


def _pair(asked: Promoted) -> str:
    """Which comparison a question is about, in the small letters that keys are made of."""
    return f"{asked.challenger_version}-after-{asked.compared_with or 'none'}"


def _let_another_run_ask(settings: Project, asked: Promoted) -> None:
    """Afterwards a run of the promote deployment asks, if there is one; it takes this comparison up as its own."""
    try:
        run = run_deployment(
            f"promote/{settings.project}",
            timeout=0,
            as_subflow=False,
            idempotency_key=f"approval-{settings.project}-{_pair(asked)}",
        )
    except ObjectNotFound:
        return
    note_question(settings, asked, str(cast(FlowRun, run).id))
