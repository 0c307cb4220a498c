"""A champion whose files are gone, and one whose promotion a kill cut short: what is said, and the ways back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import polars as pl
import pytest

from tasks.errors import TrainingError
from tasks.project import Project
from tasks.promotion.registry import Registry
from tasks.promotion.steps import promote_challenger, rollback_champion
from tasks.promotion.tracking import registry_of
from tasks.routing.steps import route_file
from tasks.student.steps import recalibrate_champion
from tests.promotion.shop import a_shop, a_version

pytestmark = pytest.mark.slow


def lose_files(project: Project, version: str) -> None:
    """As a cleaned-up disk would."""
    from mlflow import MlflowClient

    client = MlflowClient(project.tracking_uri)
    source = client.get_model_version(project.project, version).source
    model = client.get_logged_model(source.removeprefix("models:/"))
    shutil.rmtree(unquote(urlparse(model.artifact_location).path))


def test_a_champion_without_files_is_said_and_replaced(tmp_path: Path) -> None:
    """Routing and recalibrating name version and remedy; the predecessor serves again, or a new version by force."""
    project = a_shop(tmp_path, "lost")
    registry = registry_of(project)
    first = a_version(project)
    assert promote_challenger.fn(project).promoted
    second = a_version(project)
    assert promote_challenger.fn(project, force_reason="two are wanted").promoted
    lose_files(project, second)
    remedy = rf"the files of lost version {second} cannot be fetched .*`flywheel retrain` and `flywheel promote --force"
    out = tmp_path / "out.parquet"
    with pytest.raises(TrainingError, match=remedy):
        route_file.fn(project, str(tmp_path / "items.parquet"), str(out), 1)
    with pytest.raises(TrainingError, match=remedy):
        recalibrate_champion.fn(project, 1)
    assert not out.exists()

    third = a_version(project)
    refused = promote_challenger.fn(project)
    assert not refused.promoted
    assert f"the champion does not load: the files of lost version {second}" in refused.reasons[0]
    assert "flywheel promote --force REASON" in refused.reasons[1]
    assert promote_challenger.fn(project, force_reason="its files are gone").champion_version == third

    registry.set_alias("champion", second)
    assert rollback_champion.fn(project)["champion_version"] == first
    assert registry.load(first)


@pytest.mark.parametrize("last", ["set_alias", "add_to_history"])
def test_a_promotion_cut_short_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Killed right after the alias moved, or right after that was written down: one line of history, no challenger."""
    project = a_shop(tmp_path, "short")
    registry, version = registry_of(project), a_version(project)
    whole: Callable[..., Any] = getattr(Registry, last)

    def and_no_more(*given: Any) -> Any:
        whole(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, last, and_no_more)
    with pytest.raises(KeyboardInterrupt):
        promote_challenger.fn(project)
    monkeypatch.setattr(Registry, last, whole)
    assert registry.alias("champion") == registry.alias("challenger") == version

    for _ in range(2):
        assert not promote_challenger.fn(project).promoted
        assert (registry.alias("champion"), registry.alias("challenger")) == (version, None)
        (line,) = registry.history()
        assert f"champion none -> {version}, promoted: there is no champion yet" in line


def test_without_a_champion_every_request_goes_to_the_teacher(tmp_path: Path) -> None:
    """A registry that has none is no error: caches and the teacher answer, and where nobody does it is counted."""
    nobody = {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1, "timeout_seconds": 2}
    project = a_shop(tmp_path, "bare", teacher=nobody)
    out = tmp_path / "out.parquet"
    routed = route_file.fn(project, str(tmp_path / "items.parquet"), str(out), 1)
    assert routed.tiers == {"fallback": 60}
    assert routed.unanswered == pl.read_parquet(out).height == 60
    assert recalibrate_champion.fn(project, 1) is None
