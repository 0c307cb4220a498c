"""Files that are there whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tasks.whole_files import written_whole


def test_a_file_appears_with_the_end_of_the_block(tmp_path: Path) -> None:
    """The folder is made, nothing lies at the name before the end, and nothing lies beside it after."""
    file = tmp_path / "new" / "page.html"
    with written_whole(file) as beside:
        beside.write_text("all of it", encoding="utf-8")
        assert not file.exists()
    assert file.read_text(encoding="utf-8") == "all of it"
    assert list(file.parent.iterdir()) == [file]


def _fail_in_the_middle(file: Path) -> None:
    with written_whole(file) as beside:
        beside.write_text("ha", encoding="utf-8")
        raise ZeroDivisionError


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """An error in the block goes on to the caller; the old contents stay and the half is gone."""
    file = tmp_path / "page.html"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        _fail_in_the_middle(file)
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]


def _write_half(file: Path) -> None:
    with written_whole(file) as beside:
        beside.write_text("ha", encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    """A writer killed in the middle has changed nothing, and the next one is not in its way."""
    file = tmp_path / "page.html"
    file.write_text("old", encoding="utf-8")
    writer = multiprocessing.get_context("spawn").Process(target=_write_half, args=(file,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert file.read_text(encoding="utf-8") == "old"
    with written_whole(file) as beside:
        beside.write_text("new", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == "new"
