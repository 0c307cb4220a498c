"""A simulated reviewer: fills the review file as a person who knows the truth and sometimes slips.

It owns nothing but the column `final_label`. It does not know where the file came from or who imports it.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import InputError
from tasks.whole_files import written_whole

FINAL = "final_label"
_NEVER_CANDIDATES = frozenset({"key", "id", "text", FINAL})
_SEPARATORS = ("\n", ";", "|")
# What a writer of CSV puts before a cell that a spreadsheet would run as a formula.
_FORMULA_GUARD = "'"


def simulated_review(
    review_csv: Path,
    truth: Mapping[str, str],
    error_rate: float = 0.02,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Fill `final_label` with the truth, except for a share of slips.

    A slip picks one of the row's other candidates where it has any, else any other label. Rows already filled
    and rows whose truth is unknown stay as they are. Every row has chance of its own, from the seed and the
    row's key, so the order and number of rows change nothing.

    Args:
        review_csv: a review file with the columns `text` and `final_label`; `key` and `id` if it has them.
        truth: text (or, for images, id or key) to label path joined with " > ".
        error_rate: share of slips, 0 to 1.
        seed: the same seed slips on the same rows.
        out: where to write; by default beside the file, as NAME.reviewed.csv.

    Returns:
        The written file: the same rows and columns.

    Raises:
        InputError: the file cannot be read or lacks a column.
        ValueError: the rate is outside 0 to 1.
    """
    if not 0 <= error_rate <= 1:
        raise ValueError(f"the error rate must be within 0 and 1, not {error_rate}")
    columns, rows = _read(review_csv)
    known = {_collapsed(text): label for text, label in truth.items()}
    labels = sorted(set(truth.values()))
    for row in rows:
        right = _true_label(row, known)
        if right is None or row[FINAL]:
            continue
        chance = random.Random(f"{seed}:{row.get('key') or row.get('id') or row.get('text')}")
        slips = chance.random() < error_rate
        row[FINAL] = _wrong(row, right, labels, chance) if slips else right
    out = out or review_csv.with_name(f"{review_csv.stem}.reviewed.csv")
    _write(out, columns, rows)
    return out


def _collapsed(text: str) -> str:
    return " ".join(text.split())


def _true_label(row: Mapping[str, str], known: Mapping[str, str]) -> str | None:
    for column in ("text", "id", "key"):
        cell = _collapsed(row.get(column) or "")
        for written in (cell, cell.removeprefix(_FORMULA_GUARD)):
            if written and written in known:
                return known[written]
    return None


def _wrong(row: Mapping[str, str], right: str, labels: Sequence[str], chance: random.Random) -> str:
    cells = [cell for column, cell in row.items() if column not in _NEVER_CANDIDATES and cell]
    for separator in _SEPARATORS:
        cells = [part.strip() for cell in cells for part in cell.split(separator)]
    offered = sorted((set(cells) & set(labels)) - {right})
    others = offered or [label for label in labels if label != right]
    return chance.choice(others) if others else right


def _read(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restval="")
            columns = list(reader.fieldnames or ())
            rows = [{column: row[column] for column in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            file=file,
            problem=f"cannot be read ({error})",
            remedy="Give the file that `flywheel review export` wrote.",
        ) from error
    if FINAL not in columns or not {"text", "id", "key"} & set(columns):
        raise InputError(
            file=file,
            problem=f"is not a review file (columns: {', '.join(columns) or 'none'})",
            remedy=f"It needs {FINAL!r} and one of text, id, key; `flywheel review export` writes them.",
        )
    return columns, rows


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with written_whole(file) as beside, beside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
