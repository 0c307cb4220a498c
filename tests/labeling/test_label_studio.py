"""The queue goes to Label Studio as tasks it can show, and what a team decided there comes back."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import polars as pl
import pytest
from PIL import Image

from tasks.errors import InputError, TaxonomyError
from tasks.labeling.decisions import Decisions, LabelReader
from tasks.labeling.label_studio import labeling_config, review_tasks, write_tasks
from tasks.labeling.label_studio_annotations import Vote, majority, read_annotations
from tasks.labeling.review import export_review, import_review
from tasks.labeling.review_files import kind_of
from tasks.labeling.review_queue import SHOWN_SCHEMA
from tasks.records import image_key, text_key
from tasks.store import Store
from tasks.store.items import append_items
from tasks.store.labels import append_labels, effective_labels
from tasks.taxonomy import Taxonomy, build_taxonomy
from tests.labeling.reviewing import put_answers, put_audit
from tests.labeling.scripted import HOSES, KETTLES, KNIVES, taxonomy

ONE, TWO, THREE = (text_key(text) for text in ("one", "two", "three"))
KEYS = {ONE, TWO, THREE}
FLAT = build_taxonomy({"$5 menu": "cheap & <quick>", 'say "hi"': None, "Kettles": None})


def _annotation(label: Any, who: Any = 1, **more: Any) -> dict[str, Any]:
    """One annotation as Label Studio exports it, its label a path or (flat) a name."""
    kind = "taxonomy" if isinstance(label, list) else "choices"
    value = {"taxonomy": [label]} if isinstance(label, list) else {"choices": [label]}
    region = {"id": "x1", "from_name": "final_label", "to_name": "item", "type": kind, "value": value}
    return {
        "id": 7,
        "completed_by": who,
        "result": [region],
        "was_cancelled": False,
        "ground_truth": False,
    } | more


def _task(key: bytes, *annotations: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    data = {"key": key.hex(), "text": "words", "item_id": f"id-{number}"}
    return {"id": number, "data": data, "annotations": list(annotations), "predictions": [], "meta": {}}


def _read(tmp_path: Path, tasks: Any, tree: Taxonomy | None = None) -> Decisions:
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    assert kind_of(file) == "json"
    return read_annotations(file, LabelReader(tree or taxonomy()), KEYS)


def _queue(store: Store) -> None:
    put_answers(
        store,
        {
            'passes <differ> & "quote"': [(KNIVES, 0.8), (HOSES, 0.7)],
            "audited": [KETTLES, KETTLES],
            "dead": [KETTLES, None],
            **{f"kettle {i}": [KETTLES, KETTLES] for i in range(8)},
        },
    )
    put_audit(store, "audited", HOSES, KETTLES, 0.93)


def test_tasks_carry_content_key_reasons_and_what_everybody_said(store: Store, tmp_path: Path) -> None:
    """In the order of the queue, with the student and each pass as a prediction under its own name."""
    _queue(store)
    file = tmp_path / "out" / "tasks.json"
    said = export_review(store, file, taxonomy(), 2, form="label-studio", instructions="Pick one.")
    tasks = json.loads(file.read_text(encoding="utf-8"))
    assert said.rows == len(tasks) == 3
    assert said.why == {"student and teacher differ": 1, "passes differ": 1, "no valid answer": 1}
    assert (said.bytes, said.config) == (file.stat().st_size, str(file.with_suffix(".xml")))
    assert sorted(path.name for path in file.parent.iterdir()) == ["tasks.json", "tasks.xml"]
    first, second, third = tasks
    key = text_key("audited").hex()
    assert first["data"] == {
        "text": "audited", "key": key, "item_id": "id-audited", "why": "student and teacher differ",
        "candidates": f"{KETTLES} | {KETTLES}", "reasons": "because 1 | because 2",
        "student_label": HOSES, "current_label": KETTLES,
    }  # fmt: skip
    assert first["meta"] == {"key": key, "why": "student and teacher differ"}
    assert [one["model_version"] for one in first["predictions"]] == [
        "some-model, pass 1", "some-model, pass 2", "student",
    ]  # fmt: skip
    student = first["predictions"][-1]
    assert student["score"] == 0.93
    assert student["result"] == [
        {
            "id": "p2", "from_name": "final_label", "to_name": "item", "type": "taxonomy",
            "value": {"taxonomy": [["Garden", "Hoses"]]},
        }
    ]  # fmt: skip
    assert "score" not in first["predictions"][0]
    assert [one["score"] for one in second["predictions"]] == [0.8, 0.7]
    assert third["data"]["candidates"] == f"{KETTLES} | (unknown_label)"
    assert [one["model_version"] for one in third["predictions"]] == ["some-model, pass 1"]


def test_the_configuration_offers_leaves_of_a_tree_and_choices_of_a_flat_task() -> None:
    """Whatever a label or an instruction holds: markup is escaped, and a dollar is not read as a field."""
    view = Xml.fromstring(labeling_config(taxonomy(), 'Is it <b>"A" & B</b>?', "text"))
    control = view.find("Taxonomy")
    assert control is not None
    assert control.attrib["leafsOnly"] == control.attrib["required"] == "true"
    assert control.attrib["toName"] == view.findall("Text")[0].attrib["name"]

    def paths(node: Xml.Element, above: tuple[str, ...] = ()) -> list[str]:
        own = [(*above, child.attrib["value"]) for child in node]
        return [
            leaf
            for child, path in zip(node, own, strict=True)
            for leaf in (paths(child, path) if len(child) else [" > ".join(path)])
        ]

    assert paths(control) == list(taxonomy().leaves)
    assert control[0].attrib == {"value": "Kitchen", "hint": "things to cook with"}
    assert view[0].attrib["value"] == 'Is it <b>"A" & B</b>?'
    view = Xml.fromstring(labeling_config(FLAT, "Costs $price?", "image"))
    assert view[0].attrib["value"] == "Costs ＄price?"
    assert view.findall("Image")[0].attrib["value"] == "$image"
    choices = view.find("Choices")
    assert choices is not None
    assert [child.attrib for child in choices] == [
        {"value": "＄5 menu", "hint": "cheap & <quick>"}, {"value": 'say "hi"'}, {"value": "Kettles"},
    ]  # fmt: skip
    many = build_taxonomy({f"label {i}": None for i in range(30)})
    assert 'layout="select"' in labeling_config(many, "", "text")
    with pytest.raises(TaxonomyError, match="control character"):
        labeling_config(build_taxonomy({"a\x01b": None, "c": None}), "", "text")


def test_label_studios_own_validator_takes_configuration_tasks_and_annotations(
    sqlite_store: Store, tmp_path: Path
) -> None:
    """Only where its SDK is installed; it is no dependency of the project."""
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    _queue(sqlite_store)
    file = tmp_path / "tasks.json"
    for tree in (taxonomy(), FLAT):
        export_review(
            sqlite_store, file, tree, 2, form="label-studio", instructions="Costs $5 & more?", rare_items=99
        )
        view = interface(file.with_suffix(".xml").read_text(encoding="utf-8"))
        view.validate()
        for task in json.loads(file.read_text(encoding="utf-8")):
            assert view.validate_task({name: task[name] for name in ("data", "meta")})
            for prediction in task["predictions"]:
                assert view.validate_prediction(prediction, return_errors=True) == []
    assert interface(labeling_config(taxonomy(), "", "text")).validate_annotation(
        _annotation(["Garden", "Hoses"])
    )
    assert interface(labeling_config(FLAT, "", "text")).validate_annotation(_annotation("＄5 menu"))


def test_what_its_own_converter_makes_of_an_export_is_read_alike(tmp_path: Path) -> None:
    """JSON_MIN as Label Studio writes it holds the same decisions, of a tree and of a flat task."""
    convert = pytest.importorskip("label_studio_sdk.converter").Converter
    for tree, labels in (
        (taxonomy(), [["Kitchen", "Knives"], ["Garden", "Hoses"]]),
        (FLAT, ["＄5 menu", "Kettles"]),
    ):
        pairs = zip((ONE, TWO), labels, strict=True)
        tasks = [_task(key, _annotation(label), number=number) for number, (key, label) in enumerate(pairs)]
        whole = _read(tmp_path, [*tasks, _task(THREE)], tree)
        config = labeling_config(tree, "", "text")
        convert(config=config, project_dir=None).convert_to_json_min(
            str(tmp_path / "export.json"), str(tmp_path / "min"), is_dir=False
        )
        assert len(whole.labels) == 2
        assert read_annotations(tmp_path / "min" / "result.json", LabelReader(tree), KEYS) == whole


def _image_queue(*items: tuple[bytes, str | None, bytes | None]) -> pl.DataFrame:
    rows = [
        {"item_id": 1, "key": key, "why": "passes differ", "source_id": "id", "text": path, "image": image}
        for key, path, image in items
    ]
    return pl.DataFrame(rows, schema=SHOWN_SCHEMA | {"image": pl.Binary})


def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(out, kind)
    return out.getvalue()


def test_images_travel_in_the_task_or_are_linked_below_a_root(tmp_path: Path) -> None:
    """Bytes and files as data URLs; with a root, what lies below it by its path, and a lost file is left out."""
    png, jpeg = _picture("PNG"), _picture("JPEG")
    root = tmp_path / "pictures"
    (root / "sub dir").mkdir(parents=True)
    inside, outside = root / "sub dir" / "ä.jpg", tmp_path / "other.jpg"
    inside.write_bytes(jpeg)
    outside.write_bytes(jpeg)
    queue = _image_queue(
        (ONE, None, png),
        (TWO, str(inside), None),
        (THREE, str(outside), None),
        (b"4" * 16, "/no/such.jpg", None),
    )
    embedded = [task["data"]["image"] for task in review_tasks([queue], FLAT, "image")]
    assert [image.split(",")[0] for image in embedded] == [
        "data:image/png;base64", "data:image/jpeg;base64", "data:image/jpeg;base64",
    ]  # fmt: skip
    assert base64.b64decode(embedded[0].split(",")[1]) == png
    linked = [task["data"]["image"] for task in review_tasks([queue], FLAT, "image", root)]
    assert linked == [embedded[0], "/data/local-files/?d=sub%20dir/%C3%A4.jpg", embedded[2]]


def test_an_image_projects_queue_holds_its_images(sqlite_store: Store, tmp_path: Path) -> None:
    """Out of the database into the file; an item whose image is gone is counted."""
    images = [_picture("PNG"), None]
    keys = [image_key(images[0] or b""), b"gone" * 4]
    frame = {"key": keys, "source_id": ["a", "b"], "text": [None, "/no/such.png"], "image": images}
    append_items(sqlite_store, pl.DataFrame(frame), "source", 1)
    append_labels(
        sqlite_store, [(key, name, "imported") for key in keys for name in ("Kettles", "$5 menu")], 1
    )
    said = export_review(sqlite_store, tmp_path / "t.json", FLAT, 2, form="label-studio", modality="image")
    (task,) = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (said.rows, said.left_out) == (1, 1)
    assert task["data"]["image"].startswith("data:image/png;base64,")
    assert [one["result"][0]["value"] for one in task["predictions"]] == [
        {"choices": ["Kettles"]}, {"choices": ["＄5 menu"]},
    ]  # fmt: skip


def test_its_json_export_is_read_with_all_that_people_do(tmp_path: Path) -> None:
    """Annotated, skipped, cancelled and redone, submitted empty, rejected in review, and not annotated at all."""
    four, five, six = (text_key(text) for text in ("four", "five", "six"))
    file = tmp_path / "export.json"
    tasks = [
        _task(ONE, _annotation(["Kitchen", "Knives"]), number=1),
        _task(TWO, _annotation(["Garden", "Hoses"], was_cancelled=True), number=2),
        _task(
            THREE, _annotation(["Kitchen", "Knives"], was_cancelled=True), _annotation(["Garden", "Hoses"], 2)
        ),
        _task(four, {"id": 1, "result": [], "completed_by": 1}),
        _task(five, _annotation(["Garden", "Hoses"], reviews=[{"accepted": False}])),
        _task(six),
    ]
    file.write_text(json.dumps(tasks, indent=1), encoding="utf-8")
    decided = read_annotations(file, LabelReader(taxonomy()), KEYS | {four, five, six})
    assert decided == Decisions({ONE: KNIVES, THREE: HOSES}, 6, 3, 1, ())
    one_task = _read(tmp_path, tasks[0])
    assert one_task.labels == {ONE: KNIVES}
    file.write_text("\n".join(json.dumps(task) for task in tasks[:2]), encoding="utf-8-sig")
    assert read_annotations(file, LabelReader(taxonomy()), KEYS).labels == {ONE: KNIVES}


def test_people_who_disagree_are_outvoted_or_reported(tmp_path: Path) -> None:
    """A majority decides, a ground truth decides alone, a tie is a conflict, and its item stays as it was."""
    knives, hoses, kettles = ["Kitchen", "Knives"], ["Garden", "Hoses"], ["Kitchen", "Kettles"]
    decided = _read(
        tmp_path,
        [
            _task(ONE, _annotation(knives, 1), _annotation(hoses, 2), _annotation(knives, {"email": "c@x"})),
            _task(
                TWO, _annotation(knives, 1), _annotation(hoses, 2, ground_truth=True), _annotation(knives, 3)
            ),
            _task(THREE, _annotation(knives, {"id": 4, "email": "ann@x"}), _annotation(kettles, 2), number=9),
        ],
    )
    assert decided.labels == {ONE: KNIVES, TWO: HOSES}
    assert decided.conflicts == (f"task 9 (id-9): ann@x says {KNIVES!r}, 2 says {KETTLES!r}",)


@pytest.mark.parametrize(
    ("votes", "decided"),
    [
        ([], None),
        ([Vote("a", "x")], "x"),
        ([Vote("a", "x"), Vote("b", "y")], None),
        ([Vote("a", "x"), Vote("b", "y"), Vote("c", "z"), Vote("d", "x")], None),
        ([Vote("a", "x", "2"), Vote("a", "y", "1"), Vote("b", "x")], "x"),
        ([Vote("a", "x"), Vote("a", "y")], "y"),
        ([Vote("", "x"), Vote("", "x"), Vote("", "y"), Vote("1", "y"), Vote("2", "x")], "x"),
        ([Vote("a", "x", truth=True), Vote("b", "y"), Vote("c", "y")], "x"),
        ([Vote("a", "x", truth=True), Vote("b", "y", truth=True), Vote("c", "y")], None),
    ],
)
def test_more_than_half_of_the_people_decide(votes: list[Vote], decided: str | None) -> None:
    assert majority(votes) == decided


@pytest.mark.parametrize(
    "written",
    [
        [{"taxonomy": [["Kitchen", "Knives"]]}],
        [["Kitchen", "Knives"]],
        {"choices": ["Knives"]},
        "Knives",
        ["Knives"],
        "kitchen > knives",
    ],
)
def test_json_min_is_read_in_each_of_its_forms(tmp_path: Path, written: Any) -> None:
    """A record an annotation, without the tasks' own fields; Choices are bare names, a Taxonomy is a list."""
    plain = {"key": ONE.hex(), "text": "words", "id": 3, "annotator": 1, "annotation_id": 5, "lead_time": 2.5}
    other = {"key": TWO.hex(), "text": "more", "id": 4, "annotator": 1}
    decided = _read(tmp_path, [plain | {"final_label": written}, other])
    assert decided == Decisions({ONE: KNIVES}, 2, 1)
    conflict = _read(
        tmp_path, [plain | {"final_label": written}, plain | {"final_label": HOSES, "annotator": "b"}]
    )
    assert conflict.conflicts == (f"task 3 ({ONE.hex()}): 1 says {KNIVES!r}, b says {HOSES!r}",)


def test_a_label_with_a_dollar_comes_back_as_itself(tmp_path: Path) -> None:
    decided = _read(
        tmp_path, [_task(ONE, _annotation("＄5 menu")), _task(TWO, _annotation('say "hi"'))], FLAT
    )
    assert decided.labels == {ONE: "$5 menu", TWO: 'say "hi"'}


def test_all_wrong_tasks_are_told_and_none_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _read(
            tmp_path,
            [
                _task(ONE, _annotation(["Kitchen", "Knives"])),
                _task(ONE, _annotation(["Kitchen"])),
                _task(TWO, _annotation(["Kitchen", "Knifes"])),
                _task(b"x" * 16, number=8),
                {"id": 11, "data": {"text": "made there"}},
                _task(TWO, {"result": [*_annotation("a")["result"], *_annotation("b")["result"]]}, number=12),
            ],
        )
    told = str(caught.value)
    assert "5 rows cannot be taken" in told
    assert "row 2: 'Kitchen' is not a leaf" in told
    assert "row 3: unknown label 'Kitchen > Knifes' (did you mean 'Kitchen > Knives'?)" in told
    assert "row 4: task 8 has the unknown key" in told
    assert "row 5: task 11 has no key" in told
    assert "row 6: task 12 (id-12) has 2 labels in one annotation" in told


@pytest.mark.parametrize("content", ["[1, 2]", '[{"data": {}', '{"detail": "no such project"} nonsense'])
def test_json_that_is_no_export_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "export.json"
    file.write_text(content)
    with pytest.raises(InputError):
        read_annotations(file, LabelReader(taxonomy()), KEYS)


def test_what_a_team_decided_outranks_the_teacher_once(store: Store, tmp_path: Path) -> None:
    """Export, annotate, import: human labels; the same file again changes nothing."""
    _queue(store)
    file = tmp_path / "tasks.json"
    export_review(store, file, taxonomy(), 2, form="label-studio")
    unanswered = import_review(store, file, taxonomy(), 2)
    assert (unanswered.rows, unanswered.empty, unanswered.changed) == (3, 3, 0)
    tasks = json.loads(file.read_text(encoding="utf-8"))
    for number, task in enumerate(tasks, start=1):
        task["id"] = number
    tasks[0]["annotations"] = [_annotation(["Garden", "Hoses"], 1)]
    tasks[1]["annotations"] = [_annotation(["Kitchen", "Knives"], 1), _annotation(["Garden", "Hoses"], 2)]
    tasks[2]["annotations"] = [_annotation(["Kitchen", "Kettles"], 1, was_cancelled=True)]
    file.write_text(json.dumps(tasks), encoding="utf-8")
    done = import_review(store, file, taxonomy(), 2)
    assert (done.rows, done.changed, done.confirmed, done.skipped, done.conflicts) == (3, 1, 0, 1, 1)
    assert done.overturned == {level: {"reviewed": 1, "overturned": 1} for level in taxonomy().levels}
    assert "1 says" in done.conflicting[0]
    again = import_review(store, file, taxonomy(), 3)
    assert (again.changed, again.unchanged) == (0, 1)
    human = effective_labels(store).filter(pl.col("source") == "human")
    assert human.select("key", "label").rows() == [(text_key("audited"), HOSES)]


def test_nothing_written_is_an_empty_list_of_tasks(tmp_path: Path) -> None:
    count, size = write_tasks(tmp_path / "t.json", [])
    assert (count, json.loads((tmp_path / "t.json").read_text())) == (0, [])
    assert size == (tmp_path / "t.json").stat().st_size
