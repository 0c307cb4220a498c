"""The review queue as Label Studio takes it: tasks with predictions, and the labelling configuration for them.

The format is that of labelstud.io/guide/task_format and its tags Taxonomy, Choices, Text and Image. Knows nothing
of a running Label Studio; `label_studio_annotations` reads back what it exports.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import polars as pl

from tasks.errors import InputError, TaxonomyError
from tasks.labeling.review_csv import BETWEEN
from tasks.store.items import content_of
from tasks.taxonomy import Taxonomy, join, split
from tasks.whole_files import written_whole

CONTROL, OBJECT = "final_label", "item"
MOST_BYTES = (
    250 * 1024 * 1024
)  # that Label Studio takes in one upload unless DATA_UPLOAD_MAX_MEMORY_SIZE says more
RADIO_LABELS = 20  # more of them are one drop-down
LOCAL_FILES = "/data/local-files/?d="
VARIABLE, SHOWN_VARIABLE = "$", "＄"  # a label `$5 menu` would be read as a field of the task
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def labeling_config(taxonomy: Taxonomy, instructions: str, modality: str) -> str:
    """The XML for Settings > Labeling Interface: the item, why it is shown, and the labels to choose one of.

    Labels in levels are a Taxonomy whose leaves alone can be chosen, a flat task has Choices.

    Raises:
        TaxonomyError: a label holds a character that XML cannot.
    """
    view = Xml.Element("View")
    Xml.SubElement(view, "Header", value=_text(instructions), size="4")
    if modality == "image":
        Xml.SubElement(view, "Image", name=OBJECT, value="$image", zoom="true", zoomControl="true")
    else:
        Xml.SubElement(view, "Text", name=OBJECT, value="$text", valueType="text")
    Xml.SubElement(view, "Header", value="$why: $candidates", size="6")
    Xml.SubElement(view, "Header", value="$reasons", size="6")
    terms = {"name": CONTROL, "toName": OBJECT, "required": "true"}
    if len(taxonomy.levels) > 1:
        terms |= {"leafsOnly": "true", "showFullPath": "true", "pathSeparator": " > ", "maxUsages": "1"}
        control = Xml.SubElement(view, "Taxonomy", terms)
    elif len(taxonomy.leaves) > RADIO_LABELS:
        control = Xml.SubElement(view, "Choices", terms | {"choice": "single", "layout": "select"})
    else:
        control = Xml.SubElement(view, "Choices", terms | {"choice": "single-radio"})
    nodes: dict[tuple[str, ...], Xml.Element] = {(): control}
    for leaf in taxonomy.leaves:
        path = split(leaf)
        for depth in range(1, len(path) + 1):
            if path[:depth] not in nodes:
                about = taxonomy.about.get(join(path[:depth]))
                hint = {"hint": _NOT_XML.sub("", about)} if about else {}
                value = {"value": _choice(path[depth - 1])}
                nodes[path[:depth]] = Xml.SubElement(nodes[path[: depth - 1]], "Choice", value | hint)
    Xml.indent(view)
    return Xml.tostring(view, encoding="unicode") + "\n"


def review_tasks(
    rows: Iterable[pl.DataFrame], taxonomy: Taxonomy, modality: str, image_root: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A task an item: its content and key in `data`, what passes and student said as `predictions`.

    Args:
        rows: columns of the queue with source_id, text, image.
        taxonomy: a prediction outside it is left out.
        modality: text or image.
        image_root: what Label Studio knows as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT: images that lie below it
            are named by their path; all others travel as data URLs. None embeds them all.

    Yields:
        JSON-able tasks in the order of the rows; an item whose image is gone is left out.
    """
    for chunk in rows:
        for place, row in enumerate(chunk.iter_rows(named=True)):
            if modality == "image":
                image = _image(chunk[place : place + 1], image_root)
                if image is None:
                    continue
                content = {"image": image}
            else:
                content = {"text": row["text"]}
            said = row["said"] or []
            told = BETWEEN.join(one["label"] or f"({one['error_class']})" for one in said)
            reasons = BETWEEN.join(one["reason"] for one in said if one["reason"])
            key = row["key"].hex()
            yield {
                "data": content
                | {
                    "key": key,
                    "item_id": row["source_id"],
                    "why": row["why"],
                    "candidates": told,
                    "reasons": reasons,
                    "student_label": row["student_label"] or "",
                    "current_label": row["current_label"] or "",
                },
                "predictions": list(_predictions(row, said, taxonomy)),
                "meta": {"key": key, "why": row["why"]},
            }


def write_tasks(file: Path, tasks: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Write the tasks one by one as a JSON array; returns how many and how many bytes."""
    count = 0
    with written_whole(file) as beside, beside.open("w", encoding="utf-8") as out:
        out.write("[")
        for task in tasks:
            out.write(",\n" if count else "\n")
            out.write(json.dumps(task, ensure_ascii=False))  # json.dump would encode in Python
            count += 1
        out.write("\n]\n")
    return count, file.stat().st_size


def _predictions(
    row: Mapping[str, Any], said: list[dict[str, Any]], taxonomy: Taxonomy
) -> Iterator[dict[str, Any]]:
    views = [
        (one["model"] + (f", pass {one['pass']}" if one["pass"] else ""), one["label"], one["confidence"])
        for one in said
    ]
    views.append(("student", row["student_label"], row["student_confidence"]))
    for place, (model, label, score) in enumerate(views):
        if label in taxonomy.leaf_index:
            told = {"score": min(1.0, max(0.0, score))} if score is not None else {}
            yield {"model_version": model, **told, "result": [_result(label, taxonomy, f"p{place}")]}


def _result(label: str, taxonomy: Taxonomy, region: str) -> dict[str, Any]:
    path = [_choice(name) for name in split(label)]
    kind = "taxonomy" if len(taxonomy.levels) > 1 else "choices"
    value = {"taxonomy": [path]} if kind == "taxonomy" else {"choices": path}
    return {"id": region, "from_name": CONTROL, "to_name": OBJECT, "type": kind, "value": value}


def _choice(name: str) -> str:
    if _NOT_XML.search(name):
        raise TaxonomyError(
            "taxonomy", f"the label {name!r} holds a control character", "Rename it: XML cannot hold one."
        )
    return name.replace(VARIABLE, SHOWN_VARIABLE)


def _text(written: str) -> str:
    return _NOT_XML.sub("", written).replace(VARIABLE, SHOWN_VARIABLE)


def _image(item: pl.DataFrame, root: Path | None) -> str | None:
    path = item["text"][0]
    if root is not None and path and item["image"][0] is None:
        place = Path(path)
        if place.is_relative_to(root.absolute()) and place.is_file():
            return LOCAL_FILES + quote(place.relative_to(root.absolute()).as_posix())
    try:
        content = content_of(item, "image")[0]
    except (InputError, TypeError):
        return None
    assert isinstance(content, bytes)
    return f"data:{_media_type(content)};base64,{base64.b64encode(content).decode()}"


def _media_type(content: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.get_format_mimetype() or "application/octet-stream"
    except (UnidentifiedImageError, OSError):
        return "application/octet-stream"
