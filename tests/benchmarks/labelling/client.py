"""The measured process of ours: what `flywheel label` does after its engine is up, on a project file; three marks.

Run as `python -m tests.benchmarks.labelling.client PROJECT [--modules FILE] [--write-modules FILE]`. The steps are
called as plain functions, so that an orchestrator's start is in no figure; section `command` measures that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tasks.labeling.steps import label_with_teacher, take_in_items, write_review_queue
from tasks.project import load_project
from tests.benchmarks.labelling.marks import imported, mark, mark_idle

RUN_ID = 1


def main() -> int:
    """Take in the items and label them; exits as `flywheel label` does, with 3 where something is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--modules", type=Path, help="modules to import before the work, one a line")
    parser.add_argument(
        "--write-modules", type=Path, help="where to write the modules that the work imported"
    )
    options = parser.parse_args()
    mark_idle(options.modules.read_text().split() if options.modules else ())
    project = load_project(options.project)
    take_in_items.fn(project, RUN_ID)
    mark("begin")
    record = label_with_teacher.fn(project, RUN_ID)
    mark("end", result=record.as_dict())
    write_review_queue.fn(project)
    mark("reviewed")
    if options.write_modules:
        options.write_modules.write_text("\n".join(imported()))
    return 3 if record.unlabelled_left or record.failed or record.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
