"""`flywheel nightly` as cron runs it: what it prints when there is much to do, and when there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.teacher_sim import TeacherServer
from tests.conftest import write_tiny_project
from tests.deployments.commands import flywheel
from tests.flows.conftest import recorded_after_writing

pytestmark = pytest.mark.slow


def test_the_second_night_has_nothing_new_and_says_so(tmp_path: Path) -> None:
    """The first turns the wheel and names its version; the second ends well in one line, as JSON too."""
    with TeacherServer(recorded_after_writing(tmp_path / "conf")) as teacher:
        file = write_tiny_project(tmp_path / "conf", teacher={"base_url": teacher.base_url})
        first = flywheel("nightly", "--project", file, cwd=tmp_path, home=tmp_path)
        assert first.code in (0, 3), first.err
        assert "version 1: " in first.out
        assert "promoted: " in first.out
        second = flywheel("nightly", "--project", file, cwd=tmp_path, home=tmp_path)
        assert (second.code, second.out.strip()) == (first.code, "nothing new"), second.err
        third = flywheel("nightly", "--project", file, "--json", cwd=tmp_path, home=tmp_path)
        assert third.body["changed"] is False
