"""Promote: the gate between challenger and champion, with a person behind it where the project wants one. And back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field, StringConstraints

from flows.job import job
from tasks.project import Approval, Project, load_project
from tasks.promotion.gate_in_words import comparison
from tasks.promotion.steps import (
    answer_challenger,
    give_up_question,
    note_answer,
    note_question,
    open_question,
    promote_challenger,
    question_of_another,
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
def promote(
    project: str,
    approve: bool = False,
    force_reason: Words | None = None,
    approval: Approval | None = None,
) -> Promoted:
    """Compare champion and challenger on the same items and promote if the gate lets it pass.

    Where `promotion.approval` is `human`, a run of the deployment then shows the comparison and waits, suspended and
    without a process, for a person to approve or reject; silence for `promotion.approval_hours` is a no. After the
    answer the flow begins anew and finds its own question open, so nothing is compared twice; where the question is
    gone, because another version or champion came, it ends and asks nothing else. The answer is written down before the
    run waits for its turn: should that fail, the next promote carries it out. A nightly run waits for nobody: it starts
    a run of the deployment that asks, and goes on. On the command line nothing is suspended.

    Args:
        project: path of the project file.
        approve: a person's yes given beforehand; leave it off to be shown the comparison and asked, where the project
            asks for a person at all.
        force_reason: promote against the gate, for this reason, which is recorded; empty leaves the gate its say.
        approval: whether this run promotes by itself or asks a person; empty does as `promotion.approval` says.
    """
    settings = load_project(project)
    run_id = _run_that_can_wait()
    asked = open_question(settings, run_id) if run_id else None
    if asked is None and not _was_suspended():
        if run_id is None and _is_part_of_another():
            _give_up_lost_question(settings)
        with job(project, "promote", approval=approval, approve=approve, force_reason=force_reason) as (
            settings,
            run,
        ):
            asked = promote_challenger(settings, approve, force_reason, asks=run_id)
            run.result["promote"] = asked.as_dict()
        if not asked.waiting:
            return asked
        if run_id is None:
            if _is_part_of_another():
                _let_another_run_ask(settings, asked)
            return asked
        note_question(settings, asked, run_id)
    run_id, decision, by = str(run_id), None, None
    if asked is not None:
        said = suspend_flow_run(
            wait_for_input=Answer.with_initial_data(description=comparison(asked)),
            timeout=round(settings.promotion.approval_hours * 3600),
            key=_pair(asked),
        )
        decision, by = said.decision, said.name
        note_answer(settings, asked, run_id, decision == "approve", by, said.reason)
    with job(project, "promote", decision=decision, by=by) as (settings, run):
        decided = answer_challenger(settings, run_id)
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


def _was_suspended() -> bool:
    """Whether this run asked a person already and was taken up again."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.empirical_policy.pause_keys)


def _pair(asked: Promoted) -> str:
    """Which comparison a question is about, in the small letters that keys are made of."""
    return f"{asked.challenger_version}-after-{asked.compared_with or 'none'}"


def _let_another_run_ask(settings: Project, asked: Promoted) -> None:
    """Afterwards a run of the promote deployment asks, if there is one; it takes this comparison up as its own.

    The same run where this is done again, unless that one has ended.
    """
    pair = f"approval-{settings.project}-{_pair(asked)}"
    key, run = pair, None
    while run is None or _has_ended(run):
        try:
            run = cast(
                FlowRun,
                run_deployment(
                    _deployment(settings),
                    parameters={"approval": "human"},
                    timeout=0,
                    as_subflow=False,
                    idempotency_key=key,
                ),
            )
        except ObjectNotFound:
            return
        key = f"{pair}-{run.id}"
    note_question(settings, asked, str(run.id))


def _give_up_lost_question(settings: Project) -> None:
    """Afterwards nobody waits for an answer that the run which should have asked for it can no longer hear.

    Silence is a no only of somebody who was asked: where the time is over and the run was never suspended, or never
    began, the question is given up, too.
    """
    if (question := question_of_another(settings)) is None:
        return
    run_id, asked, over = question
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(_deployment(settings))
        except ObjectNotFound:
            return  # nobody here could ask in that run's place
        try:
            run = client.read_flow_run(UUID(run_id))
        except ObjectNotFound:
            lost = True
        else:
            was_asked = _pair(asked) in (run.empirical_policy.pause_keys or ())
            lost = not was_asked if over else _has_ended(run)
    if lost:
        give_up_question(settings, asked)


def _deployment(settings: Project) -> str:
    return f"promote/{settings.project}"


def _has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
