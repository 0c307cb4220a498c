"""Tries the project's own files: taxonomy, items, traffic, gold; and the labels given so far.

Everything is read as the jobs read it, and what they would leave out is counted by its reason.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from tasks.errors import ConfigError, InputError
from tasks.monitoring.findings import Check, Found
from tasks.moved import REMEDY
from tasks.sources import (
    expand,
    is_sql,
    iterate_sources,
    label_columns,
    read_gold,
    read_items,
    read_table,
    resolve_labels,
)
from tasks.store.items import known_keys
from tasks.store.labels import effective_labels
from tasks.store.moved import lost_labels
from tasks.student.certifying import ENOUGH_ROWS
from tasks.synthetic import SYNTHETIC

SHOWN = 3
PATTERN = "*?["


def taxonomy(found: Found) -> Check:
    """The label tree can be read and is as deep as task.levels says."""
    tree = found.project.taxonomy
    levels = f"{len(tree.levels)} levels ({', '.join(tree.levels)})"
    detail = f"{len(tree.leaves):,} labels in {levels}, version {tree.version}"
    if len(tree.leaves) - (tree.other is not None) < 2:
        file = found.project.resolve(found.project.task.taxonomy)
        raise ConfigError(file, f"{detail}: there is nothing to choose from", "Write at least two labels.")
    found.taxonomy = tree
    return Check("taxonomy", True, detail)


def items(found: Found) -> Check:
    """Every row of every source is read; what would be left out is counted by its reason."""
    project, name = found.project, "items"
    rows, files, frames, rejected = 0, 0, [], Counter[str]()
    for file, table in iterate_sources(project, project.source.items, project.source.query):
        read = read_items(project, table, file)
        rows, files = rows + table.height, files + 1
        rejected.update(rejection.reason.split(":")[0] for rejection in read.rejections)
        frames.append(read.frame.select("source_id", "key"))
        if found.item is None and read.frame.height:
            found.item = read.frame.head(1).select("key", "text", "image")
    pairs = pl.concat(frames).unique()
    found.keys = pairs.select("key").unique()
    known = known_keys(found.store) if found.store is not None else found.keys.clear()
    parts = [
        f"{rows:,} rows in {_files(files)}",
        f"{found.keys.height:,} items",
        f"{found.keys.join(known, on='key', how='anti').height:,} of them new",
    ]
    if rejected:
        parts.append("left out: " + _counted(rejected))
    if not found.keys.height:
        return Check(
            name, False, "; ".join(parts), "Name the columns under source.id and source.text or image."
        )
    clashing = pairs.height - pairs["source_id"].n_unique()
    if clashing:
        return Check(
            name, True, f"{'; '.join(parts)}; {clashing:,} ids stand for different items in different files",
            "Give every item an id of its own, or answers cannot be told apart.",
        )  # fmt: skip
    advice = (
        f"The rows left out are listed under {project.root / 'rejected'} by every job." if rejected else ""
    )
    return Check(name, True, "; ".join(parts), advice)


def traffic(found: Found) -> Check:
    """What the nightly run routes can be read; an empty inbox is no mistake."""
    project, name = found.project, "traffic"
    written = project.source.traffic
    if written is None:
        return Check(name, True, "none named: nightly routes nothing, `flywheel route` takes files by hand")
    if is_sql(written):
        return Check(name, False, "a database cannot be read as traffic", "Name files under source.traffic.")
    try:
        files = expand(written, project.file.parent)
    except ConfigError as error:
        if "no such file" not in error.problem:
            raise
        waiting = any(sign in written for sign in PATTERN)
        remedy = (
            ""
            if waiting
            else "It is read as soon as it is there; a pattern such as traffic/*.parquet is usual."
        )
        return Check(name, True, f"nothing at {written} yet", remedy)
    rows, kept = 0, 0
    for file in files:
        table = read_table(file)
        rows, kept = rows + table.height, kept + read_items(project, table, file).frame.height
    left_out = f"; {rows - kept:,} rows would be left out" if kept < rows else ""
    return Check(name, True, f"{rows:,} requests in {_files(len(files))}{left_out}")


def gold(found: Found) -> Check:
    """Gold has known, undisputed labels; how much of it also stands among the items is told."""
    project, name = found.project, "gold"
    if project.gold is None:
        advice = "A few hundred items checked by people tell how right all of this is."
        return Check(name, True, "none named: versions will be unverified", advice)
    tree, rows, left_out = found.labels(), 0, Counter[str]()
    unknown: Counter[str] = Counter()
    for file in expand(project.gold, project.file.parent):
        table = read_table(file)
        columns = label_columns(table, tree, file)
        read = read_items(project, table, file, keep=columns)
        rows += table.height
        left_out.update(rejection.reason.split(":")[0] for rejection in read.rejections)
        unknown.update(
            written for label, written in resolve_labels(read.frame, columns, tree) if label is None
        )
    if unknown:
        near = tree.nearest(unknown.most_common(1)[0][0])
        raise InputError(
            project.gold,
            f"{unknown.total():,} of {rows:,} gold rows have a label that the taxonomy lacks ({_counted(unknown)})",
            "Correct them or add the labels." + (f" Did you mean {near!r}?" if near else ""),
        )
    judged = read_gold(project)
    shared = 0 if found.keys is None else judged.join(found.keys, on="key", how="semi").height
    detail = (
        f"{rows:,} rows, {judged.height:,} items, {shared:,} of them also among the items (never trained on)"
    )
    if left_out:
        detail += "; left out: " + _counted(left_out)
    if not judged.height:
        return Check(name, False, detail, "Name the columns under source.id and source.text or image.")
    few = judged.height < 2 * ENOUGH_ROWS
    advice = (
        f"Half of it certifies thresholds, and {ENOUGH_ROWS} rows are wanted for that: add more."
        if few
        else ""
    )
    return Check(name, True, detail, advice)


def labels(found: Found) -> Check:
    """The labels given so far are labels of the taxonomy as it now is."""
    name, tree = "labels", found.labels()
    given = effective_labels(found.opened()).filter(pl.col("source") != SYNTHETIC)["label"]
    if not len(given):
        return Check(name, True, "none yet: `flywheel label` or `flywheel import-labels`")
    unknown = Counter(lost_labels(found.opened(), tree))
    moved = sum(label not in tree.leaf_index and tree.today(label) is not None for label in given.to_list())
    detail = f"{len(given):,} labelled items, {len(given) - unknown.total():,} of them in the taxonomy"
    if moved:
        detail += f", {moved:,} where task.moved leads"
    if not unknown:
        return Check(name, True, detail)
    detail += f"; gone from it: {_counted(unknown)}"
    return Check(
        name, unknown.total() < len(given), detail, f"`flywheel label` asks about their items again. {REMEDY}"
    )


def _counted(counts: Counter[str]) -> str:
    shown = ", ".join(f"{reason or 'empty'} {count:,}" for reason, count in counts.most_common(SHOWN))
    return shown + (f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else "")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
