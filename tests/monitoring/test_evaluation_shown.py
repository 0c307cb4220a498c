"""The evaluation on the page: what limits quality, whose mistakes there are, slices, label by label."""

from __future__ import annotations

import re

import pytest

from tasks.monitoring.charts import evaluation_uris
from tasks.monitoring.evaluation_shown import EvaluationShown, evaluation_shown
from tasks.monitoring.report import render_report
from tasks.monitoring.versions import trained_version
from tests.monitoring import report_facts
from tests.monitoring.report_facts import LEAVES, retrain_file


@pytest.fixture(scope="module")
def page() -> str:
    """The page of a version with all of it, as text with its tags."""
    return render_report(report_facts.facts())


def test_what_limits_quality_stands_first_with_what_says_so(page: str) -> None:
    """The sentence, then the causes, the largest first."""
    assert "The encoder limits quality most, by up to 4.8 of 9.1 points of error" in page
    table = page[page.index("Points at most") :]
    assert re.findall(r'<th scope="row">(\w+)</th><td class="n strong">([\d.]+)</td>', table)[:4] == [
        ("encoder", "4.8"),
        ("labels", "3.1"),
        ("data", "1.2"),
        ("head", "0.0"),
    ]
    assert "3,640 rows 85.0%, 7,280 rows 88.0%, 14,560 rows 88.9% right on held-out rows" in page


def test_mistakes_are_counted_beside_the_teachers_by_slice_and_by_label(page: str) -> None:
    assert "+3.1 <span" in page
    assert "language en 91%, language de 71%" in page
    for label in LEAVES:
        assert label.split(" > ")[-1].replace("&", "&amp;") in page
    for level in report_facts.LEVELS:
        assert f"Every label of {level}: precision, recall and F1" in page
    assert "-2.4 <span" in page, "before cleaning, to the winner"


def test_a_version_of_an_earlier_program_is_shown_with_what_it_has() -> None:
    """No table of the evaluation, and one reliability diagram at the deepest level."""
    facts = retrain_file()
    del facts["evaluation"], facts["curve_of"]
    version = trained_version(facts, "7", report_facts.policy())
    assert version.evaluation == evaluation_shown(facts) == EvaluationShown()
    assert evaluation_uris(version).keys() == {"calibration"}
    page = render_report(report_facts.facts(shown=version))
    assert "What limits quality" in page
    assert "Points at most" not in page
    assert "Whose mistakes they are" not in page
