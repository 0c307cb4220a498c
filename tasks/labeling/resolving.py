"""From answers in the ledger to labels, a part of the items at a time, so that no run ever holds all its answers.

Says what the answers amount to; asks nobody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from tasks.labeling.agreement import Agreement, agreement_of, counted
from tasks.labeling.consensus import DIFFERING, LABELLED, changed_labels, item_states
from tasks.labeling.key_ranges import items_of, key_ranges, labels_of, within
from tasks.labeling.ledger import Version, current_answers
from tasks.labeling.selection import PASS, Chosen
from tasks.labeling.sending import VOTES
from tasks.store import Store, schema
from tasks.store.labels import append_labels


@dataclass
class Resolved:
    """Counts over the items that a run reached: by state, and by why they were asked about.

    `left` counts the items it was about that have no label and are not merely disagreed; `no_answer` those of them
    that were given up, which no further run will ask about. `in_all` counts the states of all items that were ever
    asked about under this version, `written` the label rows appended.
    """

    items: int = 0
    left: int = 0
    no_answer: int = 0
    written: int = 0
    in_all: Counter[str] = field(default_factory=Counter)
    tie_breaks: int = 0
    states: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    agreement: Agreement = field(default_factory=Agreement)


def ties(
    store: Store, version: Version, passes: int, wanted: pl.DataFrame, waiting: pl.DataFrame
) -> pl.DataFrame:
    """The last votes (item_id, pass) on items that all passes have answered, not alike, and nobody once more.

    Args:
        store: the open database.
        version: of the answers.
        passes: how many are wanted before.
        wanted: a column `item_id` to keep to.
        waiting: key, pass of what is under way elsewhere.
    """
    found = []
    for part in key_ranges(store, schema.items, schema.answers):
        answers = current_answers(store, version, columns=VOTES, part=part)
        differing = item_states(answers, passes).filter(pl.col("state").is_in(DIFFERING))
        voted = pl.concat([answers.select("key", "pass"), waiting]).filter(pl.col("pass") == passes + 1)
        tied = differing.join(voted, on="key", how="anti")
        items = items_of(store, part).join(tied, on="key", how="semi")
        found.append(items.join(wanted, on="item_id", how="semi").select("item_id"))
    return pl.concat(found, rechunk=True).sort("item_id").with_columns(pl.lit(passes + 1, PASS).alias("pass"))


def resolve(
    store: Store,
    version: Version,
    passes: int,
    tie_break: bool,
    levels: tuple[str, ...],
    due: pl.DataFrame,
    fetched: pl.DataFrame,
    chosen: Chosen,
    failed: set[bytes],
    gold_keys: pl.DataFrame,
    run_id: int,
    so_far: pl.DataFrame | None = None,
) -> Resolved:
    """Append the labels that changed, and count what the run has come to.

    A run that is killed in between is repaired by the next. Gold may have been asked about to measure the teacher;
    its answers never become labels.

    Args:
        store: the open database.
        version: of the answers.
        passes: how many are wanted.
        tie_break: whether the pass after them counts where they differ.
        levels: names of the levels, from the root down.
        due: item_id, pass of what was asked about.
        fetched: key, pass of what came back without being asked about in this run.
        chosen: what the run was about.
        failed: keys of items that were given up for now.
        gold_keys: a column `key`.
        run_id: the job's row in `runs`.
        so_far: given, what earlier runs asked about counts as left, too, but for these keys (a column `key`).
    """
    done, said = Resolved(), []
    given_up = pl.DataFrame({"key": list(failed)}, schema={"key": pl.Binary})
    for part in key_ranges(store, schema.items, schema.answers):
        items = items_of(store, part)
        answers = current_answers(store, version, columns=VOTES, part=part)
        states = item_states(answers, passes, tie_break)
        ours = states.join(gold_keys, on="key", how="anti", maintain_order="left")
        changed = changed_labels(ours, labels_of(store, part), passes)
        done.written += append_labels(store, changed.iter_rows(), run_id)
        done.in_all.update(ours["state"].to_list())
        said.append(counted(answers, passes))
        now = pl.concat(
            [_keyed(due, items, "key", pl.col("pass").cast(pl.Int64)), within(fetched, part)]
        ).unique()
        now = now.join(answers, on=["key", "pass"], how="semi")
        reached = pl.concat([now.select("key"), within(given_up, part)]).unique()
        settled = states.filter(pl.col("state").is_in([*LABELLED, *DIFFERING]))
        done.items += reached.height
        done.tie_breaks += now.filter(pl.col("pass") > passes).height
        wanted = _keyed(chosen.wanted, items, "key")
        if so_far is not None:
            earlier = ours.select("key").join(within(so_far, part), on="key", how="anti")
            wanted = pl.concat([wanted, earlier]).unique()
        unsettled = wanted.join(settled, on="key", how="anti")
        done.left += unsettled.height
        invalid = states.filter(pl.col("state") == "invalid")
        done.no_answer += unsettled.join(invalid, on="key", how="semi").height
        done.states.update(states.join(reached, on="key", how="semi")["state"].to_list())
        why = _keyed(chosen.why, items, "key", "why").join(reached, on="key", how="semi")
        done.why.update(why["why"].to_list())
    done.agreement = agreement_of(pl.concat(said), levels)
    return done


def _keyed(rows: pl.DataFrame, items: pl.DataFrame, *columns: str | pl.Expr) -> pl.DataFrame:
    """Columns of the rows (item_id and more) that are about these items (item_id, key)."""
    return items.join(rows, on="item_id").select(*columns)
