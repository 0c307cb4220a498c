"""Clean: freeze the training view and propose labels where the student confidently contradicts the teacher."""

from __future__ import annotations

from prefect import flow

from flows.job import job
from tasks.cleaning.steps import ask_suspects_again, clean_snapshot
from tasks.records import Cleaned
from tasks.student.steps import take_snapshot


@flow(name="clean")
def clean(project: str) -> Cleaned:
    """Clean the labels by cross-fitted self-distillation; raw labels stay as they are.

    With `cleaning.mode: re-ask` the suspects go back to the teacher first, and two of three decide: the label, the
    student, the second answer.

    Args:
        project: path of the project file.
    """
    with job(project, "clean") as (settings, run):
        snapshot = take_snapshot(settings)
        cleaned = clean_snapshot(settings, snapshot)
        if settings.cleaning.mode == "re-ask":
            cleaned = ask_suspects_again(settings, cleaned, run.id)
        run.result["clean"] = cleaned.as_dict()
        return cleaned
