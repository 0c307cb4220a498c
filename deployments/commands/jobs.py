"""Commands that run one job as a flow: embed, clean, retrain, recalibrate, promote, rollback, route, nightly."""

from __future__ import annotations

from typing import Any

import click

from deployments.output import DONE, INCOMPLETE, Outcome, command, shown


@click.command(name="embed")
@command()
def embed_command(project: str) -> Outcome:
    """Encode every item that has no vector yet."""
    from flows.embed import embed

    record = embed(project)
    text = f"{record.encoded:,} encoded, {record.cached:,} cached, {record.total:,} in all, {record.seconds:.1f} s"
    if record.rejected:
        text += "\nrejected rows: " + ", ".join(
            f"{reason}: {count}" for reason, count in record.rejected.items()
        )
    return Outcome(record.as_dict(), text)


@click.command(name="clean")
@command()
def clean_command(project: str) -> Outcome:
    """Propose labels where the student confidently contradicts the teacher; raw labels stay."""
    from flows.clean import clean

    record = clean(project)
    levels = {
        name: f"{row['overwritten']:,} of {row['labels']:,} ({row['share']:.1%})"
        for name, row in record.levels.items()
    }
    return Outcome(
        record.as_dict(), f"overwritten, estimated noise {record.noise_estimate:.1%}:\n{shown(levels)}"
    )


@click.command(name="retrain")
@command()
def retrain_command(project: str) -> Outcome:
    """Train the candidates, certify thresholds, register the winner as challenger."""
    from flows.retrain import retrain

    record = retrain(project)
    metrics = {
        name: f"{value:.3f}" for name, value in record.metrics.items() if not name.endswith(("top3", "top5"))
    }
    text = "\n".join(
        [
            f"version {record.model_version}: {record.student}",
            shown(metrics),
            record.policy.sentence,
            record.bottleneck,
        ]
    )
    return Outcome(record.as_dict(), text)


@click.command(name="recalibrate")
@command()
def recalibrate_command(project: str) -> Outcome:
    """Issue a new policy for the champion from the newest judged items."""
    from flows.retrain import recalibrate

    policy = recalibrate(project)
    if policy is None:
        return Outcome({"policy": None}, "There is no champion, or nothing to calibrate on yet.")
    return Outcome(
        {"policy": policy.as_dict()}, f"version {policy.model_version}, policy {policy.id}: {policy.sentence}"
    )


@click.command(name="promote")
@click.option("--approve", is_flag=True, help="A person's yes, where promotion.approval is human.")
@click.option(
    "--force", "force_reason", metavar="REASON", help="Promote against the gate; the reason is recorded."
)
@command()
def promote_command(project: str, approve: bool, force_reason: str | None) -> Outcome:
    """Compare champion and challenger; a refusal is a result, not a failure."""
    from flows.promote import promote

    record = promote(project, approve, force_reason)
    verdict = "promoted" if record.promoted else "not promoted"
    champion = f"champion: {record.champion_version or 'none'}"
    return Outcome(
        record.as_dict(), "\n".join([f"{verdict}; {champion}", *(f"  {reason}" for reason in record.reasons)])
    )


@click.command(name="rollback")
@command()
def rollback_command(project: str) -> Outcome:
    """Give the champion's place back to its predecessor, with its last policy."""
    from flows.promote import rollback

    record = rollback(project)
    text = f"champion is version {record['champion_version']} again (was {record['rolled_back_from']})"
    return Outcome(record, text)


@click.command(name="route")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Parquet to write.")
@command()
def route_command(project: str, file: str, out: str) -> Outcome:
    """Answer FILE (parquet, csv, jsonl) by cache, student or teacher."""
    from flows.route import route

    record = route(project, file, out)
    tiers = {name: f"{count:,} ({count / max(1, record.items):.1%})" for name, count in record.tiers.items()}
    text = f"{record.items:,} items in {record.seconds:.1f} s for {record.cost_usd:.4f} USD:\n{shown(tiers)}"
    if record.unanswered:
        text += (
            f"\n  {record.unanswered:,} are unanswered ({record.errors}); run it again when the teacher is up"
        )
    return Outcome(record.as_dict(), text, INCOMPLETE if record.unanswered else DONE)


def _trained(retrained: dict[str, Any] | None) -> str:
    if retrained is None:
        return "nothing new to learn: the newest version was trained on these rows"
    return f"version {retrained['model_version']}: {retrained['policy']['sentence']}"


@click.command(name="nightly")
@command()
def nightly_command(project: str) -> Outcome:
    """Route new traffic, label what is owed, embed, clean, retrain, recalibrate, promote, report."""
    from flows.nightly import nightly

    done = nightly(project)
    left = done["label"]["unlabelled_left"] or done["label"]["stopped"] or done["route"]["unanswered"]
    if not done["changed"]:
        text = "nothing new"
    else:
        promoted = done["promote"]
        text = "\n".join(
            [
                f"routed {done['route']['items']:,}, labelled {done['label']['labelled']:,} for "
                f"{done['route']['cost_usd'] + done['label']['cost_usd']:.4f} USD",
                _trained(done["retrain"]),
                ("promoted: " if promoted["promoted"] else "not promoted: ") + "; ".join(promoted["reasons"]),
                f"report: {done['report']}",
            ]
        )
    return Outcome(done, text, INCOMPLETE if left else DONE)
