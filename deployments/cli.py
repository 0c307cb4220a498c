"""The console script `flywheel`: its commands by name, each loaded only when it is called.

`flywheel --help` must answer within a second, so nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = {
    "demo": (
        "deployments.commands.demonstrate",
        "Turn the wheel twice on a built-in catalogue, without a key.",
    ),
    "init": (
        "deployments.commands.start",
        "Write a commented project file (and a taxonomy from labelled data).",
    ),
    "check": ("deployments.commands.start", "Try everything a project file names and say what holds."),
    "import-labels": ("deployments.commands.labels", "Take in labels that an LLM already gave."),
    "label": ("deployments.commands.labels", "Label items with the teacher."),
    "review": ("deployments.commands.labels", "Export or import the review queue."),
    "embed": ("deployments.commands.jobs", "Encode what is missing, once."),
    "clean": ("deployments.commands.jobs", "Propose labels where the student contradicts the teacher."),
    "retrain": ("deployments.commands.jobs", "Train candidates and register the winner as challenger."),
    "recalibrate": ("deployments.commands.jobs", "Issue a new policy for the champion without training."),
    "thresholds": ("deployments.commands.watch", "Print the escalation table and what can be certified."),
    "promote": ("deployments.commands.jobs", "Let the challenger serve, if the gate lets it pass."),
    "rollback": ("deployments.commands.jobs", "Give the champion's place back to its predecessor."),
    "route": ("deployments.commands.jobs", "Answer a file of items by cache, student or teacher."),
    "nightly": ("deployments.commands.jobs", "The whole wheel once."),
    "monitor": ("deployments.commands.monitor", "Look for drift: is traffic still what was calibrated on?"),
    "report": ("deployments.commands.watch", "Write the HTML report."),
    "export": ("deployments.commands.export", "Write a version as ONNX for programs without this package."),
    "bench": ("deployments.commands.watch", "Measure the champion's latency and throughput."),
    "status": ("deployments.commands.watch", "Say how the project stands."),
    "up": ("deployments.commands.stack", "Start the local stack: Prefect, MLflow, a worker, the schedules."),
    "teacher-sim": (
        "deployments.commands.stack",
        "Serve recorded or noisy answers as an OpenAI-compatible API.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed; help lines stand above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of a first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command by its name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        return getattr(module, cmd_name.replace("-", "_") + "_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and help lines without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """As usual, but an unknown command names the nearest one."""
        from difflib import get_close_matches

        if args and args[0] not in COMMANDS:
            near = get_close_matches(args[0], list(COMMANDS), n=1)
            ctx.fail(f"no such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llm-flywheel")
def main() -> None:
    """LLM flywheel: an LLM teaches, a small student answers what it is sure of, the rest trains tomorrow's.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 finished but incomplete.
    """


if __name__ == "__main__":
    main()
