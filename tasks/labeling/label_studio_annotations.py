"""The decisions out of what Label Studio exports: JSON with its tasks and annotations, or JSON_MIN.

Several people may have judged one item: a ground truth decides, else the majority. Knows nothing of the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import InputError
from tasks.labeling.decisions import Complaints, Decisions, LabelReader
from tasks.labeling.json_values import json_values
from tasks.labeling.label_studio import CONTROL, SHOWN_VARIABLE, VARIABLE
from tasks.labeling.review_files import opened_text
from tasks.taxonomy import join

ANNOTATED = ("annotations", "completions")  # the second is what Label Studio before 1.0 wrote
REMEDY = "Export the project from Label Studio as JSON or JSON_MIN, and give the file as it comes."


@dataclass(frozen=True)
class Vote:
    """What one person chose for one item; `at` is when (ISO 8601, or empty), `truth` marks a ground truth."""

    person: str
    label: str
    at: str = ""
    truth: bool = False


@dataclass
class _Judged:
    """What a file says about one item so far."""

    name: str
    votes: list[Vote]
    skipped: bool = False


def read_annotations(file: Path, reader: LabelReader, known: Container[bytes]) -> Decisions:
    """The decisions of an export; what nobody annotated, or everybody skipped, is none.

    Args:
        file: a JSON array, one task, or a task a line.
        reader: resolves the labels.
        known: the keys of all items.

    Raises:
        InputError: it is no such export, or holds wrong tasks, of which the first 20 are listed.
    """
    judged: dict[bytes, _Judged] = {}
    complaints = Complaints(file, "Correct them in Label Studio and export again")
    for row, task in enumerate(_tasks(file), start=1):
        whole = isinstance(task.get("data"), dict)
        data: Mapping[str, Any] = task["data"] if whole else task
        written = str(data.get("key") or "")
        key = _key(written)
        if key not in known:
            complaints.add(row, _strange, task, written)
            continue
        item = judged.setdefault(key, _Judged(_name(task, data), []))
        for annotation in _annotations(task) if whole else [task]:
            if annotation.get("was_cancelled") or annotation.get("skipped"):
                item.skipped = True
                continue
            chosen = _chosen(annotation, whole)
            if len(chosen) > 1:
                complaints.add(row, _several, _name(task, data), len(chosen))
            elif chosen:
                written = join(chosen[0])
                label = reader.read(written.replace(SHOWN_VARIABLE, VARIABLE), written)
                if label is None:
                    complaints.add(row, reader.refusal, written)
                else:
                    truth = bool(annotation.get("ground_truth"))
                    item.votes.append(Vote(_person(annotation), label, _when(annotation), truth))
    complaints.raise_any()
    labels, conflicts = {}, []
    for key, item in judged.items():
        decided = majority(item.votes)
        if decided is not None:
            labels[key] = decided
        elif item.votes:
            said = ", ".join(f"{vote.person or 'somebody'} says {vote.label!r}" for vote in item.votes)
            conflicts.append(f"{item.name}: {said}")
    undecided = [item for item in judged.values() if not item.votes]
    skipped = sum(item.skipped for item in undecided)
    return Decisions(labels, len(judged), len(undecided) - skipped, skipped, tuple(conflicts))


def majority(votes: list[Vote]) -> str | None:
    """The label that decides: the one ground truth, else what more than half of the people say; None if none does.

    Of a person who judged twice the newest vote counts; votes without a person count each.
    """
    truths = {vote.label for vote in votes if vote.truth}
    if truths:
        return truths.pop() if len(truths) == 1 else None
    newest = {
        vote.person or place: vote.label
        for place, vote in sorted(enumerate(votes), key=lambda one: (one[1].at, one[0]))
    }
    for label, count in Counter(newest.values()).most_common(1):
        return label if count * 2 > len(newest) else None
    return None


def _chosen(annotation: Mapping[str, Any], whole: bool) -> list[tuple[str, ...]]:
    """The paths chosen in one annotation, each once."""
    if whole:
        results = [one for one in annotation.get("result") or () if isinstance(one, dict)]
        ours = [one for one in results if one.get("from_name") == CONTROL]
        values = [one.get("value") for one in ours or results if one.get("type") in ("taxonomy", "choices")]
    else:
        values = [annotation.get(CONTROL)]
    return list(dict.fromkeys(path for value in values for path in _paths(value)))


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    """Paths in a value as either form writes it: a name, a list of names or of paths, or under the tag's name."""
    if isinstance(value, str):
        if value.strip():
            yield (value,)
    elif isinstance(value, dict):
        yield from _paths(value.get("choices"))
        yield from _paths(value.get("taxonomy"))
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, list) and one and all(isinstance(name, str) for name in one):
                yield tuple(one)
            else:
                yield from _paths(one)


def _person(annotation: Mapping[str, Any]) -> str:
    who = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return "" if who in (None, "") else str(who)


def _when(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _annotations(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ANNOTATED:
        for annotation in task.get(name) or ():
            if isinstance(annotation, dict) and not _rejected(annotation):
                yield annotation


def _rejected(annotation: Mapping[str, Any]) -> bool:
    """Whether the last reviewer of the annotation (Label Studio Enterprise) did not accept it."""
    reviews = annotation.get("reviews")
    last = reviews[-1] if isinstance(reviews, list) and reviews else None
    return isinstance(last, dict) and last.get("accepted") is False


def _name(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    return f"task {task.get('id', '?')} ({data.get('item_id') or data.get('key')})"


def _key(written: str) -> bytes:
    try:
        return bytes.fromhex(written)
    except ValueError:
        return b""


def _several(name: str, count: int) -> str:
    return f"{name} has {count} labels in one annotation, one is wanted"


def _strange(task: Mapping[str, Any], key: str) -> str:
    which = f"task {task.get('id', '?')}"
    if not key:
        return f"{which} has no key: it is not from `flywheel review export --format label-studio`"
    return f"{which} has the unknown key {key!r}: it is of another project"


def _tasks(file: Path) -> Iterator[dict[str, Any]]:
    with opened_text(file) as text:
        try:
            for found in json_values(text):
                if not isinstance(found, dict):
                    raise InputError(file, "does not hold tasks", REMEDY)
                yield found
        except UnicodeError:
            raise
        except ValueError as error:
            raise InputError(file, f"cannot be read: {error}", REMEDY) from error
