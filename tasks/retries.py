"""When a failed step is tried again and how long is waited before: only where the error says that waiting may help.

Counting and waiting are the orchestrator's; this knows neither it nor the steps.
"""

from __future__ import annotations

import logging
from typing import Any

PAUSES_SECONDS = (10.0, 60.0, 300.0)
"""A restart, a short outage, an update of a server: what is away for longer needs a person."""


def worth_another_try(_task: object, _run: object, state: Any) -> bool:
    """Whether a failed step may succeed a while later; said on stderr, because the wait is long.

    Args:
        state: Prefect's, of the attempt that failed; its data is the error.
    """
    if not getattr(state.data, "transient", False):
        return False
    logging.getLogger("flywheel").warning("%s Trying again in a while.", state.data)
    return True


AGAIN: dict[str, Any] = {
    "retries": len(PAUSES_SECONDS),
    "retry_delay_seconds": list(PAUSES_SECONDS),
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": worth_another_try,
}
"""What a step is declared with that may be done again, whatever its first attempt left behind."""
