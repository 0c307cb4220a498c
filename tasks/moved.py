"""The file that says what became of labels that a taxonomy no longer has: `old path: new path`, one a line.

Reads and checks it; what it means for a label is the taxonomy's business (`Taxonomy.today`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tasks.errors import TaxonomyError
from tasks.taxonomy import Taxonomy, join, read_yaml, split

SHOWN = 5
REMEDY = "Was one renamed, moved or merged? Say so in a file named under task.moved, and its items keep their labels."


def with_moved(taxonomy: Taxonomy, file: Path) -> Taxonomy:
    """The taxonomy with the moves of a YAML file: `OLD: NEW`, `OLD: [NEW, NEWER]` (a split), `OLD:` (given up).

    Raises:
        TaxonomyError: no such file, no mapping of paths, an old path that is still a label, a new one that leads to
            no label, or a circle.
    """
    try:
        tree, wrong = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TaxonomyError(file, f"cannot be read ({error})", "Name the file under task.moved.") from error
    if wrong or not isinstance(tree, dict):
        raise TaxonomyError(
            file,
            f"is no mapping of old paths to new ones{f': {wrong}' if wrong else ''}",
            "Write one line for each label that was moved: `old path: new path`.",
        )
    moves = {_spelled(old): _paths(file, old, new) for old, new in tree.items()}
    known = {node for nodes in taxonomy.nodes for node in nodes}
    for old, paths in moves.items():
        if old in taxonomy.leaf_index:
            raise TaxonomyError(
                file,
                "is still a label, and what bore it before cannot be told from what bears it now",
                "Give the label another name in the taxonomy, or take the line out.",
                old,
            )
        for path in paths:
            _leads_somewhere(taxonomy, known, moves, old, path, file)
    return replace(taxonomy, moved=moves)


def lost_in_words(lost: Mapping[str, int]) -> str:
    """Labels that the taxonomy no longer has, with how many items bore each, and what is to be done."""
    named = ", ".join(f"{label} ({count:,})" for label, count in list(lost.items())[:SHOWN])
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    return f"{named}{more}; `flywheel label` asks about their items again. {REMEDY}"


def _spelled(written: str) -> str:
    return join([" ".join(name.split()) for name in split(written)])


def _paths(file: Path, old: str, new: object) -> tuple[str, ...]:
    paths = new if isinstance(new, list) else [] if new is None else [new]
    texts = [path for path in paths if isinstance(path, str)]
    if len(texts) < len(paths):
        raise TaxonomyError(file, f"leads to {new!r}, which is no path", "Write it in quotes.", old)
    return tuple(map(_spelled, texts))


def _leads_somewhere(
    taxonomy: Taxonomy, known: set[str], moves: dict[str, tuple[str, ...]], old: str, path: str, file: Path
) -> None:
    """Follow a path through further moves to a label, an inner path, a split or an end."""
    trail = [old]
    while path not in known:
        if path in trail:
            circle = " to ".join(map(repr, [*trail, path]))
            raise TaxonomyError(
                file, f"leads in a circle: {circle}", "Let every line end at a label of the taxonomy.", old
            )
        if path not in moves:
            near = taxonomy.nearest(path)
            hint = f" Did you mean {near!r}?" if near else ""
            raise TaxonomyError(
                file,
                f"leads to {path!r}, which is no label of the taxonomy",
                f"Correct it or add the label.{hint}",
                old,
            )
        if len(moves[path]) != 1:
            return
        trail.append(path)
        (path,) = moves[path]
