"""The command that looks for drift: its signals with their limits, and what is advised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from deployments.output import Outcome, command


@click.command(name="monitor")
@command()
def monitor_command(project: str) -> Outcome:
    """Compare recent traffic with what the certificate rests on; drift is a result, not a failure."""
    from flows.monitor import monitor

    looked = monitor(project)
    lines = [
        f"version {looked.model_version}, policy {looked.policy_id}"
        if looked.policy_id is not None
        else "There is no champion with a policy: only new labels are counted."
    ]
    for name, signal in looked.signals.items():
        verdict = "DRIFT" if signal["alarms"] else "quiet" if signal["value"] is not None else "unknown"
        if name == "new_labels":
            verdict = "MANY" if signal["alarms"] else "quiet"
        lines += [
            f"{verdict:<8} {name.replace('_', ' '):<14} {_numbers(signal)}",
            f"         {signal['says']}",
        ]
    if looked.raised:
        told = ", ".join(f"{name.replace('_', ' ')} -> {job}" for name, job in looked.raised.items())
        lines.append(f"new: {told}")
    return Outcome(looked.as_dict() | {"advised": looked.advised}, "\n".join(lines))


def _numbers(signal: Mapping[str, Any]) -> str:
    """value, reference and limit, those there are, and what they rest on."""
    parts = [
        f"{name} {signal[name]:.4g}" for name in ("value", "reference", "limit") if signal[name] is not None
    ]
    return "  ".join([*parts, f"of {signal['items']:,}"])
