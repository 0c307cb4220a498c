"""The tree of labels: its leaves, its levels, and how a written label becomes a path from the root.

Knows nothing of files of items or of models; a label is a `str`, the path joined with ` > `.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import TaxonomyError

SEPARATOR = " > "
ABOUT = "_about"


def join(path: Sequence[str]) -> str:
    """The one spelling of a path: its names joined with ` > `."""
    return SEPARATOR.join(path)


def split(label: str) -> tuple[str, ...]:
    """The names of a written path, outer spaces removed; the inverse of `join`."""
    return tuple(part.strip() for part in label.split(SEPARATOR.strip()))


@dataclass(frozen=True)
class Taxonomy:
    """A tree of labels; `leaves` are paths in file order, `about` holds a line of instruction by path.

    `levels` names the depths from the root down; a branch may end before the last. `other` is the label of
    the "none of these" leaf (already among `leaves`), or None when the project switched it off.
    """

    levels: tuple[str, ...]
    leaves: tuple[str, ...]
    about: Mapping[str, str]
    other: str | None = None

    @cached_property
    def leaf_index(self) -> dict[str, int]:
        """Leaf path to its place in `leaves`."""
        return {leaf: index for index, leaf in enumerate(self.leaves)}

    @cached_property
    def nodes(self) -> tuple[tuple[str, ...], ...]:
        """For each level, the paths cut at that depth in file order (a short branch stands as itself)."""
        return tuple(
            tuple(dict.fromkeys(truncate(leaf, depth) for leaf in self.leaves))
            for depth in range(1, len(self.levels) + 1)
        )

    @cached_property
    def level_maps(self) -> tuple[tuple[int, ...], ...]:
        """For each level, the node index (into `nodes[level]`) of every leaf."""
        maps = []
        for depth, nodes in enumerate(self.nodes, start=1):
            place = {node: index for index, node in enumerate(nodes)}
            maps.append(tuple(place[truncate(leaf, depth)] for leaf in self.leaves))
        return tuple(maps)

    @cached_property
    def version(self) -> str:
        """A hash of names, levels and instructions: what a prompt or a model was built for."""
        text = json.dumps(
            [self.levels, self.leaves, sorted(self.about.items()), self.other], ensure_ascii=False
        )
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        """Case-folded full path or unambiguous bare leaf name to the leaf."""
        bare = Counter(_fold(split(leaf)[-1]) for leaf in self.leaves)
        found = {_fold(split(leaf)[-1]): leaf for leaf in self.leaves if bare[_fold(split(leaf)[-1])] == 1}
        return found | {_fold(leaf): leaf for leaf in self.leaves}

    def resolve(self, written: str) -> str | None:
        """The leaf that `written` means: a full path, or a bare leaf name where that is unique; else None.

        Outer and repeated spaces and letter case are forgiven, nothing else is: never a guess.
        """
        return self._by_folded.get(_fold(written))

    def nearest(self, written: str) -> str | None:
        """The known leaf most like `written`, for an error message."""
        found = get_close_matches(_fold(written), list(self._by_folded), n=1, cutoff=0.5)
        return self._by_folded[found[0]] if found else None

    def from_columns(self, values: Sequence[str | None]) -> str | None:
        """The leaf named by one value a level (empty where a branch ends early); None if there is none."""
        path = [value.strip() for value in values if value is not None and value.strip()]
        return self.resolve(join(path)) if path else None

    def to_columns(self, label: str) -> dict[str, str | None]:
        """One value a level for a label; None below where its branch ends."""
        path = split(label)
        return {level: path[i] if i < len(path) else None for i, level in enumerate(self.levels)}


def truncate(label: str, depth: int) -> str:
    """The label cut to its first `depth` names."""
    return join(split(label)[:depth])


def _fold(written: str) -> str:
    return SEPARATOR.join(" ".join(part.split()).casefold() for part in written.split(SEPARATOR.strip()))


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice instead of keeping the last."""


def _no_duplicates(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the label {key!r} stands twice under one parent", key_node.start_mark
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def load_taxonomy(file: Path, levels: Sequence[str] | None = None, other: str | None = None) -> Taxonomy:
    """Read a taxonomy file (a nested mapping; a leaf's value is its instruction or empty).

    Raises:
        TaxonomyError: no such file, not a mapping, two equal paths, more depths than `levels` names.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaxonomyError(
            file, f"cannot be read ({error})", "Name the taxonomy under task.taxonomy."
        ) from error
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        problem = getattr(error, "problem", None) or str(error)
        where = f"line {line + 1}" if line is not None else ""
        raise TaxonomyError(
            file, problem, "Every path may stand only once; rename or merge.", where
        ) from error
    if not isinstance(tree, dict) or not tree:
        raise TaxonomyError(
            file, "is not a nested mapping of labels", "Write one label a line, children indented."
        )
    return build_taxonomy(tree, levels, other, file)


def build_taxonomy(
    tree: Mapping[str, Any],
    levels: Sequence[str] | None = None,
    other: str | None = None,
    file: Path | str = "taxonomy",
) -> Taxonomy:
    """A taxonomy from a nested mapping; `other` is added as a last leaf of depth one.

    Raises:
        TaxonomyError: as `load_taxonomy`.
    """
    about: dict[str, str] = {}
    leaves = list(_walk(tree, (), about, file))
    folded = Counter(_fold(leaf) for leaf in leaves)
    for leaf in leaves:
        if folded[_fold(leaf)] > 1:
            raise TaxonomyError(
                file,
                "two equal paths (spaces and letter case do not tell them apart)",
                "Rename or merge one.",
                leaf,
            )
    depth = max(len(split(leaf)) for leaf in leaves)
    names = (
        tuple(levels) if levels else tuple(f"l{i}" for i in range(1, depth + 1)) if depth > 1 else ("label",)
    )
    if depth != len(names):
        raise TaxonomyError(
            file,
            f"is {depth} levels deep but task.levels names {len(names)} ({', '.join(names)})",
            "Name one level for each depth.",
        )
    if other is not None:
        if _fold(other) in folded:
            other = next(leaf for leaf in leaves if _fold(leaf) == _fold(other))
        else:
            leaves.append(other)
            about[other] = "fits none of the other labels"
    return Taxonomy(names, tuple(leaves), about, other)


def _walk(
    tree: Mapping[str, Any], above: tuple[str, ...], about: dict[str, str], file: Path | str
) -> Iterator[str]:
    for raw, value in tree.items():
        name = " ".join(str(raw).split())
        if raw == ABOUT:
            if above and value:
                about[join(above)] = str(value)
            continue
        if not name or SEPARATOR.strip() in name:
            raise TaxonomyError(
                file, f"the name {raw!r} is empty or contains '>'", "Rename the label.", join(above)
            )
        path = (*above, name)
        if isinstance(value, Mapping) and value and set(value) != {ABOUT}:
            yield from _walk(value, path, about, file)
            continue
        if isinstance(value, Mapping):
            value = value.get(ABOUT)
        if isinstance(value, list):
            raise TaxonomyError(
                file, "a list where labels or an instruction are expected", "Use a mapping.", join(path)
            )
        if value not in (None, ""):
            about[join(path)] = str(value)
        yield join(path)
