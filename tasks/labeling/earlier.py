"""Answers that were given under an earlier taxonomy and hold under the present one, because its moves explain the rest.

Without a file of moves nothing holds: a changed taxonomy is a changed prompt, and everything is asked about anew.
"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import replace

import polars as pl
from sqlalchemy import select

from tasks.labeling.asking import Asking
from tasks.labeling.key_ranges import key_ranges
from tasks.labeling.ledger import Version, current_answers
from tasks.store import Store, schema
from tasks.store.database import get_meta
from tasks.store.moved import today
from tasks.taxonomy import Taxonomy, join, split

REMEMBERED = "taxonomy:"


def remember(store: Store, taxonomy: Taxonomy) -> None:
    """Keep the taxonomy that answers are asked for under, once a version."""
    known = [taxonomy.levels, taxonomy.leaves, dict(taxonomy.about), taxonomy.other]
    get_meta(store, REMEMBERED + taxonomy.version, json.dumps(known, ensure_ascii=False))


def remembered(store: Store) -> list[Taxonomy]:
    """Every taxonomy that answers were asked for under."""
    columns = schema.meta.c
    rows = store.read(select(columns.value).where(columns.name.startswith(REMEMBERED)).order_by(columns.name))
    found = []
    for levels, leaves, about, other in map(json.loads, rows["value"].to_list()):
        found.append(Taxonomy(tuple(levels), tuple(leaves), about, other))
    return found


def explained(earlier: Taxonomy, taxonomy: Taxonomy) -> bool:
    """Whether the moves are all that has happened: no other label came, went or got another instruction."""
    if not taxonomy.moved or earlier.version == taxonomy.version:
        return False
    stayed = set(earlier.leaves) & set(taxonomy.leaves)
    if any(earlier.about.get(label) != taxonomy.about.get(label) for label in stayed):
        return False
    led_to = {path for paths in taxonomy.moved.values() for path in paths}
    led_to |= {now for label in earlier.leaves if (now := taxonomy.today(label)) is not None}
    return all(leaf in stayed or _under(leaf, taxonomy.moved) for leaf in earlier.leaves) and all(
        leaf in stayed or _under(leaf, led_to) for leaf in taxonomy.leaves
    )


def _under(label: str, paths: Container[str]) -> bool:
    """Whether a label is one of the paths, or below one."""
    names = split(label)
    return any(join(names[:depth]) in paths for depth in range(1, len(names) + 1))


def still_answered(store: Store, how: Asking) -> pl.DataFrame:
    """A column `key`: items that an earlier prompt had all passes about, of which no label is gone or split.

    Args:
        store: the open database.
        how: the teacher under the present taxonomy, with its `passes`.
    """
    taxonomy, passes = how.prompt.taxonomy, how.passes or 1
    found = [pl.DataFrame(schema={"key": pl.Binary})]
    for earlier in remembered(store):
        if explained(earlier, taxonomy):
            version = _version_under(how, earlier)
            for part in key_ranges(store, schema.answers):
                answers = current_answers(store, version, columns=("key", "pass", "label"), part=part)
                lost = answers["label"].is_not_null() & today(answers["label"], taxonomy).is_null()
                counted = answers.with_columns(lost=lost).filter(pl.col("pass") <= passes)
                whole = counted.group_by("key").agg(pl.len(), pl.col("lost").any())
                found.append(whole.filter(~pl.col("lost"), pl.col("len") >= passes).select("key"))
    return pl.concat(found).unique()


def _version_under(how: Asking, earlier: Taxonomy) -> Version:
    """What the same questions were kept under when the taxonomy was another."""
    prompt = replace(how.prompt, taxonomy=earlier, _systems={}, _offers={})
    return replace(how, prompt=prompt, tie_breaker=None).version
