"""Commands that run processes: the simulated teacher and the local standing stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deployments.output import Outcome, command

SHARE = click.FloatRange(0, 1)
FILE = click.Path(dir_okay=False, path_type=Path)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@click.command(name="teacher-sim")
@click.option("--answers", required=True, type=FILE, help="Parquet, CSV or JSONL.")
@click.option(
    "--text-column", default="text", show_default=True, help="The item; for images, a column of bytes."
)
@click.option("--answer-columns", default="label", show_default=True, help="One a pass, by comma.")
@click.option("--confidence-columns", default="", help="Stated confidences, one a pass, by comma.")
@click.option(
    "--noise", type=SHARE, help="Serve gold with this share of wrong answers instead of recorded ones."
)
@click.option(
    "--label-columns", default="label", show_default=True, help="Gold with --noise: one, or one a level."
)
@click.option("--latency-ms", default=0.0, show_default=True, help="A reply takes so long ...")
@click.option("--jitter-ms", default=0.0, show_default=True, help="... give or take so much.")
@click.option("--requests-per-minute", default=0.0, show_default=True, help="Beyond it 429; 0 is no limit.")
@click.option("--tokens-per-minute", default=0.0, show_default=True, help="Beyond it 429; 0 is no limit.")
@click.option("--rate-limit-rate", default=0.0, type=SHARE, help="Share of requests answered 429 by chance.")
@click.option(
    "--retry-after-seconds", default=1.0, show_default=True, help="What those 429 ask for; 0: nothing."
)
@click.option("--storm-seconds", default=0.0, show_default=True, help="So long nothing but 429, a storm ...")
@click.option(
    "--storm-start-seconds", default=0.0, show_default=True, help="... so long after the first request."
)
@click.option("--error-rate", default=0.0, type=SHARE, help="Share of requests answered 500.")
@click.option(
    "--garbage-rate", default=0.0, type=SHARE, help="Share of replies that are cut JSON, HTML or empty."
)
@click.option("--hang-rate", default=0.0, type=SHARE, help="Share of requests never answered.")
@click.option("--batch-seconds", default=0.0, show_default=True, help="A batch takes so long.")
@click.option("--batch-error-rate", default=0.0, type=SHARE, help="Share of a batch's lines that fail.")
@click.option("--batch-expired-rate", default=0.0, type=SHARE, help="Share of a batch's lines that expire.")
@click.option("--batch-most-requests", default=50_000, show_default=True, help="Most lines of a batch.")
@click.option(
    "--batch-most-tokens", default=0.0, show_default=True, help="Most tokens in open batches; 0 is no limit."
)
@click.option("--api-key", help="If given, requests without it get 401.")
@click.option("--budget-calls", type=int, help="After so many paid requests: insufficient_quota.")
@click.option("--seed", default=0, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8700, show_default=True, help="0 takes a free one.")
@command(needs_project=False)
def teacher_sim_command(
    answers: Path, answer_columns: str, confidence_columns: str, label_columns: str, **settings: Any
) -> Outcome:
    """Serve answers as an OpenAI-compatible API on loopback, until Ctrl-C.

    The item is the longest recorded text inside the last user message (images by hash); the pass is told by the
    request's seed: 1 gets the first answer column, 2 the second, beyond the last the last repeats.
    """
    from deployments.teacher_sim import serve
    from tasks.errors import ConfigError

    def ready(url: str) -> None:
        click.echo(f"teacher at {url}", err=True)

    try:
        totals = serve(
            answers,
            answer_columns=_split(answer_columns),
            confidence_columns=_split(confidence_columns),
            label_columns=_split(label_columns),
            ready=ready,
            **settings,
        )
    except (OSError, ValueError) as error:
        raise ConfigError("command line", str(error), "Choose another port or setting.") from error
    return Outcome(totals, "stopped")


@click.command(name="up")
@click.option("--prefect-port", default=4200, show_default=True)
@click.option("--mlflow-port", default=5000, show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Loopback unless you know better: browsers elsewhere also need FLYWHEEL_MLFLOW_UI (http://NAME:5000).",
)
@click.option("--conf", default="conf", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@command(needs_project=False)
def up_command(prefect_port: int, mlflow_port: int, host: str, conf: Path) -> Outcome:
    """Start Prefect's server, MLflow's server and a worker, register the deployments; Ctrl-C stops all of it."""
    from deployments.stack.run import Stack

    stack = Stack(conf.absolute(), host, prefect_port, mlflow_port)
    body = stack.run(lambda line: click.echo(line, err=True))
    return Outcome(body, "stopped" if body["state"] == "stopped" else "")
