"""A registered version as ONNX: with its run where the project says so, by command for whoever asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tasks.cleaning.steps import clean_snapshot
from tasks.errors import ConfigError, TrainingError
from tasks.project import Project, load_project
from tasks.promotion.exporting import attach_onnx, compared_inputs, export_version, resolve_version
from tasks.promotion.registry import Registry
from tasks.promotion.steps import promote_challenger
from tasks.promotion.tracking import registry_of
from tasks.records import Retrained, text_key
from tasks.store import Store, open_store
from tasks.store.items import append_items
from tasks.store.labels import append_labels
from tasks.store.policies import policy_in_force
from tasks.student import gbdt
from tasks.student.steps import take_snapshot, train_and_register
from tests.conftest import TINY_LEAVES, write_tiny_project
from tests.deployments.commands import flywheel
from tests.monitoring.filled import items_of

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("xgboost", reason="the extra `xgboost` is not installed")
pytestmark = pytest.mark.slow

LEAVES = [" > ".join(leaf) for leaf in TINY_LEAVES]


class Served(NamedTuple):
    """A project whose first version serves."""

    project: Project
    store: Store
    retrained: Retrained
    registry: Registry


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """240 labelled items, `linear` and `gbdt` compared, `student.onnx: true`, promoted."""
    home = tmp_path_factory.mktemp("served")
    student = {"candidates": ["linear", "gbdt"], "onnx": True}
    routing = {"target_error": 0.4, "confidence": 0.8}
    file = write_tiny_project(
        home / "conf", gold=None, student=student, routing=routing, task={"other": None}
    )
    project = load_project(file, home)
    store = open_store(project.database_url, project.project)
    nouns, rng = list(TINY_LEAVES.values()), np.random.default_rng(0)
    names = [f"item{n} {nouns[n % 6][int(rng.integers(5))]}" for n in range(240)]
    append_items(store, items_of(names), "source", 1)
    append_labels(store, [(text_key(name), LEAVES[n % 6], "consensus") for n, name in enumerate(names)], 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gbdt, "MAX_ROUNDS", 20)
        cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
        retrained = train_and_register.fn(project, cleaned, 1)
    assert promote_challenger.fn(project).promoted
    yield Served(project, store, retrained, registry_of(project))
    store.close()


def artifacts(served: Served, run_id: str, folder: str) -> set[str]:
    client = served.registry._client()
    return {Path(file.path).name for file in client.list_artifacts(run_id, folder)}


def test_boosted_trees_are_a_candidate_like_the_others(served: Served) -> None:
    """Judged beside the linear head, and a run of their own in MLflow with what tuning chose."""
    assert {"linear", "gbdt"} <= set(served.retrained.candidates)
    client = served.registry._client()
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "tiny"]
    (trees,) = [run for run in client.search_runs([experiment]) if run.info.run_name.endswith(" gbdt")]
    assert int(trees.data.params["rounds"]) >= 1
    assert trees.data.metrics["out_of_fold_log_loss"] > 0


def test_a_retrain_keeps_the_graph_with_its_run(served: Served) -> None:
    """`student.onnx: true`: the files lie in the run's folder `onnx`, and the version says so."""
    assert served.retrained.student == "linear"
    assert artifacts(served, served.retrained.run_id, "onnx") == {"head.onnx", "labels.json", "README.md"}
    assert served.registry.tags("1")["onnx"] == "kept with the run"


def test_a_version_without_a_form_in_onnx_says_why(served: Served) -> None:
    """The retrain stands; its version has a tag with the reason, and its run no such folder."""
    champion = served.registry.load("1")
    trees = gbdt.GbdtHead(1).fit(np.eye(6, dtype=np.float32), np.arange(6), n_leaves=6, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(served.registry), "attach", None)  # a call would fail
        attach_onnx(served.registry, served.retrained, replace(champion, head=trees, kind="gbdt"), [])
    assert "kind `gbdt` has no ONNX form" in served.registry.tags("1")["onnx"]
    served.registry.tag("1", {"onnx": "kept with the run"})


def test_the_command_writes_the_champion_with_its_policy(served: Served) -> None:
    """What JSON says lies in the folder; the graph answers the project's items as the champion does."""
    from tasks.student.onnx_comparison import OnnxStudent

    home, project = served.project.home, served.project
    out = home / "out"
    options = ("--project", project.file, "--int8", "--out", out, "--json")
    done = flywheel("export", *options, cwd=home, home=home)
    assert done.code == 0, done.err
    body = done.body
    assert body["model_version"] == "1"
    assert body["files"] == {path.name: path.stat().st_size for path in out.iterdir()}
    assert body["float32"]["rows"] == body["int8"]["rows"] > 240
    policy = policy_in_force(served.store, "1")
    assert policy is not None
    assert policy.thresholds is not None
    labels = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert labels["thresholds"] == [policy.thresholds[level] for level in labels["levels"]]
    assert labels["promise"]["id"] == policy.id
    champion = served.registry.load("1")
    inputs = compared_inputs(project, served.store, champion)
    _, leaf, confidences = OnnxStudent(out / "head.onnx").run(inputs)
    own = champion.answers(inputs)
    assert [labels["leaves"][place] for place in leaf] == own.labels
    np.testing.assert_allclose(confidences, own.confidences, atol=1e-4)


def test_what_is_exported_is_said_in_words(served: Served, tmp_path: Path) -> None:
    """For people: the version, each file's size, how far from the student, int8 only where it was asked for."""
    from deployments.commands.export import written

    exact = written(export_version(served.project, served.store, "1", tmp_path))
    assert "version 1 (linear)" in exact
    assert "head.onnx" in exact
    assert "probabilities within" in exact
    assert "int8" not in exact
    rough = written(export_version(served.project, served.store, "champion", tmp_path, int8=True))
    assert "int8: probabilities within" in rough
    assert "the same decision on" in rough


def test_a_version_that_is_not_there_is_refused(served: Served, tmp_path: Path) -> None:
    """An unknown number is wrong usage and names the known ones; a place that nobody holds has failed."""
    with pytest.raises(ConfigError, match=r"no version 9\. Known: champion, challenger, 1\.") as wrong:
        export_version(served.project, served.store, "9", tmp_path / "out")
    assert wrong.value.exit_code == 2
    with pytest.raises(TrainingError, match=r"there is no challenger to export.*promote") as nobody:
        resolve_version(served.registry, "challenger")
    assert nobody.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_without_items_there_is_nothing_to_compare_on(served: Served, tmp_path: Path) -> None:
    """A graph nobody could compare on the project's own items is not written."""
    empty = open_store(f"sqlite:///{tmp_path / 'empty.db'}", "tiny")
    with pytest.raises(TrainingError, match="no item to compare the graph on"):
        compared_inputs(served.project, empty, served.registry.load("1"))
    empty.close()
