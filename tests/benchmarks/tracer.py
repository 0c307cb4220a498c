"""Coverage, kept promises and CPU time beside TRACER 0.3.3, on the same vectors, traces and agreement target.

Run as `python -m tests.benchmarks.tracer --data DIR --tracer-python PATH [--results DIR] [--cells 1500-clean]`, where
PATH is the interpreter of an environment of its own: `python -m venv FOLDER`, then `FOLDER/bin/pip install
tracer-llm==0.3.3`. Each draw permutes the pooled rows of BANKING77: the first are the traces, all others are fresh. The
teacher is the human labels, or these with 10 % simulated errors; it labels both parts.

Both sides promise 95 % agreement with the teacher among what they answer, at confidence .90 (the level of TRACER's
bound, which no setting changes). Coverage is the share of the fresh rows that is answered, and a promise is **missed
where fewer than 95 % of the answered fresh rows agree**, however few are lacking. TRACER runs with its defaults but for
gradient boosting, which its own documentation advises to leave out where there are many labels. Ours is what `retrain`
does without gold, by the project's defaults: the candidate of least out-of-fold log-loss, calibrated by cross-fitting
on all traces, fitted again on all; the same in all cells. CPU seconds are of the fit with its calibration; ours search
near-duplicates besides. With `--results` each result is kept in a file of its own, and what is there is not computed
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tasks.demo.noise import noisy_passes_from_features
from tasks.project import Student as StudentSettings
from tasks.student.certifying import certified
from tasks.student.thresholds import accepts
from tests.benchmarks.promise import Pool, blobs, pool_of, trained

AGREEMENT, CONFIDENCE = 0.95, 0.90

SKIPPED = ("gbt",)
"""Of TRACER's candidates: one sweep's gradient boosting took over three CPU minutes, and a fit makes up to nine."""

ALL = 10_003
"""As many rows as the train split of BANKING77 has; 3,080 stay fresh."""


@dataclass(frozen=True)
class Cell:
    """So many traces, of a teacher that errs so often, drawn so many times."""

    traces: int
    noise: float
    draws: int

    @property
    def name(self) -> str:
        return f"{self.traces}-noise{100 * self.noise:.0f}" if self.noise else f"{self.traces}-clean"


CELLS = tuple(
    Cell(traces, noise, draws)
    for traces, draws in ((1_500, 20), (5_000, 3), (ALL, 3))
    for noise in (0.0, 0.1)
)


@dataclass(frozen=True)
class Result:
    """One fit on the fresh rows: share answered, how many that is, share of them that agree, and what was chosen."""

    coverage: float
    answered: int
    agreement: float
    cpu_seconds: float
    chosen: str

    @property
    def missed(self) -> bool:
        """Whether fewer agree than was promised; who answers nothing has broken no promise."""
        return self.answered > 0 and self.agreement < AGREEMENT


@dataclass(frozen=True, eq=False)
class Draw:
    """Rows that are traces and rows that are fresh, and what the teacher says of all rows of the pool."""

    traces: np.ndarray
    fresh: np.ndarray
    teacher: list[str]

    @classmethod
    def of(cls, pool: Pool, cell: Cell, seed: int) -> Draw:
        order = np.random.default_rng(1000 + seed).permutation(len(pool.texts))
        teacher = pool.labels
        if cell.noise:
            [teacher] = noisy_passes_from_features(pool.X, pool.labels, cell.noise, 1, seed)
        return cls(order[: cell.traces], order[cell.traces :], list(teacher))

    def judged(self, said: Sequence[str | None], cpu_seconds: float, chosen: str) -> Result:
        """What was said about the fresh rows, None where it was left to the teacher."""
        pairs = zip(said, self.fresh, strict=True)
        agrees = [label == self.teacher[row] for label, row in pairs if label is not None]
        agreement = float(np.mean(agrees)) if agrees else 1.0
        return Result(len(agrees) / len(said), len(agrees), agreement, cpu_seconds, chosen)


def ours(pool: Pool, draw: Draw, names: Sequence[str]) -> Result:
    """The product's own retrain on the traces, and what its out-of-fold answers certify."""
    began = time.process_time()
    of = trained(pool, draw.traces, draw.teacher, names)
    certificate, _, _ = certified(of.path, of.held_out, len(pool.levels), None, 1 - AGREEMENT, CONFIDENCE)
    seconds = time.process_time() - began
    answers = of.student.answers(pool.X[draw.fresh])
    taken = accepts(answers.scores, certificate.thresholds)
    said = [label if take else None for label, take in zip(answers.labels, taken, strict=True)]
    return draw.judged(said, seconds, of.student.kind)


def theirs(pool: Pool, draw: Draw, python: Path) -> Result:
    """TRACER's fit and its router, in the environment that has it."""
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as name:
        folder = Path(name)
        np.save(folder / "traces.npy", pool.X[draw.traces])
        np.save(folder / "fresh.npy", pool.X[draw.fresh])
        lines = [json.dumps({"input": pool.texts[row], "teacher": draw.teacher[row]}) for row in draw.traces]
        (folder / "traces.jsonl").write_text("\n".join(lines) + "\n")
        script = Path(__file__).with_name("tracer_fit.py")
        # isolated: beside the script lies this file, which bears the name of what is to be imported
        command = [str(python), "-I", str(script), str(folder), str(AGREEMENT), *SKIPPED]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = json.loads((folder / "routed.json").read_text())
    return draw.judged(found["labels"], found["cpu_seconds"], found["method"] or "nothing")


def kept(results: Path | None, name: str, compute: Callable[[], Result]) -> Result:
    """The result of that name, from its file where there is one; else computed, printed and written."""
    file = results / f"{name}.json" if results else None
    if file is not None and file.exists():
        return Result(**json.loads(file.read_text()))
    result = compute()
    print(f"{name}: {json.dumps(asdict(result))}", flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".tmp")
        beside.write_text(json.dumps(asdict(result)))
        beside.rename(file)
    return result


def table_of(found: dict[str, dict[str, list[Result]]]) -> list[str]:
    """A row a cell and side: mean coverage and its standard deviation, promises missed, mean CPU seconds."""
    lines = [
        "| cell | | draws | covered | sd | promise missed | CPU s a fit | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, sides in found.items():
        for side, results in sides.items():
            if results:
                covered = np.array([result.coverage for result in results])
                spread = f"{covered.std(ddof=1):.3f}" if len(results) > 1 else "–"
                missed = sum(result.missed for result in results)
                seconds = np.mean([result.cpu_seconds for result in results])
                chosen = ", ".join(sorted({result.chosen for result in results}))
                lines.append(
                    f"| {cell} | {side} | {len(results)} | {covered.mean():.3f} | {spread} | {missed} | "
                    f"{seconds:.1f} | {chosen} |"
                )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with banking77.parquet")
    parser.add_argument("--cache", type=Path, help="existing folder for the embeddings")
    parser.add_argument(
        "--tracer-python", type=Path, help="interpreter of an environment with tracer-llm 0.3.3"
    )
    parser.add_argument("--results", type=Path, help="folder for the results, so that a killed run goes on")
    parser.add_argument("--cells", nargs="*", default=[cell.name for cell in CELLS])
    parser.add_argument("--draws", type=int, help="at most so many a cell")
    parser.add_argument("--candidates", nargs="*", default=StudentSettings().candidates)
    parser.add_argument("--quick", action="store_true", help="a few points instead, to see whether it runs")
    options = parser.parse_args(arguments)
    if not options.quick and not (options.data and (options.data / "banking77.parquet").exists()):
        print("Skipped: name the folder with banking77.parquet by --data.")
        return 0
    if options.tracer_python is None:
        print("TRACER is skipped: name the interpreter of an environment that has it by --tracer-python.")
    import torch

    torch.set_num_threads(1)
    pool = blobs() if options.quick else pool_of("banking77", options.data, options.cache)
    cells = (Cell(500, 0.1, 2),) if options.quick else CELLS
    found: dict[str, dict[str, list[Result]]] = {}
    for cell in cells if options.quick else [cell for cell in CELLS if cell.name in options.cells]:
        sides = found.setdefault(cell.name, {"ours": [], "TRACER": []})
        for seed in range(min(cell.draws, options.draws or cell.draws)):
            draw, name = Draw.of(pool, cell, seed), f"{cell.name}-{seed}"

            def fit_ours(draw: Draw = draw) -> Result:
                return ours(pool, draw, options.candidates)

            def fit_theirs(draw: Draw = draw) -> Result:
                return theirs(pool, draw, options.tracer_python)

            sides["ours"].append(kept(options.results, f"{name}-ours", fit_ours))
            if options.tracer_python is not None:
                sides["TRACER"].append(kept(options.results, f"{name}-theirs", fit_theirs))
    print(*table_of(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
