"""Embed: encode what is missing, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.job import job
from tasks.embedding.steps import embed as embed_missing
from tasks.embedding.steps import prune_caches, verify_cache
from tasks.labeling.steps import take_in_items
from tasks.records import Embedded, PrunedCaches, VerifiedCache


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
        if embedded.not_encoded:
            run.status = "incomplete"
        return embedded


@flow(name="verify embeddings")
def verify_embeddings(project: str, sample: Annotated[int, Field(ge=0)] = 256) -> VerifiedCache:
    """Check every cached vector's checksum and encode some anew; set aside what is wrong.

    Args:
        project: path of the project file.
        sample: how many vectors to compare with a fresh encoding; 0 checks checksums only.
    """
    with job(project, "verify embeddings", sample=sample) as (settings, run):
        verified = verify_cache(settings, sample, seed=run.id)
        run.result["verify"] = verified.as_dict()
        if verified.set_aside:
            run.status = "incomplete"
        return verified


@flow(name="prune embeddings")
def prune_embeddings(project: str, delete: bool = False) -> PrunedCaches:
    """List the caches of encoders that neither the project nor a registered version uses; delete them if told to.

    Args:
        project: path of the project file.
        delete: take them away, and the damaged parts of the others.
    """
    with job(project, "prune embeddings", delete=delete) as (settings, run):
        pruned = prune_caches(settings, delete)
        run.result["prune"] = pruned.as_dict()
        return pruned
