"""The four everyday uses, each done in a real browser by clicking what a person clicks, judged by what stands there.

One stack, one story: the tests build on each other and run in the order in which they stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from tasks.promotion.tracking import registry_of
from tests.browser.conftest import Stage

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.stack

JOB_MS = 240_000
"""What a job may take, its process included."""

NIGHTLY = "nightly by hand"


def shows(place: Page | Locator, text: str | re.Pattern[str], timeout_ms: float | None = None) -> None:
    """Fails unless the text comes to be seen in time; what stands there twice is seen, too."""
    place.get_by_text(text).filter(visible=True).first.wait_for(timeout=timeout_ms)


def deployment(page: Page, stage: Stage, job: str) -> None:
    """Go to a job's deployment by its row in the list."""
    page.goto(f"{stage.prefect}/deployments")
    row(page, job).get_by_role("link", name=stage.project.project).first.click()
    page.get_by_role("button", name="Run", exact=True).wait_for()


def row(page: Page, job: str) -> Locator:
    """The row of the deployments page whose flow is the job."""
    return page.get_by_role("row").filter(has=page.get_by_text(job, exact=True))


def form(page: Page, **values: str) -> None:
    """Open the form of the deployment that is shown, fill it in (spaces are `_`) and submit it."""
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    shows(page, "Path of the project file.")
    for label, value in values.items():
        field(page, label.replace("_", " ")).fill(value)


def field(page: Page, label: str) -> Locator:
    """What a labelled part of a form is typed into."""
    return labelled(page, label).locator("input, textarea").first


def labelled(page: Page, label: str) -> Locator:
    """A part of a form; its label is bound to nothing, so it is found by where it stands."""
    return page.locator(".p-label", has=page.locator(".p-label__header", has_text=label))


def completed(page: Page) -> None:
    """Wait until the run that is shown has completed; subflows and log lines that have do not count."""
    page.locator("header").get_by_text("Completed", exact=True).wait_for(timeout=JOB_MS)


def artifact(page: Page, key: str) -> None:
    """Go from a run's page to one of its artifacts."""
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text(key, exact=True).filter(visible=True).last.click()
    page.wait_for_url("**/artifacts/artifact/**")


def test_the_deployments_page_shows_jobs_and_schedule(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """Every job of the project has a row, the nightly one its schedule in words and its next run."""
    page.goto(f"{stage.prefect}/deployments")
    for job in ("nightly", "label", "embed", "clean", "retrain", "recalibrate", "promote", "rollback"):
        shows(row(page, job), stage.project.project)
    shows(row(page, "nightly"), "At 02:00 AM every day")
    photograph("deployments")
    deployment(page, stage, "nightly")
    shows(page, "Next Run")
    shows(page, "At 02:00 AM every day")


def test_a_form_explains_its_fields_and_refuses_what_is_out_of_bounds(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """The label job's form: help under each field, and a limit of 0 comes back with the reason; nothing is started."""
    deployment(page, stage, "label")
    form(page, Run_Name="too few", Limit="0")
    for said in (
        "Ask about at most so many items; empty asks about all.",
        "The most that this run may spend, in US dollars",
        stage.project.file.name,
    ):
        shows(page, said)
    photograph("form")
    page.get_by_role("button", name="Submit").click()
    shows(page, "0 is less than the minimum of 1")
    deployment(page, stage, "label")
    shows(page, "No runs found")


def test_a_nightly_started_by_its_form_completes(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """Filled in and submitted, the run appears under its name, works through its jobs and completes.

    What was left empty is as the project file has it.
    """
    deployment(page, stage, "nightly")
    form(page, Run_Name=NIGHTLY, Limit="400", Budget="2.5")
    shows(page, "Ask about at most so many unlabelled items")
    photograph("nightly-form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("link", name=NIGHTLY).first.click()
    completed(page)
    asked = {"flow_runs": {"name": {"any_": [NIGHTLY]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = httpx.post(f"{stage.prefect}/api/flow_runs/filter", json=asked, timeout=60).json()
    assert run["parameters"] == {"project": str(stage.project.file), "limit": 400, "budget_usd": 2.5}
    page.get_by_text("Subflow Runs", exact=True).click()
    for job in ("label", "embed", "clean", "retrain", "recalibrate", "promote", "report"):
        shows(page, re.compile(f"^{job}$"))
    photograph("nightly")


def test_a_runs_artifacts_tell_what_it_did(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """Counts and costs, links, the comparison of champion and challenger, and two figures that really load."""
    key = f"{stage.project.project}-nightly"
    deployment(page, stage, "nightly")
    page.get_by_role("link", name=NIGHTLY).first.click()
    completed(page)
    run = page.url
    artifact(page, key)
    shows(page, re.compile(r"[Tt]rained version \d+"))
    shows(page, "MLflow run")
    report = page.get_by_role("link", name="report", exact=True).get_attribute("href")
    shows(page, "certified coverage")
    shows(page, ", the winner")
    page.get_by_role("heading", name="retrain").evaluate("heading => heading.scrollIntoView()")
    photograph("artifact")
    page.goto(report or "")
    page.frame_locator("iframe").get_by_text("How the wheel stands on").wait_for()
    page.goto(run)
    artifact(page, f"{key}-comparison")
    shows(page, f"against version {stage.champion}, the champion: waits for a person")
    shows(page, "95 % interval")
    for figure in ("escalation", "confusion"):
        page.goto(run)
        artifact(page, f"{key}-{figure}")
        page.wait_for_function("[...document.images].some(image => image.naturalWidth > 300)")
        photograph(figure)


def test_a_person_approves_a_version(stage: Stage, page: Page, photograph: Callable[[str], None]) -> None:
    """The promote run that the nightly left waiting shows the comparison; approved with a reason, it completes."""
    deployment(page, stage, "promote")
    page.get_by_text("Suspended").first.wait_for(timeout=JOB_MS)
    page.locator("a[href*='/runs/flow-run/']").first.click()
    page.get_by_role("button", name="Resume").click()
    shows(page, "waits for a person")
    shows(page, "Who decides; kept with the version.")
    labelled(page, "Decision").get_by_role("button").last.press("ArrowDown")
    page.get_by_text("approve", exact=True).last.click()
    field(page, "Name").fill("Ada")
    field(page, "Reason").fill("better at what we sell most")
    photograph("approval")
    page.get_by_role("button", name="Submit").click()
    completed(page)


def test_the_version_carries_who_approved_it_and_why(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """MLflow's page of the model has description, alias and its history; the version's has numbers and the approval."""
    model, version = stage.project.project, stage.newest
    page.goto(stage.mlflow)
    page.get_by_text("Model training").first.click()
    page.get_by_role("button", name="Close").last.click()  # a panel of MLflow's own beside the page
    page.goto(f"{stage.mlflow}/#/models/{model}")
    shows(page, f"Students of project {model}")
    shows(page, re.compile(rf"champion \d+ -> {version}, promoted"))
    shows(page, "@ champion")
    page.get_by_role("link", name=f"Version {version}").click()
    shows(page, re.compile("The student may answer|Nothing can be certified"))
    shows(page, "Share right on")
    for tag in ("approved", "Ada", "better at what we sell most"):
        shows(page, tag)
    photograph("version")


def test_two_candidates_are_compared_in_mlflow(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """The newest retrain unfolded, two candidates ticked: their metrics stand side by side, under the same names."""
    page.goto(stage.mlflow)
    page.get_by_text("Model training").first.click()
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name=stage.project.experiment, exact=True).click()
    runs = page.get_by_role("link", name=re.compile(f"^v{stage.newest} "))
    page.locator(".ag-row", has=runs).first.locator("button").first.click()
    shows(page, re.compile(", the winner$"))
    names = [name for name in runs.all_inner_texts() if not name.endswith("before cleaning")]
    (winner,) = (name for name in names if name.endswith(", the winner"))
    other = next(name for name in names if not winner.startswith(name))
    for name in (winner, other):
        run = page.locator(".ag-row", has=page.get_by_role("link", name=name, exact=True))
        run.locator("input[type=checkbox]").first.check()
    photograph("experiment")
    page.get_by_role("button", name="Compare").click()
    shows(page, "Comparing 2 Runs from 1 Experiment")
    for seen in (winner, other, f"gold.{stage.project.taxonomy.levels[-1]}.top1", "out_of_fold_log_loss"):
        shows(page, seen)
    for heading in ("Visualizations", "Parameters"):  # folded away, so that the metrics stand below the names
        page.get_by_text(heading, exact=True).first.click()
    photograph("comparison")


def test_a_version_is_rolled_back_by_its_form(
    stage: Stage, page: Page, photograph: Callable[[str], None]
) -> None:
    """Submitted, the version before serves again, and the run's page says which, instead of which, and its promise."""
    left = registry_of(stage.project).alias("champion")
    deployment(page, stage, "rollback")
    form(page, Run_Name="back again")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("link", name="back again").first.click()
    completed(page)
    assert registry_of(stage.project).alias("champion") == stage.champion != left
    artifact(page, f"{stage.project.project}-rollback")
    shows(page.get_by_role("row").filter(has_text="champion version"), stage.champion)
    shows(page.get_by_role("row").filter(has_text="rolled back from"), str(left))
    photograph("rollback")
