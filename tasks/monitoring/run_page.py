"""A job's record as the page of its run shows it: what came of it in a line, where to read on, tables of counts.

Records are plain mappings here, whichever job they are of; what a machine needs of them (paths, hashes) stays away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.monitoring.inventory import outcomes
from tasks.taxonomy import split

LONGEST = 700
MOST_ITEMS = 8

ROWS: Mapping[str, Sequence[str]] = {
    "route": (
        "items", "tiers", "audited", "audits_owed", "unanswered", "rejected", "errors", "cost_usd", "seconds", "out",
    ),
    "label": (
        "items", "chosen", "labelled", "disagreed", "partial", "tie_breaks", "invalid", "failed", "no_answer",
        "unlabelled_left", "waiting", "agreement", "agreement_by_level", "calls", "tokens", "cost_usd", "in_all",
        "rejected", "gold_rejected", "lost", "errors", "review_file",
    ),
    "monitor": ("advised", "alarms", "raised"),
    "embed": (
        "encoded", "cached", "total", "not_encoded", "not_encoded_rows", "rejected", "set_aside", "warnings",
        "seconds",
    ),
    "clean": (
        "rows", "method", "mode", "noise_estimate", "suspects", "dropped", "reweighted", "asked_again",
        "asked_again_usd",
    ),
    "retrain": (
        "model_version", "student", "rows", "synthetic", "removed_gold", "removed_near_gold", "certified_coverage",
        "thresholds", "target_error", "against", "calibration_items",
    ),
    "adjudicate": ("asked", "invalid", "failed", "calls", "cost_usd"),
    "recalibrate": (
        "model_version", "certified_coverage", "thresholds", "target_error", "against", "calibration_items",
    ),
    "promote": ("champion_version", "challenger_version", "compared_with", "deleted"),
    "rollback": ("champion_version", "rolled_back_from", "certified_coverage"),
}  # fmt: skip
"""What of a job's record a person is shown, in this order; of other records all of it."""

NEWS = ("items", "calls", "stopped", "unlabelled_left", "waiting", "rejected", "gold_rejected", "lost")
SAID = ("stopped", "sentence", "bottleneck", "reasons")
SHARES = (
    "agreement", "agreement_by_level", "share", "certified_coverage", "target_error", "noise_estimate",
)  # fmt: skip
NAMES = {
    "in_all": "asked about so far, in all runs",
    "no_answer": "given up",
    "chosen": "chosen because",
    "against": "certified against",
    "noise_estimate": "labels that are wrong, estimated",
    "removed_gold": "left out, as they are gold",
    "removed_near_gold": "left out, too like gold",
    "asked_again_usd": "asking again",
    "synthetic": "of them synthetic",
    "seconds": "took",
    "compared_with": "compared with version",
    "model_version": "version",
}
TABLES_LEFT_OUT = ("candidates", "noise", "by_label")


def in_markdown(done: Mapping[str, Any], linked: Mapping[str, str]) -> str:
    """Links and the cost of all, then a section a job: sentences, counts, tables."""
    lines = [
        f"- [{name}]({place})" if "://" in place else f"- {name}: `{place}`" for name, place in linked.items()
    ]
    known = [*ROWS, *done]  # the order in which the wheel runs them; then what is new here
    records = {
        job: record
        for job, record in sorted(done.items(), key=lambda part: known.index(part[0]))
        if isinstance(record, Mapping)
    }
    costs = [cost for record in records.values() if (cost := record.get("cost_usd"))]
    if len(costs) > 1:
        lines += ["", f"All of it cost {_value('cost_usd', sum(costs))}."]
    for job, record in records.items():
        if section := list(_section(job, record)):
            lines += ["", f"## {_words(job)}", "", *section[:-1]]
    return "\n".join(lines)


def in_a_line(done: Mapping[str, Any]) -> str:
    """What came of it, a clause a job; empty where there is nothing to tell."""
    return _cell("; ".join(outcomes(done)))


def _section(job: str, record: Mapping[str, Any]) -> Iterator[str]:
    if job == "label" and not any(record.get(name) for name in NEWS):
        return  # what else stands there was so before
    record = _flat(record)
    for name in SAID:
        said = record.get(name)
        for sentence in [said] if isinstance(said, str) else said or ():
            yield from (_cell(str(sentence)), "")
    names = ROWS.get(job, [name for name in record if name not in SAID and not _is_table(record[name])])
    yield from _two_columns((name, record[name]) for name in names if _is_shown(name, record.get(name)))
    yield from _metrics(record)
    if least := record.get("least_agreed"):
        yield from _columns(
            ("labels the passes agree on least", "agreement", "items"),
            [(label, f"{share:.0%}", f"{items:,}") for label, share, items in least],
        )
    if confused := record.get("confused_pairs"):
        yield from _columns(
            ("the label was", "the student says", "items"),
            [
                (split(given)[-1], split(said)[-1], f"{items:,}")
                for given, said, items in confused[:MOST_ITEMS]
            ],
        )
    for name, value in record.items():
        # What adjudication lacks is told where something waits for it.
        if name == "versions" and not any(row.get("waiting") for row in value.values()):
            continue
        if _is_table(value) and name not in TABLES_LEFT_OUT:
            yield from _table(name, value)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record, what its snapshot and its policy say beside it; its own words win."""
    below = [part for name in ("snapshot", "policy") if isinstance(part := record.get(name), Mapping)]
    return {name: value for part in below for name, value in part.items()} | dict(record)


def _metrics(record: Mapping[str, Any]) -> Iterator[str]:
    """Share right by level of all candidates, of the winner before cleaning, and of the teacher."""
    candidates, winner = record.get("candidates") or {}, record.get("student")
    if winner not in candidates:
        return
    on = "gold" if any(name.startswith("gold.") for name in candidates[winner]) else "heldout"
    levels = [
        name.removeprefix(f"{on}.").removesuffix(".top1")
        for name in candidates[winner]
        if name.endswith(".top1")
    ]
    heads = {f"{on}.{level}.top1": _words(level) for level in levels}
    deepest = f"{on}.{levels[-1]}"
    heads |= {f"{deepest}.top3": "first 3", f"{deepest}.macro_f1": "macro F1", "ece": "calibration error"}
    names = {winner: f"**{winner}, the winner**", "raw labels": f"{winner}, before cleaning"}
    rows = [(names.get(name, name), metrics) for name, metrics in candidates.items()]
    if teacher := record.get("teacher"):
        rows.append(("the teacher, one pass", teacher))
    yield from _columns(
        (f"right on {'gold' if on == 'gold' else 'held-out labels'}", *heads.values()),
        [
            (name, *(f"{metrics[key]:.1%}" if key in metrics else "" for key in heads))
            for name, metrics in rows
        ],
    )


def _is_shown(name: str, value: Any) -> bool:
    return _says_something(value) or (
        name == "certified_coverage" and value == 0
    )  # that nothing is says much


def _says_something(value: Any) -> bool:
    return not (value is None or value is False or value == 0 or value in ("", [], {}, ()))


def _two_columns(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    shown = [(_named(name), said) for name, value in rows if (said := _shown(name, value))]
    if shown and [name for name, _ in shown] != [NAMES["seconds"]]:
        yield from ("| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in shown), "")


def _columns(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|---|" + "---:|" * (len(heads) - 1)
    yield from (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    yield ""


def _is_table(value: Any) -> bool:
    """Whether each of a mapping's values is a mapping to plain values."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(row, Mapping)
            and not any(isinstance(cell, Mapping | list | tuple) for cell in row.values())
            for row in value.values()
        )
    )


def _table(name: str, value: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(column for row in value.values() for column in row))
    rows = [(row, *(_value(column, cells.get(column)) for column in columns)) for row, cells in value.items()]
    yield from _columns((_named(name), *map(_named, columns)), rows)


def _shown(name: str, value: Any) -> str:
    """A value in a cell; of a mapping its plain parts, each with its own unit or that of the whole."""
    if not isinstance(value, Mapping):
        return _value(name, value)
    unit = name if name in SHARES else None
    parts = {
        key: part
        for key, part in value.items()
        if not isinstance(part, Mapping | list | tuple) and _says_something(part)
    }
    return ", ".join(f"{_words(key)} {_value(unit or key, part)}" for key, part in parts.items())


def _named(name: str) -> str:
    return NAMES.get(name, _words(name))


def _words(name: str) -> str:
    return _cell(name.removesuffix("_usd").removesuffix("_seconds").replace("_", " "))


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name in SHARES:
            return f"{value:.1%}"
        if name.endswith("_usd"):
            return f"{value:.4f} USD"
        if name.endswith("seconds"):
            return f"{value:,.1f} s"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MOST_ITEMS:,} more" if len(value) > MOST_ITEMS else ""
        return _cell("; ".join(map(str, value[:MOST_ITEMS])) + more)
    return _cell(str(value))


def _cell(text: str) -> str:
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return " ".join(cut.split()).replace("|", "\\|")
