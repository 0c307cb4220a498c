"""The settings `runner` and `storage.cache`, from the project file to vectors that other workers cached there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.embedding.embed import cache_for
from tasks.embedding.encoders import load_encoder
from tasks.embedding.pools import open_pool, usable_cores
from tasks.embedding.runners import RunnerError
from tasks.embedding.vectors import encoder_settings
from tasks.errors import ConfigError
from tasks.project import Runner, load_project
from tasks.records import text_key

TinyProject = Callable[..., Path]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("threads", Runner()),
        ("processes", Runner(kind="processes")),
        ({"kind": "dask", "address": "tcp://host:8786"}, Runner(kind="dask", address="tcp://host:8786")),
        ({"kind": "ray", "workers": 2, "threads": 4}, Runner(kind="ray", workers=2, threads=4)),
    ],
)
def test_a_runner_is_a_word_or_a_section(tiny_project: TinyProject, written: Any, meant: Runner) -> None:
    """The word alone is its kind, with the defaults of everything else."""
    assert load_project(tiny_project(runner=written)).runner == meant


@pytest.mark.parametrize(
    ("written", "path", "problem"),
    [
        ("cluster", "runner", "one of threads, processes, dask, ray"),
        ({"kind": "cluster"}, "runner.kind", "dask"),
        ({"adress": "tcp://host:8786"}, "runner.adress", "Did you mean 'address'"),
        ({"kind": "processes", "address": "tcp://host:8786"}, "runner", "address is for kind: dask or ray"),
        ({"workers": 0}, "runner.workers", "greater than or equal to 1"),
    ],
)
def test_a_wrong_runner_is_named(tiny_project: TinyProject, written: Any, path: str, problem: str) -> None:
    """With its place in the file, and what may stand there."""
    with pytest.raises(ConfigError, match=problem) as raised:
        load_project(tiny_project(runner=written))
    assert raised.value.path == path


def test_the_cache_lies_under_the_root_unless_it_is_told_otherwise(
    tiny_project: TinyProject, tmp_path: Path
) -> None:
    """A relative path is from the home as the root's is; a URL stays as it is."""
    plain = load_project(tiny_project(), home=tmp_path)
    assert plain.cache_root == plain.root
    elsewhere = load_project(tiny_project(storage={"cache": "shared/vectors"}), home=tmp_path)
    assert elsewhere.cache_root == tmp_path / "shared" / "vectors"
    bucket = load_project(tiny_project(storage={"cache": "s3://bucket/prefix"}), home=tmp_path)
    assert bucket.cache_root == "s3://bucket/prefix"
    assert bucket.root == plain.root


def test_a_root_at_a_url_is_refused_with_the_setting_that_may_be_one(tiny_project: TinyProject) -> None:
    """It would otherwise become a folder named s3:."""
    with pytest.raises(ConfigError, match=r"must be a folder.*storage\.cache") as raised:
        load_project(tiny_project(storage={"root": "s3://bucket/prefix"}))
    assert raised.value.path == "storage.root"


def test_the_step_embeds_by_the_runner_into_the_cache(tiny_project: TinyProject, tmp_path: Path) -> None:
    """Two processes, shards of sixteen, a cache beside the root: every item and gold item has its own vector there."""
    from tasks.embedding.steps import embed
    from tasks.store import open_store
    from tasks.store.items import append_items

    file = tiny_project(
        runner={"kind": "processes", "workers": 2, "shard_rows": 16},
        storage={"cache": str(tmp_path / "shared")},
    )
    project = load_project(file, home=tmp_path)
    names = pl.read_parquet(file.with_name("items.parquet"))["name"].to_list()
    gold = pl.read_parquet(file.with_name("gold.parquet"))["name"].to_list()
    items = pl.DataFrame(
        {
            "key": [text_key(name) for name in names],
            "source_id": names,
            "text": names,
            "image": [None] * len(names),
        },
        schema={"key": pl.Binary, "source_id": pl.String, "text": pl.String, "image": pl.Binary},
    )
    store = open_store(project.database_url, project.project)
    append_items(store, items, "source", run_id=1)
    store.close()

    done = embed.fn(project)
    total = len({*names, *gold})
    assert (done.encoded, done.cached, done.not_encoded) == (total, 0, 0)
    settings = encoder_settings(project.encoder)
    cache = cache_for(settings, tmp_path / "shared")
    assert len(cache.parts()) == -(-total // 16)
    found = cache.read([text_key(name) for name in [*gold, *names]])
    assert np.array_equal(found, load_encoder(settings).encode([*gold, *names]))
    assert not (project.root / "embeddings").exists()
    assert embed.fn(project).encoded == 0


def test_a_cluster_whose_package_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, and that the workers need it too."""
    for module in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, module, None)
    for kind in ("dask", "ray"):
        with pytest.raises(RunnerError, match=rf'pip install "llm-flywheel\[{kind}\]", on the workers too'):
            open_pool(kind, workers=1)


def test_there_are_as_many_processes_as_cores_by_default() -> None:
    """One for every so many threads, and at least one."""
    for threads, workers in ((1, usable_cores()), (1000, 1)):
        pool = open_pool("processes", threads=threads)
        assert pool.slots() == workers
        pool.close()
