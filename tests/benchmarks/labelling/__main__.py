"""How well the bulk labeller fills the pipe, what it costs, and what it loses: figures against their goals.

Run as `python -m tests.benchmarks.labelling [SECTION ...] [--quick] [--json] [--curator-python PATH]`; without sections
all run (throughput, faults, storm, kill, memory, peers, command), about 25 minutes. Every figure is a ratio or a
count of one run on one machine against `flywheel teacher-sim` in a process of its own; "others' cores" says how much
of the machine somebody else used meanwhile. A goal that was not reached is said so, and is no failure of the script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.labelling.bench import QUICK, Bench, Sizes
from tests.benchmarks.labelling.command import command
from tests.benchmarks.labelling.figures import Findings
from tests.benchmarks.labelling.kills import kill
from tests.benchmarks.labelling.peers import peers
from tests.benchmarks.labelling.sections import faults, memory, storm, throughput

SECTIONS: dict[str, Callable[[Bench], Findings]] = {
    section.__name__: section for section in (throughput, faults, storm, kill, memory, peers, command)
}


def main() -> int:
    """Run the sections and print what they found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labelling", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default all"
    )
    parser.add_argument("--quick", action="store_true", help="tiny jobs: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--curator-python", metavar="PATH", help="a Python that has bespokelabs-curator")
    parser.add_argument("--memory-items", type=int, metavar="N", help="the larger number of section memory")
    parser.add_argument(
        "--quiet-seconds", type=float, default=0.0, help="wait so long for a quiet machine, each time"
    )
    parser.add_argument(
        "--folder", type=Path, help="an empty folder to work in and to keep; default one that is removed"
    )
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty, and what an old run left there would spoil the new one")
    sizes = QUICK if options.quick else Sizes()
    if options.memory_items:
        sizes = replace(sizes, memory_items=(sizes.memory_items[0], options.memory_items))

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    everything: dict[str, object] = {"machine": machine, "quick": options.quick}
    if not options.json:
        print(machine, flush=True)
    with tempfile.TemporaryDirectory(prefix="flywheel-labelling-") as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, sizes, options.curator_python, options.quiet_seconds, say=progress)
        for name in options.sections or SECTIONS:
            found = SECTIONS[name](bench)
            everything[name] = found.as_dict()
            if not options.json:
                print("\n".join(found.lines()), flush=True)
    if options.json:
        print(json.dumps(everything))
    return 0


if __name__ == "__main__":
    sys.exit(main())
