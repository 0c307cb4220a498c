"""Answers with a logged model where nothing can be imported that its requirements do not bring along.

Run as `python with_requirements_only.py MODEL_FOLDER COLUMN INPUTS.json` from anywhere: prints the answers as JSON.
This environment stands in for a clean one: what no requirement (nor what those require) provides is not found, as if it
were not installed, and `tasks` is found in the model's own folder only.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any


def brought_by(requirements: Iterable[str]) -> set[str]:
    """The distributions that pip would install for these lines, those they require in turn included."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    wanted = [(Requirement(line), frozenset({""})) for line in requirements]
    while wanted:
        requirement, extras = wanted.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found and not requirement.extras:
            continue
        found.add(name)
        try:
            inside = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:  # a platform's, which this one need not have
            continue
        wanted += [(Requirement(line), frozenset({"", *requirement.extras})) for line in inside]
    return found


class Only:
    """A finder that lets another one look for what is allowed."""

    def __init__(self, finder: Any, refused: set[str]) -> None:
        self._finder, self._refused = finder, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """None for whatever is refused."""
        return None if name.partition(".")[0] in self._refused else self._finder.find_spec(name, path, target)


def main(folder: Path, column: str, inputs: Path) -> None:
    """Print the answers to a JSON list of texts, or of images in base64."""
    kept = brought_by((folder / "requirements.txt").read_text().split())
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in kept for owner in owners)
    } - {"tasks"}
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "tasks").is_dir()]
    finders = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.meta_path[:] = [Only(finder, refused) for finder in finders]
    before = {name.partition(".")[0] for name in sys.modules}
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(folder))
    contents = json.loads(inputs.read_text())
    rows = [base64.b64decode(row) for row in contents] if column == "image" else contents
    answers = model.predict(pd.DataFrame({column: rows}))
    import tasks

    assert str(tasks.__file__).startswith(str(folder)), tasks.__file__
    unlisted = sorted(refused & ({name.partition(".")[0] for name in sys.modules} - before))
    print(json.dumps({"answers": answers.to_dict("records"), "unlisted": unlisted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
