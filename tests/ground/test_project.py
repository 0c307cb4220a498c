"""A project file: defaults that work, and every mistake named with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tasks.errors import ConfigError
from tasks.project import Model, Project, load_project

MINIMAL: dict[str, Any] = {
    "project": "minimal",
    "task": {"taxonomy": "t.yaml"},
    "source": {"items": "items.csv"},
    "teacher": {"model": "some-model"},
}


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., ConfigError]:
    """Writes a minimal project with `changes` laid over it and returns the error of loading it."""

    def write(**changes: Any) -> ConfigError:
        file = tmp_path / "p.yaml"
        merged = {
            key: MINIMAL.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in changes.items()
        }
        file.write_text(yaml.safe_dump(MINIMAL | merged))
        with pytest.raises(ConfigError) as caught:
            load_project(file)
        assert caught.value.exit_code == 2
        assert str(file) in str(caught.value)
        assert caught.value.path in str(caught.value)
        return caught.value

    return write


def test_a_first_project_needs_only_three_sections(tmp_path: Path) -> None:
    """Everything beside task, source and teacher has a default; nothing is written by loading."""
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    project = load_project(file, home=tmp_path / "home")
    assert project.root == tmp_path / "home" / "var" / "minimal"
    assert project.database_url == f"sqlite:///{project.root / 'flywheel.db'}"
    assert project.tracking_uri == f"sqlite:///{tmp_path / 'home' / 'var' / 'mlflow.db'}"
    assert project.experiment == "minimal"
    assert (project.content_column, project.source.id, project.task.other) == ("text", None, "none of these")
    assert not (tmp_path / "home").exists()


def test_the_tiny_project_loads(tiny_project: Callable[..., Path]) -> None:
    """The tests' own project is a good one, and what is laid over it is."""
    project = load_project(tiny_project(teacher={"base_url": "http://localhost:1/v1"}))
    assert project.taxonomy.levels == ("department", "category")
    assert len(project.taxonomy.leaves) == 7
    assert project.teacher.base_url == "http://localhost:1/v1"
    assert project.teacher.model == "tiny-teacher"


@pytest.mark.parametrize(
    ("changes", "path", "named"),
    [
        ({"teachr": {}}, "teachr", "'teacher'"),
        ({"task": {"taxonmy": "t"}}, "task.taxonmy", "'taxonomy'"),
        ({"teacher": {"price": {"inputs": 1}}}, "teacher.price.inputs", "'input'"),
        (
            {"teacher": {"tie_breaker": {"model": "m", "modle": "n"}}},
            "teacher.tie_breaker.modle",
            "'model'",
        ),
        ({"labeling": {"mix": {"randon": 0.3}}}, "labeling.mix.randon", "'random'"),
        ({"routing": {"audit": 0.1}}, "routing.audit", "'audit_rate'"),
        ({"storage": {"databse": "x"}}, "storage.databse", "'database'"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(
    refusal: Callable[..., ConfigError], changes: dict[str, Any], path: str, named: str
) -> None:
    """At any depth an unknown key is refused with its dotted path and the key that was meant."""
    error = refusal(**changes)
    assert error.path == path
    assert error.problem.startswith("unknown key")
    assert f"Did you mean {named}?" in error.remedy


def test_an_unknown_key_like_nothing_lists_the_known_ones(refusal: Callable[..., ConfigError]) -> None:
    """Where nothing is near, the known keys stand in the message, and the internal ones do not."""
    remedy = refusal(zzzzqqqq=1).remedy
    assert "Did you mean" not in remedy
    assert "teacher" in remedy
    assert "home" not in remedy


def _keys(model: type[BaseModel], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, info in model.model_fields.items():
        if (*above, name) in (("file",), ("home",)):
            continue
        found.append((*above, name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += _keys(info.annotation, (*above, name))
    return found


@given(st.sampled_from(_keys(Project)), st.integers(0, 30), st.sampled_from("qzx_"))
def test_one_slip_of_the_finger_is_always_explained(
    tmp_path_factory: pytest.TempPathFactory, key: tuple[str, ...], place: int, letter: str
) -> None:
    """A known key with one letter too many, anywhere in the file, is named with its path and its cure."""
    *above, name = key
    place = min(place, len(name))
    slip = name[:place] + letter + name[place:]
    content: dict[str, Any] = {slip: None}
    for part in reversed(above):
        content = {part: content}
    file = tmp_path_factory.getbasetemp() / "slip.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    assert caught.value.path == ".".join([*above, slip])
    assert f"Did you mean {name!r}?" in caught.value.remedy


@pytest.mark.parametrize("section", ["project", "task", "source", "teacher"])
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    """Without one of the four needed keys the error names which."""
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in MINIMAL.items() if key != section}))
    with pytest.raises(ConfigError, match="is missing") as caught:
        load_project(file)
    assert caught.value.path == section


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"routing": {"target_error": 0}}, "routing.target_error"),
        ({"routing": {"target_error": 1.0}}, "routing.target_error"),
        ({"routing": {"checked_agreements": 0}}, "routing.checked_agreements"),
        ({"routing": {"checked_agreements": 1.5}}, "routing.checked_agreements"),
        ({"routing": {"target_error": float("nan")}}, "routing.target_error"),
        ({"routing": {"audit_rate": 1.1}}, "routing.audit_rate"),
        ({"routing": {"fallback": "guess"}}, "routing.fallback"),
        ({"routing": {"partial": "sometimes"}}, "routing.partial"),
        ({"student": {"prototypes": -1}}, "student.prototypes"),
        ({"student": {"full_search_days": -1}}, "student.full_search_days"),
        ({"teacher": {"passes": 0}}, "teacher.passes"),
        ({"teacher": {"concurrency": "many"}}, "teacher.concurrency"),
        ({"teacher": {"budget_usd": -1}}, "teacher.budget_usd"),
        ({"teacher": {"budget_usd": float("inf")}}, "teacher.budget_usd"),
        ({"teacher": {"price": {"output": -0.1}}}, "teacher.price.output"),
        ({"labeling": {"mix": {"uncertain": 0.9}}}, "labeling.mix"),
        ({"student": {"candidates": []}}, "student.candidates"),
        ({"student": {"candidates": ["linear", "linear"]}}, "student.candidates"),
        ({"student": {"candidates": ["linear", "forest"]}}, "student.candidates.1"),
        ({"student": {"ensemble_with": ["forest"]}}, "student.ensemble_with.0"),
        ({"task": {"levels": ["a", "a"]}}, "task.levels"),
        ({"task": {"levels": []}}, "task.levels"),
        ({"task": {"levels": ["tier"]}}, "task.levels"),
        ({"task": {"levels": ["row"]}}, "task.levels"),
        ({"task": {"levels": ["source_id"]}}, "task.levels"),
        ({"task": {"modality": "sound"}}, "task.modality"),
        ({"project": "Not A Name"}, "project"),
        ({"project": "../up"}, "project"),
        ({"project": ""}, "project"),
        ({"teacher": "gpt"}, "teacher"),
        ({"source": None}, "source"),
        ({"runner": "cluster"}, "runner"),
        ({"promotion": {"margin": 0}}, "promotion.margin"),
        ({"monitor": {"false_alarms": 0}}, "monitor.false_alarms"),
        ({"monitor": {"tolerance": 1}}, "monitor.tolerance"),
        ({"monitor": {"tolerance": -0.1}}, "monitor.tolerance"),
        ({"monitor": {"new_labels": 0}}, "monitor.new_labels"),
        ({"monitor": {"quiet_hours": 0}}, "monitor.quiet_hours"),
        ({"schedule": {"monitor": 4}}, "schedule.monitor"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(
    refusal: Callable[..., ConfigError], changes: dict[str, Any], path: str
) -> None:
    """A value out of its range, of another type or not among the choices names its dotted path."""
    error = refusal(**changes)
    assert error.path == path
    assert "Value error" not in error.problem


def test_several_mistakes_are_counted(refusal: Callable[..., ConfigError]) -> None:
    """The first mistake is explained, unknown keys before all, and the others are counted."""
    error = refusal(routing={"target_error": 2, "fallback": "x"}, student={"fold": 3})
    assert error.path == "student.fold"
    assert "(2 more mistakes in this file)" in error.problem


@pytest.mark.parametrize("key", ["file", "home"])
def test_internal_fields_cannot_be_written(refusal: Callable[..., ConfigError], key: str) -> None:
    """Where the file lies is not for the file to say."""
    assert refusal(**{key: "elsewhere"}).path == key


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty or not a mapping"),
        (b"- a\n", "empty or not a mapping"),
        (b"task: {a: [}\n", "line 1"),
        (b"project: a\nproject: b\n", "'project' stands twice"),
        (b"project: a\ntask:\n  taxonomy: t\n  taxonomy: u\n", "line 4"),
        (b"project: caf\xe9\n", "not UTF-8"),
        (b"project: 2024-13-45\n", "not YAML"),
        (b"1: 2\n", "1: unknown key"),
    ],
)
def test_a_file_that_is_no_project_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Empty, broken, doubled or undecodable files are configuration errors that say so."""
    file = tmp_path / "p.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """No file, or a folder in its place, points to `flywheel init`."""
    for file in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="flywheel init"):
            load_project(file)


def test_input_paths_are_from_the_files_folder(tiny_project: Callable[..., Path]) -> None:
    """A relative input starts at the YAML's folder, not at the working directory."""
    file = tiny_project()
    project = load_project(file)
    assert project.resolve("items.parquet") == file.parent / "items.parquet"
    assert project.resolve("/elsewhere/x") == Path("/elsewhere/x")


def test_var_is_under_flywheel_home(
    tiny_project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`FLYWHEEL_HOME` moves everything a project writes; without it the working directory does."""
    file = tiny_project()
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "there"))
    assert load_project(file).root == tmp_path / "there" / "var" / "tiny"
    monkeypatch.delenv("FLYWHEEL_HOME")
    monkeypatch.chdir(tmp_path)
    assert load_project(file).root == tmp_path / "var" / "tiny"


def test_a_project_cannot_be_changed(tiny_project: Callable[..., Path]) -> None:
    """Settings are frozen."""
    project = load_project(tiny_project())
    with pytest.raises(ValidationError):
        project.project = "other"  # type: ignore[misc]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set variable is used, a loopback server needs none, and elsewhere its absence is explained."""
    model = Model(model="m", base_url="https://api.example.org/v1", api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "a-secret")
    assert model.api_key == "a-secret"
    assert "a-secret" not in repr(model)
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match="export SOME_KEY="):
        _ = model.api_key
    assert Model(model="m", base_url="http://127.0.0.1:8000/v1", api_key_env="SOME_KEY").api_key
