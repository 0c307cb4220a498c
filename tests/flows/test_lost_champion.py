"""A champion whose files are gone, under the real flows: the night fails with its remedies, and each of them works."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.teacher_sim import TeacherServer
from tasks.errors import TrainingError
from tasks.promotion.steps import promote_challenger
from tasks.promotion.tracking import registry_of
from tests.flows.conftest import recorded_after_writing
from tests.promotion.shop import a_shop, a_version
from tests.promotion.test_broken_champion import lose_files

pytestmark = pytest.mark.slow


def test_the_night_says_how_to_get_a_champion_again(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails while nobody acts; promoted by force what it trained serves and the next night ends well; so it is after
    a rollback.
    """
    from flows.nightly import nightly
    from flows.promote import promote, rollback
    from flows.retrain import recalibrate

    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    with TeacherServer(recorded_after_writing(tmp_path)) as teacher:
        project = a_shop(tmp_path, "lost", teacher={"base_url": teacher.base_url})
        registry, file = registry_of(project), str(project.file)
        first = a_version(project)
        assert promote_challenger.fn(project).promoted
        second = a_version(project)
        assert promote_challenger.fn(project, force_reason="two are wanted").promoted
        lose_files(project, second)
        with pytest.raises(TrainingError) as gone:
            nightly(file)
        assert f"the files of lost version {second} cannot be fetched" in gone.value.problem
        third = registry.alias("challenger")
        assert registry.versions() == [first, second, third]
        for remedy in ("`flywheel rollback`", "`flywheel retrain` and `flywheel promote --force REASON`"):
            assert remedy in gone.value.remedy

        assert not promote(file).promoted
        assert promote(file, force_reason="its files are gone").champion_version == third
        assert nightly(file)["changed"] is True

        registry.set_alias("champion", second)
        assert rollback(file)["champion_version"] == first
        policy = recalibrate(file).policy
        assert policy is not None
        assert policy.model_version == first
