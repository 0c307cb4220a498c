"""A standing stack over a project that has a champion, and a browser before it.

`FLYWHEEL_SCREENSHOTS=FOLDER` keeps pictures of what the tests see. `FLYWHEEL_STANDING=HOME` takes the stack and the
one project that stand there already, which is how the pictures of the demo are made (notebooks/everyday-uses.md).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from PIL import Image

from deployments.teacher_sim import TeacherServer
from tasks.project import Project, load_project
from tasks.promotion.tracking import registry_of
from tests.conftest import ROOT, write_tiny_project
from tests.flows.conftest import recorded_after_writing
from tests.flows.test_schedule import FLYWHEEL, Up

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
# Nothing but the machine itself can be called: both UIs must work where there is no network. Without a graphics card
# the run's timeline is drawn by the processor, and on a busy one no click gets through: so it is not drawn.
FLAGS = (
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-3d-apis",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
PATIENCE_MS = 60_000


@dataclass(frozen=True)
class Stage:
    """A running stack: its home, the addresses of both UIs, the project and its champion's version."""

    home: Path
    prefect: str
    mlflow: str
    project: Project
    champion: str

    @property
    def newest(self) -> str:
        """The version that was registered last."""
        return registry_of(self.project).versions()[-1]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """`flywheel up` over a project whose first version serves, with news for a second that a person must approve."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: Debian's package of that name drives these tests")
    if standing := os.environ.get("FLYWHEEL_STANDING"):
        home = Path(standing)
        (file,) = (file for file in (home / "conf").glob("*.yaml") if not file.stem.endswith(".taxonomy"))
        yield _on_stage(home, file)
        return
    home = tmp_path_factory.mktemp("everyday")
    with TeacherServer(recorded_after_writing(home / "conf")) as teacher:
        sections: dict[str, Any] = {
            "teacher": {"base_url": teacher.base_url},
            "encoder": {"model": "hash:512"},
            "student": {"candidates": ["linear", "ensemble"]},
            "routing": {"target_error": 0.6},
        }
        _first_version(write_tiny_project(home / "conf", **sections), home)
        file = write_tiny_project(home / "conf", **sections, promotion={"approval": "human"})
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"FLYWHEEL_HOME": str(home)}
        command = [*FLYWHEEL, "up", "--conf", str(home / "conf"), "--prefect-port", "0", "--mlflow-port", "0"]
        with (home / "up.err").open("wb") as err:
            process = subprocess.Popen(
                command, env=environment, stdout=err, stderr=err, start_new_session=True
            )
        up = Up(home, file, process, environment)
        try:
            up.eventually("ready line", lambda: "ready after" in up.said, 180)
            yield _on_stage(home, file)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="module")
def page(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page of a browser without a past, which asks nothing of other machines."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            args=FLAGS,
            headless=True,
            chromium_sandbox=False,
            viewport={"width": 1360, "height": 900},
            color_scheme="light",
        )
        browser.set_default_timeout(PATIENCE_MS)
        yield browser.pages[0]
        browser.close()


@pytest.fixture
def photograph(page: Page) -> Callable[[str], None]:
    """`photograph(name)` keeps a picture of the page as it is, where pictures are wanted."""

    def taken(name: str) -> None:
        if folder := os.environ.get("FLYWHEEL_SCREENSHOTS"):
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            # A palette is a third of the bytes, and flat colours lose nothing by it.
            picture.quantize(192, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)

    return taken


def _first_version(file: Path, home: Path) -> None:
    """Two thirds of the items have labels that were paid for long ago; what learned from them serves."""
    right = pl.col("a").str.split(" > ").list
    answers = pl.read_parquet(file.parent / "answers.parquet").with_row_index()
    answers.filter(pl.col("index") % 3 > 0).select(
        pl.col("text").alias("name"), right.get(0).alias("department"), right.get(1).alias("category")
    ).write_csv(home / "labels.csv")
    command = [sys.executable, "-m", "tests.deployments.trained_project", str(file), str(home / "labels.csv")]
    environment = os.environ | {"FLYWHEEL_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _on_stage(home: Path, file: Path) -> Stage:
    state, project = json.loads((home / "var" / "up.json").read_text()), load_project(file, home)
    champion = registry_of(project).alias("champion")
    assert champion is not None
    return Stage(home, state["prefect_ui"], state["mlflow"], project, champion)
