"""Takes over labels that an LLM gave long ago: a table, JSONL, or recorded chat completions.

Rows that cannot be used are kept with their reason in a file of their own. Texts only; knows nothing of the
teacher in force, so what it appends is `imported` and any answer asked for today outranks it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import InputError
from tasks.labeling.replies import parse_reply
from tasks.records import Record, normalise, text_key
from tasks.sources import ITEM_SCHEMA, read_table
from tasks.store import Store
from tasks.store.items import append_items
from tasks.store.labels import append_labels, raw_labels
from tasks.store.moved import as_of_today
from tasks.taxonomy import Taxonomy
from tasks.whole_files import written_whole

TEXT_COLUMNS = ("text", "input", "prompt", "name", "content", "query", "question", "title")
LABEL_COLUMNS = ("label", "output", "answer", "completion", "response", "category", "class")
MAX_WRITTEN = 200


@dataclass(frozen=True)
class Imported(Record):
    """What an import did: `labels` were new; `rejected` counts rows by reason, kept in `rejected_file`."""

    rows: int
    items: int
    labels: int
    known: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    rejected_file: str | None = None
    conflicting: int = 0


@dataclass(frozen=True)
class _Row:
    id: str | None
    text: str
    label: str | None
    written: str


def import_labels(
    store: Store,
    file: Path,
    taxonomy: Taxonomy,
    run_id: int,
    rejected_file: Path,
    text_column: str | None = None,
    label_columns: Sequence[str] = (),
    id_column: str | None = None,
) -> Imported:
    """Append the items of a file and their `imported` labels; the same file again adds nothing.

    Conflicting labels of one item are all kept: the majority resolves them, a tie goes to review.

    Args:
        store: the open database.
        file: parquet, CSV or JSONL; a line with `messages` is a recorded chat completion.
        taxonomy: what labels are resolved against.
        run_id: the job's row in `runs`.
        rejected_file: where rejected rows are written, as CSV.
        text_column: the input; None takes the first of TEXT_COLUMNS that is there.
        label_columns: one column, or one a level; empty takes the levels, else the first of LABEL_COLUMNS.
        id_column: names the item; None takes `id` if it is there, else the key in hex.

    Raises:
        InputError: the file cannot be read, or has no such column.
    """
    rows = list(_rows(file, taxonomy, text_column, label_columns, id_column))
    accepted, rejections = [], []
    for number, row in enumerate(rows, start=1):
        text = normalise(row.text)
        if text and row.label is not None:
            accepted.append((text_key(text), row.id, text, row.label))
        else:
            reason = "empty text" if not text else "unknown label" if row.written.strip() else "empty label"
            rejections.append((number, reason, row.written[:MAX_WRITTEN], row.text[:MAX_WRITTEN]))
    items = pl.DataFrame(
        [(key, row_id or key.hex(), text, None) for key, row_id, text, _ in accepted],
        schema=ITEM_SCHEMA,
        orient="row",
    )
    new_items = append_items(store, items, "import", run_id)
    votes = Counter((key, label) for key, _, _, label in accepted)
    new = list(_new_votes(votes, as_of_today(raw_labels(store), taxonomy)))
    append_labels(store, ((key, label, "imported") for key, label in new), run_id)
    if rejections:
        _write_rejections(rejected_file, rejections)
    said = Counter(key for key, _ in votes)
    return Imported(
        len(rows),
        new_items,
        len(new),
        len(accepted) - len(new),
        dict(Counter(reason for _, reason, _, _ in rejections)),
        str(rejected_file) if rejections else None,
        sum(count > 1 for count in said.values()),
    )


def _new_votes(votes: Counter[tuple[bytes, str]], raw: pl.DataFrame) -> Iterator[tuple[bytes, str]]:
    """Votes beyond those already stored: a label said three times is three votes, today and tomorrow."""
    stored = raw.filter(pl.col("source") == "imported").group_by("key", "label").len()
    there = {(key, label): count for key, label, count in stored.iter_rows()}
    for vote, count in votes.items():
        yield from [vote] * max(0, count - there.get(vote, 0))


def _rows(
    file: Path,
    taxonomy: Taxonomy,
    text_column: str | None,
    label_columns: Sequence[str],
    id_column: str | None,
) -> Iterator[_Row]:
    if file.suffix.lower() in (".jsonl", ".ndjson") and _is_chat(file):
        yield from _chat_rows(file, taxonomy)
        return
    table = read_table(file)
    text = _column(table, file, [text_column] if text_column else TEXT_COLUMNS, "input")
    if label_columns:
        for name in label_columns:
            _column(table, file, [name], "label")
        columns = list(label_columns)
    elif set(taxonomy.levels) <= set(table.columns):
        columns = list(taxonomy.levels)
    else:
        columns = [_column(table, file, LABEL_COLUMNS, "label")]
    if id_column is not None:
        _column(table, file, [id_column], "id")
    ids = id_column or ("id" if "id" in table.columns else None)
    picked = table.select(pl.col(name).cast(pl.String) for name in dict.fromkeys([text, *columns]))
    names = table[ids].cast(pl.String).to_list() if ids else [None] * table.height
    for row_id, row in zip(names, picked.iter_rows(named=True), strict=True):
        values = [row[name] for name in columns]
        label = taxonomy.from_columns(values) if len(columns) > 1 else _resolve(values[0], taxonomy)
        yield _Row(row_id, row[text] or "", label, " > ".join(value for value in values if value))


def _resolve(written: str | None, taxonomy: Taxonomy) -> str | None:
    """A label as it is, or as a whole recorded reply (JSON) states it."""
    if not written:
        return None
    return taxonomy.resolve(written) or parse_reply(written, taxonomy).label


def _column(table: pl.DataFrame, file: Path, names: Sequence[str], what: str) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise InputError(
        file,
        f"{what} column {names[0]!r} is missing" if len(names) == 1 else f"no {what} column is recognised",
        f"It has: {', '.join(table.columns[:20])}. Say which column holds the {what}.",
    )


def _is_chat(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = next((line for line in lines if line.strip()), "")
        row = json.loads(first)
    except (OSError, UnicodeDecodeError, ValueError):
        return False
    return isinstance(row, dict) and bool(_messages(row))


def _chat_rows(file: Path, taxonomy: Taxonomy) -> Iterator[_Row]:
    """One row a recorded completion: the last user message is the item, the assistant's words the label."""
    with file.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                yield _Row(None, "", None, line)
                continue
            fields = row if isinstance(row, dict) else {}
            messages = _messages(fields)
            text = next((_words(m) for m in reversed(messages) if m.get("role") == "user"), "")
            said = _said(fields) or next(
                (_words(m) for m in reversed(messages) if m.get("role") == "assistant"), ""
            )
            row_id = fields.get("custom_id") or fields.get("id")
            label = parse_reply(said, taxonomy).label if said else None
            yield _Row(str(row_id) if row_id is not None else None, text, label, said)


def _messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation, wherever a recorder puts it: at the top, or in its request's body."""
    for place in (row, row.get("request"), row.get("body")):
        if isinstance(place, dict):
            inner = place.get("body")
            found = place.get("messages") or (inner.get("messages") if isinstance(inner, dict) else None)
            if isinstance(found, list):
                return [message for message in found if isinstance(message, dict)]
    return []


def _said(row: Mapping[str, Any]) -> str:
    """The reply, given as a string, as a message or as a whole completion."""
    for name in ("response", "completion", "output", "choices"):
        found: Any = row if name == "choices" else row.get(name)
        if isinstance(found, dict) and isinstance(found.get("body"), dict):
            found = found["body"]
        if isinstance(found, dict) and isinstance(found.get("choices"), list) and found["choices"]:
            found = found["choices"][0]
            found = found.get("message") if isinstance(found, dict) else None
        if isinstance(found, str):
            return found
        if isinstance(found, dict) and (words := _words(found)):
            return words
    return ""


def _words(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _write_rejections(file: Path, rejections: Sequence[tuple[int, str, str, str]]) -> None:
    frame = pl.DataFrame(rejections, schema=["row", "reason", "label", "text"], orient="row")
    with written_whole(file) as beside:
        frame.write_csv(beside)
