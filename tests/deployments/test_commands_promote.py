"""`flywheel promote` before anything runs: what it wants to be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.commands.jobs import promote_command


@pytest.mark.parametrize("reason", ["", "   ", "x"])
def test_force_without_a_reason_in_words_is_wrong_usage(
    tiny_project: Callable[..., Path], reason: str
) -> None:
    """Nothing is promoted against the gate without a sentence that can be read later."""
    said = CliRunner().invoke(promote_command, ["--force", reason, "--project", str(tiny_project())])
    assert said.exit_code == 2
    assert "needs a reason" in said.output
