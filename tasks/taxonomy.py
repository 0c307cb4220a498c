"""The tree of labels: its leaves, its levels, and how a written label becomes a path from the root.

Knows nothing of files of items or of models; a label is a `str`, the path joined with ` > `.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    the "none of these" leaf (already among `leaves`), or None when the project switched it off. `moved` says of
    paths that are labels no longer what became of them: one path where they were renamed, moved or merged, several
    where they were split, none where they were given up; below an inner path all moves with it.
    """

    levels: tuple[str, ...]
    leaves: tuple[str, ...]
    about: Mapping[str, str]
    other: str | None = None
    moved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
        """A hash of names, levels and instructions: what a prompt or a model was built for. No move changes it."""
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

    @cached_property
    def _moved_by_folded(self) -> dict[str, tuple[str, ...]]:
        return {_fold(old): new for old, new in self.moved.items()}

    def resolve(self, written: str) -> str | None:
        """The leaf that `written` means: a full path, or a bare leaf name where that is unique; else None.

        Outer and repeated spaces, letter case and Unicode form are forgiven, nothing else is: never a guess. The
        path of a label that was moved means what it is now.
        """
        return self._by_folded.get(_fold(written)) or self.today(written)

    def today(self, label: str) -> str | None:
        """The leaf that a label given earlier is now; None where it is gone, or was split so that nobody can say."""
        used = set[str]()
        while label not in self.leaf_index:
            path = split(label)
            found = next(
                (at for at in range(len(path), 0, -1) if _fold(join(path[:at])) in self._moved_by_folded), 0
            )
            old = _fold(join(path[:found]))
            new = self._moved_by_folded.get(old, ())
            if len(new) != 1 or old in used:
                return None
            used.add(old)
            label = join((*split(new[0]), *path[found:]))
        return label

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
    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFD", name).casefold().split()))

    return SEPARATOR.join(folded(part) for part in written.split(SEPARATOR.strip()))


class StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice instead of keeping the last, and keeps keys as written.

    Without that a label `No` would become `False`, and `1.10` become `1.1`.
    """


def _no_duplicates(loader: StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
    loader.flatten_mapping(node)
    seen: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a list or a mapping where a name is expected", key_node.start_mark
            )
        key = key_node.value
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} stands twice under one parent", key_node.start_mark
            )
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


def read_yaml(text: str) -> tuple[Any, str | None]:
    """The content of a YAML text, or what is wrong with it and on which line."""
    try:
        return yaml.load(text, Loader=StrictLoader), None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        return None, problem if line is None else f"{problem} (line {line + 1})"
    except ValueError as error:  # 2024-13-01 looks like a date and is none
        return None, str(error)


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
    tree, wrong = read_yaml(text)
    if wrong:
        raise TaxonomyError(
            file, f"is not a taxonomy: {wrong}", "Mind the indentation; every path may stand only once."
        )
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
    if not leaves:
        raise TaxonomyError(file, "holds no label", "Write one label a line, children indented.")
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
        other = " ".join(other.split())
        if not other or SEPARATOR.strip() in other:
            raise TaxonomyError(
                file, f"the name {other!r} of task.other is empty or contains '>'", "Rename it, or use null."
            )
        same = [leaf for leaf in leaves if _fold(split(leaf)[0]) == _fold(other)]
        if not same:
            leaves.append(other)
            about[other] = "fits none of the other labels"
        elif len(same) == 1 and len(split(same[0])) == 1:
            other = same[0]
        else:
            raise TaxonomyError(
                file, "task.other has the name of a label with labels below it", "Rename one.", other
            )
    return Taxonomy(names, tuple(leaves), about, other)


def _walk(
    tree: Mapping[str, Any], above: tuple[str, ...], about: dict[str, str], file: Path | str
) -> Iterator[str]:
    siblings: dict[str, str] = {}
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
        if (earlier := siblings.setdefault(_fold(name), str(raw))) != str(raw):
            raise TaxonomyError(
                file,
                f"two equal paths ({earlier!r} and {str(raw)!r}: spaces and letter case do not tell them apart)",
                "Rename or merge one.",
                join(path),
            )
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
