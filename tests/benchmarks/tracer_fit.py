"""One fit of TRACER, by the interpreter of an environment that has it: `python -I tracer_fit.py FOLDER TARGET SKIPPED`.

Reads `traces.jsonl`, `traces.npy` and `fresh.npy` of the folder and writes `routed.json`: what its router says about
the fresh rows (null: left to the teacher), how it was chosen, and the CPU seconds of the fit. Knows nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def main(folder: Path, target: float, skipped: tuple[str, ...]) -> None:
    import tracer  # type: ignore[import-not-found]
    from tracer.config import FitConfig  # type: ignore[import-not-found]

    traces, fresh = np.load(folder / "traces.npy"), np.load(folder / "fresh.npy")
    began = time.process_time()
    config = FitConfig(target_teacher_agreement=target, skip_candidates=skipped)
    fitted = tracer.fit(folder / "traces.jsonl", folder / "fitted", embeddings=traces, config=config)
    seconds = time.process_time() - began
    method = fitted.manifest.selected_method
    labels: list[str | None] = [None] * len(fresh)
    if method is not None:
        labels = tracer.load_router(folder / "fitted").predict_batch(fresh)["labels"]
    found = {"labels": labels, "cpu_seconds": seconds, "method": method}
    (folder / "routed.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), tuple(sys.argv[3:]))
