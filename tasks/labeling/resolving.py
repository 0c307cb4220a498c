"""From answers in the ledger to labels, a part of the items at a time, so that no run ever holds all its answers.

Says what the answers amount to; asks nobody.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from tasks.labeling.agreement import Agreement, agreement_of, counted
from tasks.labeling.consensus import DIFFERING, LABELLED, changed_labels, item_states
from tasks.labeling.key_ranges import key_ranges, labels_of, within
from tasks.labeling.ledger import Version, current_answers
from tasks.labeling.selection import Chosen
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
    """The keys that all passes have answered, not alike, and on which nobody has cast the last vote.

    Args:
        store: the open database.
        version: of the answers.
        passes: how many are wanted before.
        wanted: a column `key` to keep to.
        waiting: key, pass of what is under way elsewhere.
    """
    found = []
    for part in key_ranges(store, schema.answers):
        answers = current_answers(store, version, columns=VOTES, part=part)
        differing = item_states(answers, passes).filter(pl.col("state").is_in(DIFFERING))
        voted = pl.concat([answers.select("key", "pass"), waiting]).filter(pl.col("pass") == passes + 1)
        tied = differing.join(voted, on="key", how="anti")
        found.append(tied.join(within(wanted, part), on="key", how="semi").select("key"))
    return pl.concat(found)


def resolve(
    store: Store,
    version: Version,
    passes: int,
    tie_break: bool,
    levels: tuple[str, ...],
    due: pl.DataFrame,
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
        due: key, pass of what was asked about.
        chosen: what the run was about.
        failed: keys of items that were given up for now.
        gold_keys: a column `key`.
        run_id: the job's row in `runs`.
        so_far: given, what earlier runs asked about counts as left, too, but for these keys (a column `key`).
    """
    done, said = Resolved(), []
    given_up = pl.DataFrame({"key": list(failed)}, schema={"key": pl.Binary})
    for part in key_ranges(store, schema.answers):
        answers = current_answers(store, version, columns=VOTES, part=part)
        states = item_states(answers, passes, tie_break)
        ours = states.join(gold_keys, on="key", how="anti", maintain_order="left")
        changed = changed_labels(ours, labels_of(store, part), passes)
        done.written += append_labels(store, changed.iter_rows(), run_id)
        done.in_all.update(ours["state"].to_list())
        said.append(counted(answers, passes))
        now = within(due, part).join(answers, on=["key", "pass"], how="semi")
        reached = pl.concat([now.select("key"), within(given_up, part)]).unique()
        settled = states.filter(pl.col("state").is_in([*LABELLED, *DIFFERING]))
        done.items += reached.height
        done.tie_breaks += now.filter(pl.col("pass") > passes).height
        wanted = within(chosen.wanted, part)
        if so_far is not None:
            earlier = ours.select("key").join(within(so_far, part), on="key", how="anti")
            wanted = pl.concat([wanted, earlier]).unique()
        unsettled = wanted.join(settled, on="key", how="anti")
        done.left += unsettled.height
        invalid = states.filter(pl.col("state") == "invalid")
        done.no_answer += unsettled.join(invalid, on="key", how="semi").height
        done.states.update(states.join(reached, on="key", how="semi")["state"].to_list())
        done.why.update(within(chosen.why, part).join(reached, on="key", how="semi")["why"].to_list())
    done.agreement = agreement_of(pl.concat(said), levels)
    return done
