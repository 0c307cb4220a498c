"""What a run's page says is what the job's record says: in words and units, a person's part of it."""

from __future__ import annotations

from tasks.monitoring.run_page import in_a_line, in_markdown
from tasks.records import Adjudicated, Cleaned, Embedded, Labelled, Policy, Promoted, Retrained, Snapshot

SNAPSHOT = Snapshot("snapshots/1/rows.parquet", "81802b14", 7012, 1500, 0, 17)
POLICY = Policy(
    {"department": 0.85}, 0.05, 0.95, 0.652, 558, "gold", "2", 7, sentence="It may answer 65.2% of the items."
)


def test_counts_and_costs_are_rows_in_words_and_units() -> None:
    """Money, seconds, shares and counts read as such; what is nothing is left out."""
    label = Labelled(
        items=1200, labelled=1100, cost_usd=0.5, tokens={"input": 3, "output": 0}, agreement=0.853
    )
    page = in_markdown({"label": label.as_dict(), "changed": True}, {})
    for row in ("items | 1,200", "cost | 0.5000 USD", "tokens | input 3", "agreement | 85.3%"):
        assert f"| {row} |" in page
    assert "failed" not in page
    assert "All of it cost" not in page, "it is one job"
    embedded = Embedded(1, 2, 3, "abc", 4.25, not_encoded_rows=[f"row {n}" for n in range(10)])
    page = in_markdown({"embed": embedded.as_dict()}, {})
    assert "| took | 4.2 s |" in page
    assert "row 7 and 2 more" in page
    assert "abc" not in page, "what the cache is called is no person's concern"


def test_a_night_begins_with_what_came_of_it_and_its_cost() -> None:
    """A line of outcomes, links, the sum of costs, then a section a job; a job that did nothing has none."""
    done = {
        "label": Labelled(items=20, labelled=18, cost_usd=0.25).as_dict(),
        "adjudicate": Adjudicated(
            asked=4, cost_usd=0.125, versions={"1": {"items": 9, "waiting": 0}}
        ).as_dict(),
        "promote": Promoted(True, "2", "2", ["not worse on gold"], compared_with="1").as_dict(),
        "retrain": None,
        "recalibrate": Adjudicated().as_dict(),
        "changed": True,
    }
    page = in_markdown(done, {"MLflow run": "http://127.0.0.1:5000/#/runs/1", "report": "report/index.html"})
    head, *sections = page.split("\n## ")
    assert in_a_line(done) == "labelled 18 of 20; promoted version 2"
    assert "- [MLflow run](http://127.0.0.1:5000/#/runs/1)" in head
    assert "- report: `report/index.html`" in head
    assert "All of it cost 0.3750 USD." in head
    assert [section.splitlines()[0] for section in sections] == ["label", "adjudicate", "promote"]
    assert "not worse on gold" in sections[2]
    assert "waiting" not in sections[1]


def test_a_retrain_shows_its_candidates_side_by_side() -> None:
    """Level by level, the winner marked, beside itself before cleaning and the teacher; its promise as a sentence."""
    metrics = {"gold.department.top1": 0.9, "gold.product_type.top1": 0.8, "gold.product_type.top3": 0.95}
    metrics |= {"gold.product_type.macro_f1": 0.75, "ece": 0.034}
    retrained = Retrained(
        run_id="d9c997cc",
        model_version="2",
        student="ensemble",
        metrics=metrics,
        policy=POLICY,
        snapshot=SNAPSHOT,
        bottleneck="The data limit quality most.",
        candidates={"linear": {**metrics, "ece": 0.05}, "ensemble": metrics, "raw labels": metrics},
        teacher={"rows": 766, "gold.department.top1": 0.889, "gold.product_type.top1": 0.821},
    )
    page = in_markdown({"retrain": retrained.as_dict()}, {})
    assert "It may answer 65.2% of the items." in page
    assert "The data limit quality most." in page
    head = "| right on gold | department | product type | first 3 | macro F1 | calibration error |"
    assert head in page
    assert "| linear | 90.0% | 80.0% | 95.0% | 75.0% | 5.0% |" in page
    assert "| **ensemble, the winner** | 90.0% | 80.0% | 95.0% | 75.0% | 3.4% |" in page
    assert "| ensemble, before cleaning | 90.0% |" in page
    assert "| the teacher, one pass | 88.9% | 82.1% |  |  |  |" in page
    assert "| rows | 7,012 |" in page
    assert "| thresholds | department 0.85 |" in page
    for machine in ("d9c997cc", "81802b14", "rows.parquet"):
        assert machine not in page


def test_a_mapping_of_mappings_is_a_table_of_its_own() -> None:
    """Cleaning by level: one line a level, one column a count; confused labels beside it."""
    levels: dict[str, dict[str, float]] = {
        "category": {"labels": 10, "share": 0.25},
        "department": {"labels": 10},
    }
    cleaned = Cleaned(levels, "cleaned.parquet", SNAPSHOT, 0.05, 1.0, 0, confused_pairs=[("Mugs", "Cups", 3)])
    page = in_markdown({"clean": cleaned.as_dict()}, {})
    assert "| levels | labels | share |" in page
    assert "| category | 10 | 25.0% |" in page
    assert "| department | 10 |  |" in page
    assert "| Mugs | Cups | 3 |" in page
    assert "cleaned.parquet" not in page


def test_what_stands_in_data_breaks_no_table() -> None:
    """A bar or a line break in an error stays inside its cell or sentence; an unknown job is shown whole."""
    assert "a \\| b c" in in_markdown({"label": {"stopped": "a | b\nc"}}, {})
    assert "| what | a \\| b c |" in in_markdown({"new job": {"what": "a | b\nc"}}, {})
