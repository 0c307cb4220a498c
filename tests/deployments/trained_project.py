"""Trains a project of imported labels and lets its first version serve, in a process of its own, without flows.

python -m tests.deployments.trained_project PROJECT.yaml LABELS.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from deployments.environment import prepare


def main(file: str, labels: str) -> None:
    """Import, embed, snapshot, clean, train, promote."""
    prepare()
    from tasks.cleaning.steps import clean_snapshot
    from tasks.labeling.steps import import_history, take_in_items
    from tasks.project import load_project
    from tasks.promotion.steps import promote_challenger
    from tasks.student.steps import take_snapshot, train_and_register

    project = load_project(file)
    take_in_items.fn(project, 1)
    import_history(project, Path(labels), 1, "name", ["department", "category"])
    cleaned = clean_snapshot.fn(project, take_snapshot.fn(project))
    train_and_register.fn(project, cleaned, 1)
    assert promote_challenger.fn(project).promoted


if __name__ == "__main__":
    main(*sys.argv[1:])
