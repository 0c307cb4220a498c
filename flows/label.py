"""Label: take in new items, ask the teacher in independent passes, write the review queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.job import job
from tasks.labeling.steps import (
    items_still_wanted,
    label_with_teacher,
    take_in_items,
    wants_synthesis,
    write_review_queue,
    write_synthetic_examples,
)
from tasks.records import Labelled


@flow(name="label")
def label(
    project: str,
    limit: Annotated[int, Field(ge=1)] | None = None,
    gold: bool = False,
    synthesize: bool | None = None,
    batches: Literal["none", "wait", "submit", "cancel"] = "none",
    up_to: Annotated[int, Field(ge=1)] | None = None,
    budget_usd: Annotated[float, Field(gt=0)] | None = None,
) -> Labelled:
    """Label items with the teacher.

    Args:
        project: path of the project file.
        limit: ask about at most so many items; empty asks about all.
        gold: also ask about the gold items once, to know how good the teacher is.
        synthesize: also let the teacher write examples for labels with too few items; None does so where
            `labeling.synthesis.below` is set, but not with a limit.
        batches: ask through the provider's Batch API, cheaper and within a day: wait for all of it, or submit and
            leave (any later run fetches what has ended); cancel ends what is open and fetches what was done.
        up_to: ask until so many items have been asked about in all, earlier runs included; empty is no bound.
        budget_usd: the most that this run may spend, in US dollars; empty leaves it at `teacher.budget_usd`.
    """
    with job(project, "label", limit=limit, up_to=up_to, budget_usd=budget_usd) as (settings, run):
        writes = wants_synthesis(settings, synthesize, limit)
        taken = take_in_items(settings, run.id)
        if up_to is not None:
            limit = min(limit or up_to, items_still_wanted(settings, up_to))
        labelled = label_with_teacher(settings, run.id, limit, gold, batches, so_far=up_to is not None)
        review_file = write_review_queue(settings)
        result = replace(labelled, rejected=taken.rejected, review_file=review_file)
        run.result["label"] = result.as_dict()
        if writes and result.stopped is None and not result.waiting:
            result = result.with_synthesis(write_synthetic_examples(settings, run.id, bool(synthesize)))
            run.result["label"] = result.as_dict()
        if result.unlabelled_left or result.failed or result.stopped or result.waiting:
            run.status = "incomplete"
        return result
