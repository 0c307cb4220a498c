"""The report on cleaning: the published table's form, the noise behind it, and changes that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from tasks.monitoring.cleaning_report import CleaningReport, cleaning_report
from tasks.monitoring.report import render_report
from tasks.monitoring.versions import trained_version
from tests.monitoring import report_facts
from tests.monitoring.report_facts import retrain_file


def told(sample: Path | None = None) -> dict[str, Any]:
    """A retrain's facts with all that cleaning leaves."""
    facts = retrain_file()
    upper = ([0.969, 0.955, 0.979], [0.976, 0.963, 0.985], [0.007, -0.002, 0.016])
    leaf = ([0.871, 0.846, 0.892], [0.895, 0.872, 0.914], [0.024, 0.011, 0.037])
    facts["cleaning_effect"] = [
        {"level": level, "items": 800, "before": before, "after": after, "delta": delta}
        for level, (before, after, delta) in (("department", upper), ("product_type", leaf))
    ]
    facts["cleaning"] |= {
        "method": "cross_fitted",
        "mode": "re-ask",
        "noise": {
            "department": {"share": 0.021, "source": "gold", "margin": 1.0},
            "product_type": {"share": 0.118, "source": "out_of_fold", "margin": 0.57},
        },
        "asked_again": {"answers": 1200, "kept": 700, "changed": 430, "undecided": 70},
        "sample": None if sample is None else str(sample),
    }
    return facts


def page_of(facts: dict[str, Any]) -> str:
    version = trained_version(facts, "7", report_facts.policy())
    return render_report(report_facts.facts(shown=version))


def test_levels_stand_before_after_and_by_how_much() -> None:
    page = page_of(told())
    assert "on the same 800 gold items" in page
    assert "+2.4 " in page
    assert "+1.1 to +3.7" in page
    assert "-0.2 to +1.6" in page
    assert "nothing does" in page
    assert "counted on gold" in page
    assert "700 labels were confirmed, 430 changed, 70 left open" in page


def test_changes_can_be_read_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    file = tmp_path / "x.sample.csv"
    row = {"id": "1", "text": "<script>alert(1)</script>", "given_label": "A > b", "new_label": "A > c"}
    row |= {"done": "overwritten", "level": "category", "confidence": "0.81", "why": "it <b>said</b> so"}
    pl.DataFrame([row]).write_csv(file)
    page = page_of(told(file))
    assert "1 changes to read" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "0.81" in page


def test_a_retrain_that_left_nothing_and_a_sample_that_is_gone_are_survived(tmp_path: Path) -> None:
    """Facts of an earlier version have no such entries; the file may have been deleted, or be no table."""
    assert cleaning_report(retrain_file()) == CleaningReport()
    assert "changes to read" not in page_of(told(tmp_path / "gone.csv"))
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"")
    assert cleaning_report(told(broken)).sample == ()


def test_where_nothing_may_be_overwritten_the_page_says_so() -> None:
    """Labels that passes agree on and people's: no table of noughts beside an estimate of the noise."""
    facts = told()
    facts["cleaning"]["noise"] = {
        level: {"share": 0.0, "source": "out_of_fold", "margin": 1.0}
        for level in ("department", "product_type")
    }
    page = page_of(facts)
    assert "No label that could be overwritten looks wrong" in page
    assert "How many labels are wrong" not in page
    assert cleaning_report(facts).untouched
    assert not cleaning_report(told()).untouched
    assert not CleaningReport().untouched
