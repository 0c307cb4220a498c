"""Label: take in new items, ask the teacher in independent passes, write the review queue."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.job import job
from tasks.labeling.steps import label_with_teacher, take_in_items, write_review_queue
from tasks.records import Labelled


@flow(name="label")
def label(project: str, limit: int | None = None, gold: bool = False) -> Labelled:
    """Label items with the teacher.

    Args:
        project: path of the project file.
        limit: ask about at most so many items; empty asks about all.
        gold: also ask about the gold items once, to know how good the teacher is.
    """
    with job(project, "label", limit=limit) as (settings, run):
        taken = take_in_items(settings, run.id)
        labelled = label_with_teacher(settings, run.id, limit, gold)
        review_file = write_review_queue(settings)
        result = replace(labelled, rejected=taken.rejected, review_file=review_file)
        run.result["label"] = result.as_dict()
        if result.unlabelled_left or result.failed or result.stopped:
            run.status = "incomplete"
        return result
