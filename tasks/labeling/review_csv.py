"""The review queue as a CSV that spreadsheets open safely, and the decisions out of what they saved.

Knows nothing of the database: rows come in as frames, decisions go out by key.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import polars as pl

from tasks.errors import InputError
from tasks.labeling.decisions import Complaints, Decisions, LabelReader
from tasks.labeling.review_files import opened_text
from tasks.whole_files import written_whole

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
KEY, FINAL = "key", "final_label"
BETWEEN = " | "
HEADER_CHARACTERS = 1 << 16
MOST_CHARACTERS = 1 << 27  # of one cell; the csv module's own limit is 131,072

# What a spreadsheet may take for a formula (OWASP, CSV injection): an operator, also a full-width or small one,
# after white space, control characters or marks without width; and a cell that begins with a tab or a line end.
_BLANK = r"[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff]*"
_OPERATOR = r"[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
_FORMULA = rf"(?:{_BLANK}{_OPERATOR}|[\t\r\n])"
_TO_DEFUSE = (
    rf"^'*{_FORMULA}"  # the apostrophes too, or a cell that had one of its own would lose it on its way back
)
_DEFUSED = re.compile(rf"'+{_FORMULA}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?e[+-]?\d+|\d+", re.IGNORECASE)


def defused(column: str) -> pl.Expr:
    """The column with an apostrophe before whatever a spreadsheet might run; `armed` takes it off again."""
    cell = pl.col(column)
    return pl.when(cell.str.contains(_TO_DEFUSE)).then("'" + cell).otherwise(cell).alias(column)


def armed(cell: str) -> str:
    """The cell as it was before `defused`."""
    return cell[1:] if _DEFUSED.match(cell) else cell


def write_review_csv(file: Path, rows: Iterable[pl.DataFrame]) -> int:
    """Write the rows (columns of the queue, source_id, text); returns how many bytes.

    It begins with a byte order mark, without which Excel reads UTF-8 as something else.
    """
    with written_whole(file) as beside, beside.open("wb") as out:
        head = pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))
        head.write_csv(out, include_bom=True)
        for chunk in rows:
            _cells(chunk).write_csv(out, include_header=False)
    return file.stat().st_size


def _cells(rows: pl.DataFrame) -> pl.DataFrame:
    said = pl.element().struct
    dead = pl.concat_str(pl.lit("("), said.field("error_class"), pl.lit(")"))
    candidates = pl.col("said").list.eval(pl.coalesce(said.field("label"), dead)).list.join(BETWEEN)
    reasons = pl.col("said").list.eval(said.field("reason").drop_nulls()).list.join(BETWEEN)
    table = rows.select(
        pl.col("key").bin.encode("hex"),
        pl.col("source_id").alias("id"),
        "text",
        "why",
        candidates.alias("candidates"),
        reasons.alias("reasons"),
        "student_label",
        "student_confidence",
        "current_label",
        pl.lit(None, pl.String).alias(FINAL),
    )
    return table.select(defused(name) if table[name].dtype == pl.String else name for name in COLUMNS)


def read_review_csv(file: Path, reader: LabelReader, known: Container[bytes]) -> Decisions:
    """The decisions of a filled-in file: whatever separator, encoding, order and number of columns it has now.

    Args:
        file: with at least the columns key and final_label.
        reader: resolves the labels; a row without one is no decision.
        known: the keys of all items.

    Raises:
        InputError: it cannot be read, lacks a column, or holds wrong rows, of which the first 20 are listed.
    """
    labels: dict[bytes, str] = {}
    complaints = Complaints(file, "Correct them")
    rows = empty = 0
    mangled = False
    for row, written_key, written in _rows(file):
        rows += 1
        if not written:
            empty += 1
            continue
        key = _key(written_key)
        if key not in known:
            number = bool(_NUMBER.fullmatch(written_key))
            mangled = mangled or number
            complaints.add(row, _unknown_key, written_key, number)
            continue
        label = reader.read(armed(written), written)
        if label is None:
            complaints.add(row, reader.refusal, armed(written))
        elif labels.setdefault(key, label) != label:
            complaints.add(row, _decided_before, labels[key])
    if mangled:
        complaints.remedy = (
            "Export again and copy the column final_label over, or import the CSV into the spreadsheet "
            "with the column key as text"
        )
    complaints.raise_any()
    return Decisions(labels, rows, empty)


def _key(written: str) -> bytes:
    try:
        return bytes.fromhex(written)
    except ValueError:
        return b""


def _decided_before(label: str) -> str:
    return f"the item was already decided as {label!r} further up"


def _unknown_key(written: str, number: bool) -> str:
    if number:
        return f"unknown key {written!r}: the spreadsheet made a number of it"
    return f"unknown key {written!r}: keep the column as it was exported"


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """(row, key, final_label) of every row that is not blank; the first row under the header is 1."""
    csv.field_size_limit(MOST_CHARACTERS)
    with opened_text(file) as text:
        try:
            names, separator, above = _header(file, text.read(HEADER_CHARACTERS))
            key, final = names.index(KEY), names.index(FINAL)
            text.seek(0)
            for row, cells in enumerate(csv.reader(text, delimiter=separator), start=-above):
                if row > 0 and any(cells):
                    padded = cells + [""] * (max(key, final) + 1 - len(cells))
                    yield row, padded[key].strip(), padded[final].strip()
        except csv.Error as error:
            raise InputError(file, f"cannot be read ({error})", "Is it a whole CSV file?") from error


def _header(file: Path, head: str) -> tuple[list[str], str, int]:
    """The column names in lower case, the separator under which they hold the columns needed, lines above them."""
    without = re.sub(r'^"?sep=."?(?:\r\n|\r|\n)', "", head)  # Excel's own way of naming the separator
    above = int(without != head)
    tried = {
        separator: [
            name.strip().lower()
            for name in next(csv.reader(io.StringIO(without, newline=""), delimiter=separator), [])
        ]
        for separator in (",", ";", "\t", "|")
    }
    separator, names = max(tried.items(), key=lambda one: (len({KEY, FINAL} & set(one[1])), len(one[1])))
    if "annotation_id" in names:
        raise InputError(
            file,
            "is a CSV of Label Studio, which is silent on who skipped what",
            "Export as JSON or JSON_MIN.",
        )
    for column in (KEY, FINAL):
        if names.count(column) != 1:
            problem = "is missing" if column not in names else "stands there twice"
            raise InputError(
                file,
                f"column {column!r} {problem}",
                f"It has: {', '.join(names[:20])}. `flywheel review export` writes the form to fill in.",
            )
    return names, separator, above
