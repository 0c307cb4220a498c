"""Embed: encode what is missing, once."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow

from flows.job import job
from tasks.embedding.steps import embed as embed_missing
from tasks.labeling.steps import take_in_items
from tasks.records import Embedded


@flow(name="embed")
def embed(project: str) -> Embedded:
    """Cache a vector of every item and every gold item.

    Args:
        project: path of the project file.
    """
    with job(project, "embed") as (settings, run):
        taken = take_in_items(settings, run.id)
        embedded = replace(embed_missing(settings), rejected=taken.rejected)
        run.result["embed"] = embedded.as_dict()
        return embedded
