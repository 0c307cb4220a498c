"""Commands that run one job as a flow: embed, clean, retrain, recalibrate, promote, rollback, route, nightly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deployments.output import DONE, INCOMPLETE, Outcome, command, shown

if TYPE_CHECKING:
    from tasks.project import Approval
    from tasks.records import Adjudicated, Snapshot


@click.command(name="embed")
@click.option("--verify", is_flag=True, help="Check the cache instead, and set aside what is wrong.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="With --verify: so many vectors are compared with a fresh encoding.",
)
@click.option("--prune", is_flag=True, help="List the caches that nobody uses instead.")
@click.option("--yes", is_flag=True, help="With --prune: delete them.")
@command()
def embed_command(project: str, verify: bool, sample: int, prune: bool, yes: bool) -> Outcome:
    """Encode every item that has no vector yet."""
    if verify and prune:
        raise click.UsageError("--verify and --prune are two jobs: run one after the other.")
    if yes and not prune:
        raise click.UsageError("--yes goes with --prune.")
    if verify:
        return _verified(project, sample)
    if prune:
        return _pruned(project, yes)
    from flows.embed import embed

    record = embed(project)
    text = f"{record.encoded:,} encoded, {record.cached:,} cached, {record.total:,} in all, {record.seconds:.1f} s"
    if record.rejected:
        text += "\nrejected rows: " + ", ".join(
            f"{reason}: {count}" for reason, count in record.rejected.items()
        )
    if record.set_aside:
        text += "\ndamaged parts set aside, their items encoded anew:\n" + _listed(record.set_aside)
    if record.not_encoded:
        text += f"\n{record.not_encoded:,} cannot be encoded:\n{_listed(record.not_encoded_rows)}"
        if record.not_encoded > len(record.not_encoded_rows):
            text += f"\n  and {record.not_encoded - len(record.not_encoded_rows):,} more"
    text += "".join(f"\nwarning: {warning}" for warning in record.warnings)
    return Outcome(record.as_dict(), text, INCOMPLETE if record.not_encoded else DONE)


def _verified(project: str, sample: int) -> Outcome:
    from flows.embed import verify_embeddings

    record = verify_embeddings(project, sample)
    text = f"{record.parts:,} parts, {record.rows:,} vectors, {record.compared:,} of them encoded anew: "
    if not record.set_aside:
        return Outcome(record.as_dict(), text + "all right")
    text += f"{len(record.set_aside):,} parts wrong and set aside\n{_listed(record.set_aside)}\n"
    return Outcome(record.as_dict(), text + "`flywheel embed` encodes their items anew", INCOMPLETE)


def _pruned(project: str, delete: bool) -> Outcome:
    from flows.embed import prune_embeddings

    record = prune_embeddings(project, delete)
    unused = [f"{name}  {size / 1e6:,.1f} MB" for name, size in record.unused]
    used = [f"{name}  {size / 1e6:,.1f} MB" for name, size in record.used]
    text = f"in use:\n{_listed(used)}\nused by nobody:\n{_listed(unused)}"
    if record.leftovers:
        text += f"\ndamaged parts: {record.leftovers / 1e6:,.1f} MB"
    if record.unused or record.leftovers:
        text += "\ndeleted" if delete else "\nnothing is deleted; `flywheel embed --prune --yes` deletes it"
    return Outcome(record.as_dict(), text)


def _listed(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines) or "  none"


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
    text = f"overwritten, estimated noise {record.noise_estimate:.1%}:\n{shown(levels)}"
    if record.dropped or record.reweighted:
        text += f"\n{record.dropped:,} left out of training, {record.reweighted:,} weighed down; their labels stay"
    if record.asked_again.get("answers"):
        counts = "{answers:,}, of them {kept:,} kept, {changed:,} changed, {undecided:,} undecided"
        text += f"\nasked again: {counts.format(**record.asked_again)}, for {record.asked_again_usd:.4f} USD"
    if record.sample is not None:
        text += f"\na sample of the changes to read: {record.sample}"
    return Outcome(record.as_dict(), text + _left_out(record.snapshot))


@click.command(name="retrain")
@click.option("--full", is_flag=True, help="Compare all candidates, whenever that was last done.")
@command()
def retrain_command(project: str, full: bool) -> Outcome:
    """Train the candidates, certify thresholds, register the winner as challenger."""
    from flows.retrain import retrain

    record = retrain(project, full)
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
    return Outcome(record.as_dict(), text + _left_out(record.snapshot))


def _left_out(snapshot: Snapshot) -> str:
    """Lines about rows of the gold file that are no gold and labels that are none; nothing where there are none."""
    from tasks.moved import lost_in_words

    counts = ", ".join(f"{reason}: {count}" for reason, count in snapshot.gold_rejected.items())
    lost = f"\nlabels gone: {lost_in_words(snapshot.lost)}" if snapshot.lost else ""
    return (f"\ngold rows left out: {counts}" if counts else "") + lost


@click.command(name="recalibrate")
@command()
def recalibrate_command(project: str) -> Outcome:
    """Issue a new policy for the champion from the newest judged items."""
    from flows.retrain import recalibrate

    done = recalibrate(project)
    policy, waiting = done.policy, _waiting(done.adjudication)
    if policy is None:
        return Outcome(done.as_dict(), f"There is no champion, or nothing to calibrate on yet.{waiting}")
    return Outcome(
        done.as_dict(), f"version {policy.model_version}, policy {policy.id}: {policy.sentence}{waiting}"
    )


def _waiting(adjudicated: Adjudicated) -> str:
    """A line of its own about what nobody has decided yet; nothing where nothing waits."""
    if not adjudicated.waiting:
        return ""
    return (
        f"\n{adjudicated.waiting} audited items wait for a decision before anything rests on adjudicated labels: "
        "`flywheel review export`, the first rows of the file first, or name a teacher.adjudicator."
    )


@click.command(name="promote")
@click.option("--approve", is_flag=True, help="A person's yes, where promotion.approval is human.")
@click.option(
    "--force", "force_reason", metavar="REASON", help="Promote against the gate; the reason is recorded."
)
@command()
def promote_command(project: str, approve: bool, force_reason: str | None) -> Outcome:
    """Compare champion and challenger; a refusal is a result, not a failure."""
    if force_reason is not None and len(force_reason := " ".join(force_reason.split())) < 2:
        raise click.UsageError("--force needs a reason in words: it is kept with the version.")
    from flows.promote import promote

    record = promote(project, approve, force_reason)
    verdict = "waits for a person" if record.waiting else "promoted" if record.promoted else "not promoted"
    lines = [f"{verdict}; champion: {record.champion_version or 'none'}"]
    lines += [f"  {reason}" for reason in record.reasons]
    if record.deleted:
        lines.append(f"  kept no longer: version {', '.join(record.deleted)}")
    return Outcome(record.as_dict(), "\n".join(lines))


@click.command(name="rollback")
@command()
def rollback_command(project: str) -> Outcome:
    """Give the champion's place back to its predecessor, with its last policy."""
    from flows.promote import rollback

    record = rollback(project)
    lines = [
        f"champion is version {record['champion_version']} again (was {record['rolled_back_from']})",
        f"policy in force is {record['policy_id'] or 'none'} (was {record['policy_before'] or 'none'}): "
        f"{record['sentence']}",
    ]
    return Outcome(record, "\n".join(lines))


@click.command(name="route")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Parquet (or .csv) to write.")
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
@click.option("--limit", type=click.IntRange(min=1), help="Ask about at most so many unlabelled items.")
@click.option(
    "--budget-usd", type=click.FloatRange(min=0, min_open=True), help="The most that this run may spend."
)
@click.option(
    "--approval",
    type=click.Choice(["automatic", "human"]),
    help="Instead of the project's promotion.approval.",
)
@command()
def nightly_command(
    project: str, limit: int | None, budget_usd: float | None, approval: Approval | None
) -> Outcome:
    """Route new traffic, label what is owed, embed, clean, retrain, recalibrate, promote, report."""
    from flows.nightly import nightly

    done = nightly(project, limit, budget_usd, approval)
    labelled = done["label"]  # what was given up is for a person, and no reason to ring every night
    left = (
        labelled["unlabelled_left"] - labelled["no_answer"]
        or labelled["stopped"]
        or done["route"]["unanswered"]
    )
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
    if done["label"]["waiting"]:
        text += f"\n{done['label']['waiting']:,} requests wait in batches for the next night"
    looked = done["monitor"]["signals"] if done["changed"] else {}
    text = "\n".join([text, *(signal["says"] for signal in looked.values() if signal["alarms"])])
    return Outcome(done, text, INCOMPLETE if left else DONE)
