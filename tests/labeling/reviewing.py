"""What the tests of the review queue share: answers in the ledger, audits in the traffic, files as people save them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.records import text_key
from tasks.store import Store, schema
from tasks.store.labels import append_labels
from tests.labeling.scripted import put_texts


def put_answers(
    store: Store,
    said: Mapping[str, list[str | tuple[str, float] | None]],
    *,
    source: str = "",
    prompt_version: str = "p1",
) -> None:
    """Texts as items, what passes 1, 2, ... said about each (None: dead-lettered), and the label that follows.

    The label is what all passes say, else withdrawn; without any valid answer there is no row.
    """
    put_texts(store, list(said))
    rows, labels = [], []
    for text, answers in said.items():
        told = [(one, None) if isinstance(one, str) else one or (None, None) for one in answers]
        for number, (label, confidence) in enumerate(told, start=1):
            rows.append(
                {
                    "key": text_key(text), "pass": number, "prompt_version": prompt_version, "model": "some-model",
                    "parameters": "x", "label": label, "confidence": confidence,
                    "reason": f"because {number}" if label else None,
                    "error_class": None if label else "unknown_label", "attempts": 1, "at": 0.0,
                }
            )  # fmt: skip
        valid = {label for label, _ in told}
        if valid != {None}:
            agreed = valid.pop() if len(valid) == 1 else None
            labels.append((text_key(text), agreed, (source or "consensus") if agreed else "disagreed"))
    store.append(schema.answers, rows)
    append_labels(store, labels, 1)


def put_audit(store: Store, text: str, student: str, teacher: str | None, confidence: float) -> None:
    """An audited request that the student answered."""
    row: dict[str, Any] = {
        "request_id": text_key(f"request {text}"),
        "row_id": text_key(f"row {text}"),
        "key": text_key(text),
        "source_id": "",
        "tier": "student",
        "would_tier": "student",
        "label": student,
        "student_label": student,
        "student_confidences": json.dumps([0.99, confidence]),
        "teacher_label": teacher,
        "audited": True,
        "audit_probability": 0.1,
        "audit_owed": teacher is None,
        "latency_seconds": 0.0,
        "cost_usd": 0.0,
        "at": 0.0,
    }
    store.append(schema.traffic, [row])


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of an exported CSV."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def fill(file: Path, decisions: Mapping[str, str]) -> None:
    """Write `final_label` into an exported CSV by key, and save it with all its columns."""
    rows = rows_of(file)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"final_label": decisions.get(row["key"], "")} for row in rows)
