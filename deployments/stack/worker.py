"""A worker for servers that somebody else keeps up: registers the deployments, sweeps, then becomes the worker.

`python -m deployments.stack.worker CONF`, with the server in `PREFECT_API_URL`. What `flywheel up` does around its own
worker, without the watching: whoever keeps this process up starts it again, and every start registers and sweeps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from deployments.environment import prepare
from deployments.stack import register
from deployments.stack.parts import worker
from deployments.stack.zombies import sweep
from tasks.project import flywheel_home

LEFT = "the worker before this one ended while this run was on"


def main(conf: Path) -> NoReturn:
    """This process becomes the worker, or ends with a word on what is missing.

    One worker a pool: whatever runs without a process on this machine counts as left behind by an earlier one.
    """
    home = flywheel_home()
    # Jobs work in the home folder, where a `tasks` of somebody else's must not stand before ours.
    os.environ |= {"FLYWHEEL_HOME": str(home), "PYTHONSAFEPATH": "1"}
    prepare()
    api = os.environ.get("PREFECT_API_URL")
    if api is None:
        sys.exit("PREFECT_API_URL is not set: name the Prefect server, http://HOST:4200/api.")
    if failed := register.main([str(conf), api]):
        sys.exit(failed)
    if swept := sweep(api, LEFT):
        print(f"crashed   {', '.join(swept)}: {LEFT}")
    part = worker(os.environ, home)
    sys.stdout.flush()
    os.execve(part.command[0], [*part.command, "--with-healthcheck"], dict(part.environment))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
