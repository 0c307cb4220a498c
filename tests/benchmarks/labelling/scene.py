"""What is labelled: generated items with their answers, a taxonomy, and a project file a job.

Knows nothing of what is measured. The items are short texts, as most catalogues have; both passes give the recorded
label, so that a complete run labels every item, unless a second one is asked for that differs on 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import yaml

TREE = {
    "Kitchen": ("Kettles", "Knives", "Pans", "Toasters"),
    "Garden": ("Hoses", "Seeds", "Mowers", "Fences"),
    "Clothing": ("Shirts", "Shoes", "Socks", "Coats"),
    "Office": ("Pens", "Paper", "Chairs", "Lamps"),
    "Sports": ("Balls", "Rackets", "Skis", "Tents"),
    "Toys": ("Dolls", "Puzzles", "Trains", "Kites"),
}
LEAVES = tuple(f"{department} > {kind}" for department, kinds in TREE.items() for kind in kinds)
INSTRUCTIONS = "Classify the product by its name."
KINDS = ("classic", "compact", "deluxe", "everyday", "premium", "vintage", "outlet")
BRANDS = ("Alba", "Borealis", "Corvex", "Dunmore", "Estrella", "Fjordline")


@dataclass(frozen=True)
class Scene:
    """Items and answers on disk, for any number of jobs."""

    folder: Path
    items: int

    @cached_property
    def answers_file(self) -> Path:
        """Columns `text`, `label`, which the simulated teacher serves in every pass, and `differing`, a second pass."""
        return self.folder / "answers.parquet"

    def texts(self) -> list[str]:
        """The items."""
        return pl.read_parquet(self.answers_file)["text"].to_list()

    def project(self, name: str, base_url: str, concurrency: int, passes: int, **teacher: Any) -> Path:
        """The file of a new project on these items, with a database of its own."""
        settings = {
            "project": name,
            "task": {"taxonomy": "taxonomy.yaml", "instructions": INSTRUCTIONS, "other": None},
            "source": {"items": "items.parquet", "text": "text"},
            "teacher": {
                "base_url": base_url,
                "model": "simulated-teacher",
                "price": {"input": 0.3, "cached_input": 0.03, "output": 2.5},
                "concurrency": concurrency,
                "passes": passes,
                **teacher,
            },
            "storage": {"root": str(self.folder / "var" / name)},
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        return file

    def database_url(self, name: str) -> str:
        """Where the job of that name keeps its ledger."""
        return f"sqlite:///{self.folder / 'var' / name / 'flywheel.db'}"


def write_scene(folder: Path, items: int) -> Scene:
    """Write `items` distinct texts with one label each, and the taxonomy."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [
        f"{KINDS[i % len(KINDS)]} {LEAVES[i % len(LEAVES)].rpartition(' ')[2].lower()} by "
        f"{BRANDS[i % len(BRANDS)]}, article {i:07d}"
        for i in range(items)
    ]
    labels = [LEAVES[i % len(LEAVES)] for i in range(items)]
    differing = [LEAVES[(i + (i * 7919 % 100 < 15)) % len(LEAVES)] for i in range(items)]
    tree = {department: dict.fromkeys(kinds) for department, kinds in TREE.items()}
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    scene = Scene(folder, items)
    pl.DataFrame({"text": texts}).write_parquet(folder / "items.parquet")
    answers = {"text": texts, "label": labels, "differing": differing}
    pl.DataFrame(answers).write_parquet(scene.answers_file)
    return scene
