"""Monitor: has traffic drifted from what the certificate rests on, have many labels come since the last training?"""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows.events import DRIFT, NEW_LABELS, somebody_listens, tell
from flows.job import job
from tasks.monitoring.drift_look import Looked
from tasks.monitoring.steps import look_for_drift, note_what_was_raised


@flow(name="monitor")
def monitor(project: str) -> Looked:
    """Compare recent traffic with the certificate's calibration sample, and tell of what has changed.

    An alarm becomes an event; under `flywheel up` an automation starts what it advises: recalibration, or a nightly run
    ahead of its schedule. It is told once where that job ends well, else again after `monitor.quiet_hours`. Without a
    standing server nothing is told, only shown.

    Args:
        project: path of the project file.
    """
    with job(project, "monitor") as (settings, run):
        looked = look_for_drift(settings)
        run.result["monitor"] = looked.as_dict() | {"advised": looked.advised}
        for name in looked.alarms:
            get_run_logger().warning("%s: %s", name.replace("_", " "), looked.signals[name]["says"])
        if somebody_listens():
            about = {"project": settings.project, **looked.as_dict()}
            events = {DRIFT: looked.advised, NEW_LABELS: looked.raised.get("new_labels")}
            due = {event: advised for event, advised in events.items() if advised is not None}
            if all(tell(settings.project, event, about | {"advised": to}, to) for event, to in due.items()):
                note_what_was_raised(settings, looked)
        return looked
