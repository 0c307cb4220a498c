"""Routes a file in a process that ends itself, as kill -9 would: project, FLYWHEEL_HOME, file, out, and when.

It dies before the commit of the log of that many shards of three rows; pieces have seven.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tasks import pieces
from tasks.project import load_project
from tasks.routing import steps

if __name__ == "__main__":
    project_file, home, file, out, shards = sys.argv[1:]
    append, left = steps.append_traffic, int(shards)

    def append_or_die(*arguments: Any) -> int:
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return append(*arguments)

    steps.SHARD_ROWS, pieces.PIECE_ROWS = 3, 7
    steps.append_traffic = append_or_die  # type: ignore[assignment]
    steps.route_file.fn(load_project(Path(project_file), Path(home)), file, out, 1)
