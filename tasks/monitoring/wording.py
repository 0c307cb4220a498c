"""The report in plain words: the headline answers, and what a person should do next.

Pure functions from facts to text; every number is said with what it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.labeling.batch_book import Waiting
    from tasks.monitoring.audited import AuditedTier
    from tasks.monitoring.facts import ReportFacts

TIERS = {
    "exact_cache": "exact cache",
    "similarity_cache": "similarity cache",
    "student": "student",
    "cheap": "cheap model",
    "teacher": "teacher",
    "fallback": "fallback",
}
"""Every tier's name in words, in the order in which they are tried."""

WITHOUT_TEACHER = ("exact_cache", "similarity_cache", "student", "cheap")
FEW_AUDITS = 300
"""Audited answers of the student below which its error is too uncertain to move a threshold by."""


@dataclass(frozen=True)
class Headline:
    """One question of the page's head: the figure, one sentence on it, and how it stands (good, warn, bad, none)."""

    question: str
    figure: str
    words: str
    state: str


def headlines(facts: ReportFacts) -> list[Headline]:
    """The four questions everybody asks."""
    return [_right(facts), _answers(facts), _costs(facts), _knows(facts)]


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where there is none."""
    return "–" if share is None else f"{share:.{digits}%}"


def dollars(amount: float | None) -> str:
    """US dollars with as many digits as it takes to see that they are not nothing."""
    if amount is None:
        return "–"
    if 0 < abs(amount) < 0.01:
        return f"${amount:.4f}"
    return f"−${-amount:,.2f}" if amount < 0 else f"${amount:,.2f}"


def without_teacher(tiers: Mapping[str, int]) -> float | None:
    """Share of requests that no call to the teacher answered; None without requests."""
    total = sum(tiers.values())
    return sum(tiers.get(tier, 0) for tier in WITHOUT_TEACHER) / total if total else None


def waiting_words(waiting: Waiting, now: float) -> str:
    """What waits in open batches, for how long, and who fetches it."""
    hours = max(0.0, now - (waiting.oldest_at or now)) / 3600
    batches = "1 open batch" if waiting.batches == 1 else f"{waiting.batches:,} open batches"
    items = "1 item waits" if waiting.items == 1 else f"{waiting.items:,} items wait"
    where = f"{items} in {batches} at the provider, the oldest for {hours:.1f} hours"
    return f"{where}: `flywheel label` fetches what has ended."


def truth_words(tier: AuditedTier) -> str:
    """On whose word an audited error rests."""
    if tier.against == "adjudicated":
        return "judged by people or an adjudicator"
    if tier.decided:
        return f"judged by the teacher, {tier.decided:,} of {tier.wrong.of:,} by people or an adjudicator"
    return "judged by the teacher"


def _right(facts: ReportFacts) -> Headline:
    question, student, target = "Is it still right?", facts.audited.student, facts.target_error
    if student is None:
        return Headline(question, "unknown", _unaudited(facts), "none")
    wrong = student.wrong
    verb, noun = ("were wrong", "wrong") if student.decided else ("differed", "differ")
    interval = f"{percent(wrong.low)} to {percent(wrong.high)}"
    policy = facts.shown.policy if facts.shown else None
    promise = "target" if policy is not None and policy.against == "teacher" else "promise"
    if wrong.high <= target:
        state, verdict = "good", f"Within the {promise}"
    elif wrong.value <= target:
        state, verdict = "good" if wrong.of >= FEW_AUDITS else "warn", f"No sign against the {promise}"
    elif wrong.low <= target:
        state, verdict = "warn", f"Above (though chance may explain it) the {promise}"
    else:
        state, verdict = "bad", f"Above the {promise}"
    return Headline(
        question,
        f"{percent(wrong.value)} {noun}",
        f"{verdict} of at most {percent(target)}: of {wrong.of:,} audited answers of the student {wrong.count:,} "
        f"{verb} ({interval}), {truth_words(student)}.",
        state,
    )


def _unaudited(facts: ReportFacts) -> str:
    if facts.champion is None:
        return "No version serves yet."
    if not facts.requests:
        return "No request has been routed yet."
    return (
        f"No audited answer of the student in the last {facts.audited.window_days:g} days "
        f"(audit rate {percent(facts.audit_rate)})."
    )


def _answers(facts: ReportFacts) -> Headline:
    question = "What does it answer?"
    if not facts.requests:
        return Headline(question, "nothing yet", "No request has been routed yet.", "none")
    last = next(turn for turn in reversed(facts.turns) if turn.requests)
    share = without_teacher(last.tiers)
    parts = ", ".join(
        f"{percent(last.tiers[tier] / last.requests, 0)} {name}"
        for tier, name in TIERS.items()
        if last.tiers.get(tier)
    )
    return Headline(
        question,
        percent(share, 0),
        f"of the last turn's {last.requests:,} requests needed no teacher ({parts}); "
        f"{percent(without_teacher(facts.tiers), 0)} of all {facts.requests:,}.",
        "good" if share else "warn",
    )


def _costs(facts: ReportFacts) -> Headline:
    question, spent = "What does it cost?", facts.spending
    figure = dollars(spent.total.cost_usd)
    if spent.ask_once_usd is None or not spent.requests:
        calls = f"{spent.total.calls:,} calls"
        return Headline(question, figure, f"spent in {calls}; nothing to compare it with yet.", "none")
    traffic = (
        f"Traffic cost {dollars(spent.routing_usd)}; asking the teacher each time, about "
        f"{dollars(spent.ask_once_usd)}: {percent(spent.routing_saved_share, 0)} saved."
    )
    saved = spent.saved_share or 0.0
    teaching = f" Teaching cost {dollars(spent.teaching_usd)}: "
    teaching += (
        f"{percent(saved, 0)} saved with it counted." if saved >= 0 else "it has not paid for itself yet."
    )
    return Headline(question, figure, traffic + teaching, "good" if saved > 0 else "warn")


def _knows(facts: ReportFacts) -> Headline:
    question, shown = "How good is the student?", facts.shown
    if shown is None or not shown.accuracy or shown.accuracy[-1].after is None:
        return Headline(question, "untrained", "`flywheel retrain` trains the first version.", "none")
    deepest = shown.accuracy[-1]
    assert deepest.after is not None
    if shown.judged_on != "gold":
        return Headline(
            question,
            percent(deepest.after.value),
            f"of {deepest.after.of:,} held-out labels of the teacher met at {deepest.level}: this is agreement, "
            "not accuracy. Gold would tell.",
            "warn",
        )
    words = f"right at {deepest.level} on {deepest.after.of:,} gold items"
    if deepest.teacher is None:
        return Headline(
            question, percent(deepest.after.value), f"{words}; the teacher was not asked about gold.", "good"
        )
    ahead = deepest.after.value - deepest.teacher.value
    better = "better than" if ahead > 0 else "worse than" if ahead < 0 else "like"
    gap = f"{abs(100 * ahead):.1f} points {better}" if ahead else "exactly like"
    return Headline(
        question,
        percent(deepest.after.value),
        f"{words}: {gap} its teacher ({percent(deepest.teacher.value)} on {deepest.teacher.of:,}).",
        "good" if deepest.after.high >= deepest.teacher.value else "warn",
    )


def advice(facts: ReportFacts) -> list[str]:
    """What a person should look at, the most urgent first; empty when nothing is wanted."""
    said = []
    last, inventory, shown = facts.runs[0] if facts.runs else None, facts.inventory, facts.shown
    if facts.lease is not None and facts.lease.stale:
        minutes = facts.lease.silent_seconds / 60
        said.append(
            f"The lease is held by {facts.lease.owner}, silent for {minutes:.0f} minutes: that run is probably "
            "dead, and the next one will take over."
        )
    if last is not None and last.status == "failed":
        said.append(f"The last run ({last.job}) failed: {last.outcome or 'no reason was kept'}")
    student = facts.audited.student
    if student is not None and student.wrong.low > facts.target_error:
        said.append(
            f"The student's audited error ({percent(student.wrong.value)}) is above the promise "
            f"({percent(facts.target_error)}): run `flywheel recalibrate`, or `flywheel rollback`."
        )
    if awaiting := sum(inventory.awaiting.values()):
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in inventory.awaiting.items())
        await_ = "1 item awaits" if awaiting == 1 else f"{awaiting:,} items await"
        said.append(f"{await_} a person ({reasons}): `flywheel review export`.")
    policy = shown.policy if shown is not None else None
    if policy is not None and policy.thresholds is None:
        said.append("Nothing is certified, so the student answers no traffic. " + policy.sentence)
    elif policy is not None and policy.against == "teacher":
        said.append(
            "The thresholds are certified against the teacher, which is agreement and costs coverage: a few "
            "hundred reviewed or gold items would lift it."
        )
    if facts.waiting.batches:
        said.append(waiting_words(facts.waiting, facts.made_at))
    if facts.audits_owed:
        said.append(
            f"{facts.audits_owed:,} audits are still owed by the teacher: `flywheel label` asks again."
        )
    if not inventory.items:
        said.append("No item is known yet: `flywheel label` takes them in and asks the teacher.")
    if inventory.unlabelled:
        items = "1 item is" if inventory.unlabelled == 1 else f"{inventory.unlabelled:,} items are"
        said.append(f"{items} unlabelled: `flywheel label`.")
    if not inventory.gold_rows:
        said.append("There is no gold: without human-verified items nobody knows how right all of this is.")
    elif shown is not None and shown.judged_on == "gold" and shown.accuracy[-1].teacher is None:
        said.append(
            "The teacher was not asked about gold: `flywheel label --gold` tells how good it is itself."
        )
    if facts.challenger is not None and facts.challenger != facts.champion:
        gate = next((line.gate for line in facts.versions if line.version == facts.challenger), "")
        if gate.startswith("refused"):
            said.append(
                f"Version {facts.challenger} was {gate}. `flywheel promote --force REASON` overrules the gate."
            )
        else:
            said.append(f"Version {facts.challenger} waits as challenger: `flywheel promote`.")
    elif facts.champion is None and shown is not None:
        said.append("No version serves: `flywheel promote`.")
    return said
