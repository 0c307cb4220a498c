"""Writes a student for programs without this package: an ONNX graph, its labels and thresholds, how to use them.

Nothing is written that does not say what the student says. Knows no registry and no database.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.records import Record
from tasks.student.finetuned import ENCODER_FOLDER, FinetunedHead
from tasks.student.onnx_comparison import (
    Difference,
    OnnxStudent,
    clear_rows,
    compared_on,
    difference,
    needs,
    tolerance,
)
from tasks.student.onnx_graph import student_graph
from tasks.student.onnx_readme import readme
from tasks.student.package import Student

GRAPH, INT8_GRAPH, LABELS, README = "head.onnx", "head.int8.onnx", "labels.json", "README.md"
FORMAT = 1


@dataclass(frozen=True)
class Exported(Record):
    """What lies in the folder."""

    folder: str
    files: Mapping[str, int]
    model_version: str
    student: str
    float32: Difference
    int8: Difference | None


def graph_bytes(student: Student) -> bytes:
    """The float32 graph of a student, unchecked.

    Raises:
        ConfigError: the extra is not installed.
        TrainingError: a part of the student has no form in ONNX, with its name.
    """
    needs("onnx", "onnxruntime")
    model, _ = student_graph(student)
    return bytes(model.SerializeToString())


def export_onnx(
    student: Student,
    folder: Path,
    inputs: NDArray[np.float32] | list[bytes],
    *,
    model_version: str,
    policy: Mapping[str, Any] | None = None,
    int8: bool = False,
) -> Exported:
    """Afterwards the folder holds `head.onnx`, `labels.json`, `README.md` and, where asked for, `head.int8.onnx`.

    An encoder that was trained with its head comes along in `encoder/`, as sentence-transformers reads it.

    Each file replaces an older one whole. The graph is compared with the student on `inputs` and, where it takes
    vectors, on random ones too, before anything is written.

    Args:
        student: linear, mlp, ensemble, finetuned or timm.
        folder: made where it does not exist.
        inputs: vectors float32 [n, d] of real items, or encoded images.
        model_version: written beside the labels.
        policy: a `Policy` as a mapping; its thresholds are what a program may answer under.
        int8: dynamic quantisation as well: weights int8 (in convolutions uint8), what flows through as it comes. Image
            models become smaller by it, but slower and much less exact.

    Raises:
        ConfigError: the extra is not installed.
        TrainingError: a part of the student has no form in ONNX, or the graph says something else than the student.
    """
    needs("onnx", "onnxruntime")
    model, products = student_graph(student)
    serialised = bytes(model.SerializeToString())
    asked, own = compared_on(student, inputs)
    wanted = _wanted(student, policy)
    clear = clear_rows(student, asked)
    float32 = difference(student, OnnxStudent(serialised), asked, own, clear, wanted)
    allowed = tolerance(student)
    if not float32.largest <= allowed:
        raise TrainingError(
            f"the ONNX graph of this {student.kind} differs from it by {float32.largest:.1e} on {float32.rows} items, "
            f"where {allowed:.0e} is allowed",
            "nothing was written; report this with the version",
        )
    files = {GRAPH: serialised}
    rough = None
    if int8:
        files[INT8_GRAPH] = _quantised(model, products, student.reads_images)
        rough = difference(student, OnnxStudent(files[INT8_GRAPH]), asked, own, clear, wanted)
    labels = _labels(student, model_version, policy, wanted, float32, rough)
    files[LABELS] = (json.dumps(labels, indent=1, ensure_ascii=False) + "\n").encode()
    files[README] = readme(student.reads_images, asked.shape[1:], rough is not None).encode()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(student.head, FinetunedHead):
        shutil.copytree(student.head.encoder_folder, folder / ENCODER_FOLDER, dirs_exist_ok=True)
    for name, body in files.items():
        beside = folder / f".{name}.tmp"
        beside.write_bytes(body)
        beside.replace(folder / name)
    sizes = {name: len(body) for name, body in files.items()}
    return Exported(str(folder), sizes, model_version, student.kind, float32, rough)


def _quantised(model: Any, products: list[str], images: bool) -> bytes:
    """Dynamic quantisation of the head's own products; convolutions only run with weights in uint8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    level = logger.level
    copy = onnx.ModelProto()  # the original is not to be changed
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)  # it advises a preprocessing that changes nothing here
        try:
            quantize_dynamic(
                copy,
                Path(scratch) / "int8.onnx",
                per_channel=not images,
                weight_type=QuantType.QUInt8 if images else QuantType.QInt8,
                nodes_to_quantize=products,
                op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            )
        finally:
            logger.setLevel(level)
        return (Path(scratch) / "int8.onnx").read_bytes()


def _wanted(student: Student, policy: Mapping[str, Any] | None) -> tuple[float, ...] | None:
    thresholds = None if policy is None else policy.get("thresholds")
    return (
        None if thresholds is None else tuple(float(thresholds[level]) for level in student.taxonomy.levels)
    )


def _labels(
    student: Student,
    model_version: str,
    policy: Mapping[str, Any] | None,
    wanted: tuple[float, ...] | None,
    float32: Difference,
    rough: Difference | None,
) -> dict[str, Any]:
    """All that a program needs beside the graph, as plain values."""
    taxonomy, about = student.taxonomy, dict(policy or {})
    reads: dict[str, Any] = {"encoder": asdict(student.encoder)}
    if isinstance(student.head, FinetunedHead):
        reads["encoder"]["model"] = ENCODER_FOLDER  # its own one, beside the graph
    if student.reads_images:
        reads = {"image_size": student.head.image_size}
    return {
        "format": FORMAT,
        "model_version": model_version,
        "student": student.kind,
        "modality": student.modality,
        "levels": list(taxonomy.levels),
        "leaves": list(taxonomy.leaves),
        "columns": [
            [path[level] for level in taxonomy.levels] for path in map(taxonomy.to_columns, taxonomy.leaves)
        ],
        "other": taxonomy.other,
        "thresholds": None if wanted is None else list(wanted),
        "partial_thresholds": about.get("partial_thresholds"),
        "promise": {
            name: about[name]
            for name in (
                "id",
                "target_error",
                "confidence",
                "certified_coverage",
                "partial_coverage",
                "against",
                "sentence",
            )
            if name in about
        },
        "reads": reads,
        "compared": {"float32": float32.as_dict()} | ({} if rough is None else {"int8": rough.as_dict()}),
    }
