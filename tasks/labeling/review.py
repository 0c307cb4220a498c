"""What a person should look at, most valuable first, written as a table; and the decisions read back.

An imported decision is a `human` label and outranks the teacher for good. Knows nothing of how labels came about
beyond the answers and the audited traffic it reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from sqlalchemy import insert, select

from tasks.errors import InputError
from tasks.labeling.consensus import item_states
from tasks.labeling.ledger import Version, current_answers
from tasks.records import LLM_SOURCES, Record
from tasks.store import Store, schema
from tasks.store.items import known_keys, read_contents
from tasks.store.labels import raw_labels, resolve
from tasks.taxonomy import Taxonomy

COLUMNS = (
    "key",
    "id",
    "text",
    "why",
    "candidates",
    "reasons",
    "student_label",
    "student_confidence",
    "current_label",
    "final_label",
)
REASONS = (
    "student and teacher differ",
    "passes differ",
    "imported labels differ",
    "no valid answer",
    "rare label",
)
RARE_ITEMS = 5
# What a spreadsheet takes for a formula (OWASP, CSV injection); a leading apostrophe makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
STUDENT_SCHEMA = {"key": pl.Binary, "student_label": pl.String, "student_confidence": pl.Float64}


@dataclass(frozen=True)
class Exported(Record):
    """A written review file: rows by why they are worth a look."""

    file: str
    rows: int
    why: dict[str, int]


@dataclass(frozen=True)
class Reviewed(Record):
    """What an import did: `changed` and `confirmed` became human labels, `unchanged` were already."""

    rows: int
    changed: int
    confirmed: int
    unchanged: int
    empty: int


def export_review(
    store: Store,
    file: Path,
    version: Version,
    passes: int,
    gold_keys: pl.DataFrame | None = None,
    limit: int | None = None,
    rare_items: int = RARE_ITEMS,
) -> Exported:
    """Write the review file (beside, then renamed), ordered by what a look is worth.

    Audited items where a confident student and the teacher differ come first, then items whose passes differ,
    whose imports differ, that have no valid answer, and those whose label fewer than `rare_items` items bear.
    Items a person or an adjudicator decided, and gold, are not shown.
    """
    labels = raw_labels(store)
    effective = resolve(labels)
    answers = current_answers(store, version)
    decided = effective.filter(pl.col("source").is_in(["human", "adjudicated"])).select("key")
    if gold_keys is not None:
        decided = pl.concat([decided, gold_keys.select("key")])
    differing = _differing_audits(store)
    queue = (
        pl.concat(
            [
                _because(0, differing.sort("student_confidence", descending=True, nulls_last=True)),
                *(_because(place, keys) for place, keys in _doubtful(effective, answers, passes)),
                _because(4, _rare(effective, rare_items)),
            ]
        )
        .unique("key", keep="first", maintain_order=True)
        .join(decided, on="key", how="anti", maintain_order="left")
    )
    if limit is not None:
        queue = queue.head(limit)
    contents = read_contents(store, queue).select("key", "source_id", "text")
    left = {"on": "key", "how": "left", "maintain_order": "left"}
    table = (
        queue.join(contents, on="key", maintain_order="left")
        .join(_candidates(answers, labels), **left)  # type: ignore[arg-type]
        .join(differing, **left)  # type: ignore[arg-type]
        .join(effective.select("key", current_label="label"), **left)  # type: ignore[arg-type]
        .with_columns(pl.col("key").bin.encode("hex"), id="source_id", final_label=pl.lit(None, pl.String))
        .select(COLUMNS)
    )
    _write(table.with_columns(_defused(name) for name in COLUMNS if table[name].dtype == pl.String), file)
    why = dict(table.group_by("why", maintain_order=True).len().iter_rows())
    return Exported(str(file), table.height, why)


def _because(place: int, keys: pl.DataFrame) -> pl.DataFrame:
    return keys.select("key", pl.lit(REASONS[place]).alias("why"))


def _doubtful(
    effective: pl.DataFrame, answers: pl.DataFrame, passes: int
) -> Sequence[tuple[int, pl.DataFrame]]:
    """Keys by place in REASONS: passes differ, imports differ, no valid answer."""
    states = item_states(answers, passes)
    invalid = states.filter(pl.col("state") == "invalid")
    undecided = effective.filter(pl.col("label").is_null()).join(invalid, on="key", how="anti")
    llm = undecided.filter(pl.col("source").is_in(LLM_SOURCES))
    return ((1, llm), (2, undecided.filter(pl.col("source") == "imported")), (3, invalid))


def _rare(effective: pl.DataFrame, rare_items: int) -> pl.DataFrame:
    counted = effective.filter(pl.col("label").is_not_null()).with_columns(items=pl.len().over("label"))
    return counted.filter(pl.col("items") < rare_items).sort("items", "label", "key")


def _differing_audits(store: Store) -> pl.DataFrame:
    """The newest audit of each item where the student said one thing and the teacher another."""
    columns = schema.traffic.c
    query = (
        select(columns.key, columns.student_label, columns.student_confidences, columns.teacher_label)
        .where(columns.audited, columns.teacher_label.is_not(None), columns.student_label.is_not(None))
        .order_by(columns.id)
    )
    audits = store.read(query).unique("key", keep="last", maintain_order=True)
    differing = audits.filter(pl.col("student_label") != pl.col("teacher_label"))
    confidence = [_deepest(written) for written in differing["student_confidences"]]
    return differing.with_columns(pl.Series("student_confidence", confidence, pl.Float64)).select(
        list(STUDENT_SCHEMA)
    )


def _deepest(written: str | None) -> float | None:
    numbers = json.loads(written) if written else None
    if isinstance(numbers, dict):
        numbers = list(numbers.values())
    return float(numbers[-1]) if numbers and numbers[-1] is not None else None


def _candidates(answers: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """key, candidates, reasons: what each pass said, or each import where there was no pass."""
    dead = pl.concat_str(pl.lit("("), pl.col("error_class"), pl.lit(")"))
    passes = (
        answers.sort("pass")
        .group_by("key", maintain_order=True)
        .agg(
            pl.coalesce("label", dead).str.join(" | ").alias("candidates"),
            pl.col("reason").drop_nulls().str.join(" | ").alias("reasons"),
        )
    )
    imported = (
        labels.filter(pl.col("source") == "imported")
        .join(passes, on="key", how="anti", maintain_order="left")
        .group_by("key", maintain_order=True)
        .agg(pl.col("label").unique(maintain_order=True).str.join(" | ").alias("candidates"))
        .with_columns(reasons=pl.lit(None, pl.String))
    )
    return pl.concat([passes, imported])


def _defused(name: str) -> pl.Expr:
    cell = pl.col(name)
    risky = pl.any_horizontal(cell.str.starts_with(sign) for sign in FORMULA)
    return pl.when(risky).then(pl.concat_str(pl.lit("'"), cell)).otherwise(cell).alias(name)


def _armed(cell: str) -> str:
    """The inverse of the defusing, for a label copied from another column."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _write(table: pl.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part")
    table.write_csv(beside)
    beside.replace(file)


def import_review(store: Store, file: Path, taxonomy: Taxonomy, run_id: int) -> Reviewed:
    """Read decisions back: every row is checked before any is written; an empty final_label is no decision.

    Importing the same file again changes nothing.

    Raises:
        InputError: an unknown label (the nearest is named), an unknown key, a key decided twice differently, a
            missing column; with the row.
    """
    decisions, rows = _read_decisions(file, taxonomy, set(known_keys(store)["key"]))
    labels = raw_labels(store)
    current = dict(resolve(labels).select("key", "label").iter_rows())
    human = dict(labels.filter(pl.col("source") == "human").select("key", "label").iter_rows())
    fresh = {key: label for key, label in decisions.items() if human.get(key) != label}
    changed = sum(current.get(key) != label for key, label in fresh.items())
    at = time.time()
    common = {"run_id": run_id, "at": at}
    if fresh:
        with store.begin() as connection:
            connection.execute(
                insert(schema.reviews),
                [
                    {"key": key, "final_label": label, "previous_label": current.get(key), "file": str(file)}
                    | common
                    for key, label in fresh.items()
                ],
            )
            connection.execute(
                insert(schema.labels),
                [{"key": key, "label": label, "source": "human"} | common for key, label in fresh.items()],
            )
    return Reviewed(rows, changed, len(fresh) - changed, len(decisions) - len(fresh), rows - len(decisions))


def _read_decisions(file: Path, taxonomy: Taxonomy, known: set[bytes]) -> tuple[dict[bytes, str], int]:
    table = _read_cells(file)
    decisions: dict[bytes, str] = {}
    for row, (written_key, written_label) in enumerate(table.iter_rows(), start=1):
        written = _armed((written_label or "").strip())
        if not written:
            continue
        try:
            key = bytes.fromhex((written_key or "").strip())
        except ValueError:
            key = b""
        if key not in known:
            raise InputError(
                file,
                f"unknown key {written_key!r}",
                "Keep the key column as it was exported (open it as text); nothing was imported.",
                row,
            )
        label = taxonomy.resolve(written)
        if label is None:
            near = taxonomy.nearest(written)
            hint = f"Did you mean {near!r}? " if near else ""
            raise InputError(
                file, f"unknown label {written!r}", f"{hint}Correct the cell; nothing was imported.", row
            )
        if decisions.setdefault(key, label) != label:
            raise InputError(
                file,
                f"the item was already decided as {decisions[key]!r} further up",
                "Keep one of the two; nothing was imported.",
                row,
            )
    return decisions, table.height


def _read_cells(file: Path) -> pl.DataFrame:
    """The columns key and final_label as text; a spreadsheet may have saved the file with semicolons."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            header = opened.readline()
        separator = ";" if header.count(";") > header.count(",") else ","
        table = pl.read_csv(file, infer_schema=False, separator=separator, encoding="utf8")
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(file, f"cannot be read ({reason})", "Save it as CSV in UTF-8.") from error
    for column in ("key", "final_label"):
        if column not in table.columns:
            raise InputError(
                file,
                f"column {column!r} is missing",
                f"It has: {', '.join(table.columns[:20])}. `flywheel review export` writes the form to fill in.",
            )
    return table.select("key", "final_label")
