"""Writes a sentence-transformers model as an ONNX graph: once, whole or not at all, into a folder of its fingerprint.

Through torch's own exporter, batch and length left open; what is int8 is made of what is float32. Knows nothing of
how the graph is run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tasks.embedding.sentence_encoder import load_model, most_tokens, ready_tokenizer
from tasks.embedding.settings import EncoderSettings, fingerprint
from tasks.errors import EncoderError

GRAPH, LIMITS = "model.onnx", "limits.json"
OPSET = 18  # the exporter's own; ONNX Runtime has read it since 1.14
EXAMPLE_ROWS, EXAMPLE_TOKENS = 3, 7
HOME = "FLYWHEEL_ONNX_HOME"


def exported(settings: EncoderSettings) -> Path:
    """The graph's file, written before the first use; beside it lies the model's tokenizer.

    Raises:
        EncoderError: the extra is not installed, or the model cannot be written as a graph.
    """
    # What is done before and after the graph, prefix and lengths of vectors say, decides none.
    model = EncoderSettings(
        settings.model, revision=settings.revision, max_length=settings.max_length, backend=settings.backend
    )
    folder = graphs_home() / fingerprint(model)
    if not (folder / GRAPH).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            if settings.backend == "onnx-int8":
                _quantise(settings, beside)
            else:
                _export(settings, beside)
            try:
                beside.rename(folder)
            except OSError:
                if not (folder / GRAPH).exists():  # else another process was faster: its graph is the same
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder / GRAPH


def graphs_home() -> Path:
    """Where graphs are kept: FLYWHEEL_ONNX_HOME, else beside what the projects write."""
    from tasks.project import flywheel_home

    return Path(os.environ.get(HOME) or flywheel_home() / "var" / "onnx")


def _export(settings: EncoderSettings, folder: Path) -> None:
    import torch

    needs("onnx", "onnxscript")
    model = load_model(settings)
    tokenizer = ready_tokenizer(model)
    if tokenizer is None:
        raise EncoderError(
            settings.model, "is no plain text transformer, which ONNX needs", "Set encoder.backend: torch."
        )
    limits = {"most_tokens": most_tokens(model), "dimension": int(model.get_embedding_dimension())}
    wrapped = _wrapped(model.to("cpu").float())
    ids = torch.randint(5, 100, (EXAMPLE_ROWS, EXAMPLE_TOKENS))
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=most_tokens(model))
    open_axes = {0: rows, 1: length}
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                wrapped,
                (ids, torch.ones_like(ids)),
                str(folder / GRAPH),
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes=(open_axes, open_axes),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        tokenizer.save_pretrained(str(folder))
        (folder / LIMITS).write_text(json.dumps(limits), encoding="utf-8")
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise EncoderError(
            settings.model,
            f"cannot be written as an ONNX graph ({str(error).strip().splitlines()[0][:200]})",
            "Set encoder.backend: torch.",
        ) from error


def _quantise(settings: EncoderSettings, folder: Path) -> None:
    """Weights int8 by output channel, activations as they come: dynamic quantisation."""
    from dataclasses import replace

    needs("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = exported(replace(settings, backend="onnx"))
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preprocessing that the exporter has done
    try:
        quantize_dynamic(
            str(whole),
            str(folder / GRAPH),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    finally:
        root.setLevel(level)
    for file in whole.parent.iterdir():
        if file.name != GRAPH:
            shutil.copy(file, folder / file.name)


def read_limits(file: Path) -> dict[str, int]:
    """How many tokens the model reads, and of how many dimensions its vectors are."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _wrapped(model: Any) -> Any:
    import torch

    class Graph(torch.nn.Module):
        """From tokens to pooled vectors, as the library's own modules do it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            """Float32 [rows, dimension] of int64 [rows, length] twice."""
            return self.model({"input_ids": input_ids, "attention_mask": attention_mask})[
                "sentence_embedding"
            ]

    return Graph().eval()


def needs(*packages: str) -> None:
    """Nothing, where the packages are installed.

    Raises:
        EncoderError: one is not.
    """
    from importlib.util import find_spec

    if missing := [package for package in packages if find_spec(package) is None]:
        raise EncoderError(
            "onnx",
            f"the backend needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} not installed",
            "pip install 'llm-flywheel[onnx]', or set encoder.backend: torch.",
        )
