"""The page is whole, says what the facts say, and nothing in it can break out of its place."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tasks.monitoring.audited import Audited, AuditedTier, share_of
from tasks.monitoring.charts import interval_bar, tier_bar
from tasks.monitoring.inventory import Inventory, Lease, RunLine
from tasks.monitoring.report import render_report
from tasks.monitoring.versions import trained_version
from tasks.monitoring.wording import advice, dollars, headlines, without_teacher
from tests.monitoring.report_facts import LEAVES, NOW, facts, policy, retrain_file, trained

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Counts what is opened, and collects every address and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images_without_alt = 0
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]
        self.ids += [str(given["id"])] if "id" in given else []
        self.images_without_alt += tag == "img" and not given.get("alt")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's own short form opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(facts())


def test_the_page_is_whole_and_stands_alone(page: str) -> None:
    """Every tag is closed, every address is inside the page, every picture has words, and it stays small."""
    read = Page(page)
    assert read.open == []
    assert all(address.startswith(("data:image/", "#")) for address in read.addresses)
    assert {address[1:] for address in read.addresses if address.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert read.images_without_alt == 0
    assert not re.search(r"@import|url\(|<script|<link", page)
    assert len(page.encode()) < 3_000_000


def test_the_page_says_what_the_facts_say(page: str) -> None:
    text = " ".join(Page(page).text.split())
    assert "Version 7 serves (ensemble)" in text
    assert "of 612 audited answers of the student 17 were wrong (1.6% to 4.4%)" in text
    assert "67% saved" in text
    assert "5.6 points better than its teacher (86.1% on 800)" in text
    assert "The promise" in text
    assert "Cohen's kappa is 0.866" in text
    assert "1,320" in text
    assert "3 audits are still owed" in text
    for tier in ("exact cache", "student", "teacher", "fallback"):
        assert tier in text


def test_labels_and_errors_are_escaped() -> None:
    """What a label, an error or a project's name holds stays text."""
    evil = '<script>alert("x")</script>'
    leaves = (f"{evil} > a > b", *LEAVES[1:-1], "x > y > <img src=http://evil/>")
    shown = trained_version(retrain_file(leaves), "7", policy())
    shown = replace(shown, confused_pairs=((leaves[0], leaves[-1], 3),), bottleneck=evil)
    run = RunLine(9, evil, evil, NOW, 3.0, {"error": f"{evil} `{evil}`"})
    inventory = Inventory(9, 0, {evil: 3}, 0, {evil: 2}, 5)
    hostile = facts(
        shown=shown, runs=(run,), inventory=inventory, project=evil, teacher_model=evil, champion=evil
    )
    html = render_report(hostile)
    assert "<script" not in html
    assert "<img src=http" not in html
    assert "&lt;script&gt;" in html
    assert Page(html).open == []


def test_a_certificate_against_the_teacher_is_called_agreement() -> None:
    """Its error is agreement, everywhere it is shown."""
    shown = trained("7", policy("teacher"))
    html = render_report(facts(shown=shown))
    text = " ".join(Page(html).text.split())
    assert "The agreement" in text
    assert "The promise" not in text
    assert "agreement with the teacher" in text
    assert "Certified coverage" not in text
    assert any("which is agreement" in line for line in advice(facts(shown=shown)))


def test_labels_that_were_held_out_are_called_agreement() -> None:
    shown = trained_version(retrain_file(judged_on="heldout"), "7", policy("teacher"))
    text = " ".join(Page(render_report(facts(shown=shown))).text.split())
    assert "this is agreement with the teacher, not accuracy" in text
    assert "met at product_type: this is agreement, not accuracy" in text


def test_nothing_certified_is_said_plainly() -> None:
    shown = trained("7", policy(items=20))
    assert shown.policy is not None
    assert shown.policy.thresholds is None
    text = " ".join(Page(render_report(facts(shown=shown))).text.split())
    assert "Nothing is certified, so the student answers no traffic" in text
    assert "never" in text


def test_a_version_without_policy_or_judged_items_is_shown() -> None:
    """A policy without its certificate has no curve; a version that judged nothing has no pictures."""
    bare = replace(trained(), policy=replace(policy(), certificate={}), true=(), answered=(), reliability=())
    assert Page(render_report(facts(shown=bare))).open == []
    assert Page(render_report(facts(shown=replace(bare, policy=None)))).open == []


def audited(wrong: int, of: int, decided: int) -> Audited:
    return Audited(30.0, (AuditedTier("student", share_of(wrong, of), decided),))


@pytest.mark.parametrize(
    ("wrong", "of", "state", "verdict"),
    [
        (5, 600, "good", "Within the promise"),
        (24, 600, "good", "No sign against the promise"),
        (2, 60, "warn", "No sign against the promise"),
        (36, 600, "warn", "chance may explain it"),
        (60, 600, "bad", "Above the promise"),
    ],
)
def test_the_verdict_follows_the_interval(wrong: int, of: int, state: str, verdict: str) -> None:
    """At a promise of 5 %: what the interval excludes is said, what it does not is not."""
    [right, *_] = headlines(facts(audited=audited(wrong, of, of)))
    assert right.state == state
    assert verdict in right.words


def test_an_error_by_the_teachers_word_is_a_difference() -> None:
    [right, *_] = headlines(facts(audited=audited(5, 600, 0)))
    assert right.figure == "0.8% differ"
    assert "judged by the teacher" in right.words


def test_a_dead_run_a_failure_and_a_broken_promise_come_first() -> None:
    said = advice(
        facts(
            lease=Lease("host:1:2", NOW, 600.0, True),
            runs=(RunLine(1, "nightly", "failed", NOW, 3.0, {"error": "boom"}),),
            audited=audited(90, 600, 600),
        )
    )
    assert [line.split(" ")[1] for line in said[:3]] == ["lease", "last", "student's"]
    assert "`flywheel rollback`" in said[2]


def test_bars_fill_their_line() -> None:
    """The parts of a stacked bar add up to the whole of it, unknown tiers among them."""
    bar = tier_bar({"teacher": 1, "student": 2, "a new tier": 1})
    widths = [float(width) for width in re.findall(r'width="([\d.]+)"', bar)]
    assert sum(widths) == pytest.approx(100)
    assert "student 50.0%, teacher 25.0%, a new tier 25.0%" in bar
    assert "<rect" not in tier_bar({})
    assert 'x1="98.00"' in interval_bar(share_of(5, 5), 0.2, 1.0, 0.5)


def test_money_and_shares_in_words() -> None:
    assert [dollars(amount) for amount in (None, 0.0, 0.004, 3.5, -1234.5)] == [
        "–",
        "$0.00",
        "$0.0040",
        "$3.50",
        "−$1,234.50",
    ]
    assert without_teacher({}) is None
    assert without_teacher({"student": 3, "teacher": 1, "fallback": 1}) == pytest.approx(0.6)
