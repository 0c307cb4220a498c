"""`flywheel embed`, its `--verify` and its `--prune`: what they do to a real project, say, and exit with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from deployments.cli import main
from tasks.embedding.cache import EmbeddingCache
from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import EncoderSettings, fingerprint, load_encoder
from tasks.embedding.vectors import encoder_settings
from tasks.errors import TrainingError
from tasks.project import Project, load_project
from tasks.records import text_key
from tasks.student.linear import LinearHead
from tasks.student.package import Student
from tasks.taxonomy import Taxonomy
from tests.embedding.numbered import part_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

Write = Callable[..., Path]


def run(*arguments: str | Path, code: int) -> str:
    """A command in this process; everything it printed, with white space as single spaces."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def cache_of(project: Project) -> EmbeddingCache:
    return cache_for(encoder_settings(project.encoder), project.root)


def test_embed_verifies_and_heals(tiny_project: Write) -> None:
    """A good cache exits 0; a rotten part is named, set aside and exits 3; `embed` then encodes its items anew."""
    file = tiny_project()
    assert "90 encoded, 0 cached, 90 in all" in run("embed", "--project", file, code=0)
    assert "1 parts, 90 vectors, 20 of them encoded anew: all right" in run(
        "embed", "--verify", "--sample", "20", "--project", file, code=0
    )
    [part] = part_files(cache_of(load_project(file)))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    said = run("embed", "--verify", "--project", file, code=3)
    assert f"1 parts wrong and set aside {part.name}: its checksum is wrong in row group 0" in said
    assert "`flywheel embed` encodes their items anew" in said
    assert "90 encoded, 0 cached" in run("embed", "--project", file, code=0)
    assert "90 vectors, 90 of them encoded anew: all right" in run(
        "embed", "--verify", "--project", file, code=0
    )


def test_embed_says_which_parts_it_set_aside(tiny_project: Write) -> None:
    """A cut part met on the way is named, and what lay in it is encoded again in the same run."""
    file = tiny_project()
    run("embed", "--project", file, code=0)
    [part] = part_files(cache_of(load_project(file)))
    part.write_bytes(part.read_bytes()[:-9])
    said = run("embed", "--project", file, code=0)
    assert "90 encoded, 0 cached, 90 in all" in said
    assert f"damaged parts set aside, their items encoded anew: {part.name}: cannot be read" in said


def test_a_model_that_changed_behind_its_name_is_found_out(tiny_project: Write) -> None:
    """Vectors that the encoder no longer gives: `--verify` exits 3 and sets them aside, whatever the checksum says."""
    file = tiny_project()
    project = load_project(file)
    texts = pl.read_parquet(file.with_name("items.parquet"))["name"].to_list()
    made_up = np.random.default_rng(0).standard_normal((60, 64), dtype=np.float32)
    cache_of(project).append([text_key(text) for text in texts], made_up)
    run("embed", "--project", file, code=0)
    said = run("embed", "--verify", "--sample", "40", "--project", file, code=3)
    assert "of 20 vectors are not what the encoder gives now" in said
    assert "60 encoded, 30 cached" in run("embed", "--project", file, code=0)
    assert np.allclose(
        cache_of(project).read([text_key(texts[7])]),
        load_encoder(EncoderSettings("hash:64")).encode([texts[7]]),
    )


def test_float16_is_another_cache_of_half_the_size(tiny_project: Write) -> None:
    """`encoder.storage_dtype` is part of the fingerprint, and the vectors read are the same to three digits."""
    file = tiny_project()
    run("embed", "--project", file, code=0)
    half_file = tiny_project(file.parent / "half", encoder={"storage_dtype": "float16"})
    run("embed", "--project", half_file, code=0)
    whole, half = cache_of(load_project(file)), cache_of(load_project(half_file))
    assert whole.folder.name != half.folder.name
    asked = whole.keys()["key"]
    assert np.allclose(whole.read(asked), half.read(asked), atol=5e-4)
    assert not np.array_equal(whole.read(asked), half.read(asked))


def test_options_that_do_not_go_together_are_wrong_usage(tiny_project: Write) -> None:
    """Each of the three jobs is run by itself."""
    file = tiny_project()
    assert "one after the other" in run("embed", "--verify", "--prune", "--project", file, code=2)
    assert "--yes goes with --prune" in run("embed", "--yes", "--project", file, code=2)


LEAVES = ("a", "b")


def register(project: Project, encoder: EncoderSettings) -> None:
    """A version of the project's model that this encoder feeds."""
    from tasks.promotion.registry import CandidateRun
    from tasks.promotion.tracking import registry_of

    names = ["kettle", "knife"] * 4
    head = LinearHead(1.0).fit(load_encoder(encoder).encode(names), np.array([0, 1] * 4), n_leaves=2, seed=0)
    student = Student(Taxonomy(("level",), LEAVES, {}), head, "linear", "text", encoder)
    snapshot = project.root / "rows.parquet"
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({"key": [b"k" * 16], "label": ["a"], "source": ["human"]}).write_parquet(snapshot)
    registry = registry_of(project)
    made = registry.log_retrain(CandidateRun("retrain", {}, {}), [], snapshot, "f" * 24, {}, {})
    registry.register(made, student, "", {})


def test_only_what_neither_the_project_nor_a_version_uses_is_pruned(tiny_project: Write) -> None:
    """Caches of the project's encoder, of a registered version's and of another project's stay; the fourth goes.

    Nothing is deleted without `--yes`. While a version's files are gone nobody knows what it uses, and nothing goes.
    """
    from tasks.promotion.tracking import registry_of

    file = tiny_project()
    project = load_project(file)
    sizes = {"project": 64, "version": 32, "neighbour": 16, "nobody": 8}
    settings = {name: EncoderSettings(f"hash:{size}") for name, size in sizes.items()}
    folders = {name: project.root / "embeddings" / fingerprint(encoder) for name, encoder in settings.items()}
    for name, encoder in settings.items():
        cache_for(encoder, project.root).append([text_key(name)], load_encoder(encoder).encode([name]))
    register(project, settings["version"])
    register(load_project(tiny_project(file.parent / "b", project="neighbour")), settings["neighbour"])

    listed = run("embed", "--prune", "--project", file, code=0)
    in_use, unused = listed.split("used by nobody:")
    assert all(folders[name].name in in_use for name in ("project", "version", "neighbour"))
    assert folders["nobody"].name in unused
    assert "nothing is deleted; `flywheel embed --prune --yes`" in unused
    assert all(folder.is_dir() for folder in folders.values())

    model = Path(registry_of(project).artifact_root)
    shutil.move(model / "tiny", model.with_name("elsewhere"))
    said = run("embed", "--prune", "--yes", "--project", file, code=TrainingError.exit_code)
    assert "tiny version 1 cannot be read" in said
    assert folders["nobody"].is_dir()
    shutil.move(model.with_name("elsewhere"), model / "tiny")

    done = CliRunner().invoke(main, ["embed", "--prune", "--yes", "--json", "--project", str(file)])
    assert done.exit_code == 0, done.output
    assert [name for name, folder in folders.items() if folder.is_dir()] == [
        "project",
        "version",
        "neighbour",
    ]
    assert "none" in run("embed", "--prune", "--project", file, code=0).split("used by nobody:")[1]


def test_a_version_whose_encoder_is_gone_keeps_every_cache_of_that_name(tiny_project: Write) -> None:
    """Without the model nobody can tell its fingerprint, so all caches of models of that name stay."""
    file = tiny_project()
    project = load_project(file)
    kept, other = (project.root / "embeddings" / f"{name}-0123456789ab" for name in ("gone-since", "another"))
    for folder in (kept, other):
        EmbeddingCache(folder).append([b"k" * 16], np.ones((1, 2), np.float32))
    register(project, EncoderSettings("hash:2"))
    [written] = project.home.glob("var/mlartifacts/**/student/student.json")
    body = json.loads(written.read_text())
    body["encoder"]["model"] = "package:gone-since"
    del body["encoder"]["storage_dtype"]  # as versions of before that setting are
    written.write_text(json.dumps(body))
    run("embed", "--prune", "--yes", "--project", file, code=0)
    assert kept.is_dir()
    assert not other.exists()
