"""The files a project begins with: its commented YAML from the template, its taxonomy from labelled data.

Guesses columns and says what it guessed; nothing is written here but text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from tasks.errors import InputError
from tasks.labeling.history import LABEL_COLUMNS, TEXT_COLUMNS
from tasks.sources import IMAGE_SUFFIXES
from tasks.taxonomy import ABOUT, SEPARATOR, split

TEMPLATE = Path(__file__).parent / "templates" / "project.yaml"
TITLES = ("title", "product_name", "message", "first_message", "description", "body", "sentence", "utterance")
IMAGE_COLUMNS = ("image", "image_path", "path", "file", "filename", "picture", "photo")
ID_COLUMNS = ("id", "source_id", "key", "uuid", "sku", "identifier", "index")
MAX_LABEL = 200
LOOKED_AT = 20_000  # rows that guesses rest on
_LINE = re.compile(r"^(?P<indent> *)(?P<off># )?(?P<key>[a-z_]+):(?P<value>[^#]*?)(?P<note> *#.*)?$")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold its ids and its items."""

    modality: str
    id: str | None
    content: str


def guess_columns(
    frame: pl.DataFrame,
    file: Path,
    modality: str | None = None,
    id_column: str | None = None,
    content_column: str | None = None,
    labels: Sequence[str] = (),
) -> Columns:
    """The id and content columns: those given, else by name, else by what is in them.

    Args:
        frame: the table.
        file: where it was read from, for errors.
        modality: text or image; None takes images where the content is bytes or the names of image files.
        id_column: if known.
        content_column: if known.
        labels: columns that hold labels and so neither.

    Raises:
        InputError: a column given is not there, or none looks like the content.
    """
    for given in (id_column, content_column):
        if given is not None and given not in frame.columns:
            raise _not_there(frame, file, given)
    head = frame.head(LOOKED_AT)
    free = [name for name in frame.columns if name not in labels and name != id_column]
    images = [name for name in free if _holds_images(head[name])]
    if modality is None:
        shown = [content_column] if content_column else _by_name(free, (*TEXT_COLUMNS, *TITLES)) or images
        modality = "image" if shown and shown[0] in images else "text"
    content = content_column or _content(head, free, images, modality)
    if content is None:
        option = "--text-column" if modality == "text" else "--modality text, or name the column source.image"
        raise InputError(file, f"no column looks like the {modality}", f"Give {option}. {_has(frame)}")
    return Columns(modality, id_column or _id(frame, content, labels), content)


def label_columns_of(frame: pl.DataFrame, file: Path, levels: Sequence[str]) -> list[str]:
    """The columns that hold a label: one a level where all are there, else one with the whole path.

    Raises:
        InputError: there is neither.
    """
    if levels and set(levels) <= set(frame.columns):
        return list(levels)
    if found := _by_name(frame.columns, LABEL_COLUMNS):
        return found[:1]
    raise InputError(
        file, "no column looks like a label", f"Give --levels a,b,c, or a column `label`. {_has(frame)}"
    )


@dataclass
class Branch:
    """Labels below one label, by name; `rows` counts those that end here."""

    rows: int = 0
    below: dict[str, Branch] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Rows here and below."""
        return self.rows + sum(branch.total for branch in self.below.values())

    @property
    def depth(self) -> int:
        """Levels below this label."""
        return 1 + max(branch.depth for branch in self.below.values()) if self.below else 0

    @property
    def leaves(self) -> int:
        """Labels without labels below them."""
        return sum(branch.leaves for branch in self.below.values()) if self.below else 1

    @property
    def stopping(self) -> int:
        """Rows whose label has labels below it, so that it names none of them."""
        here = self.rows if self.below else 0
        return here + sum(branch.stopping for branch in self.below.values())


def label_tree(frame: pl.DataFrame, columns: Sequence[str], file: Path) -> Branch:
    """The tree of all labels of a table, the most frequent first; spellings that differ in case are one.

    Raises:
        InputError: a name cannot be one (a `>` inside, too long), or no row has a label.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    wanted = [pl.col(column).cast(pl.String) for column in columns]
    for row, values in enumerate(frame.select(wanted).iter_rows(), start=1):
        path = tuple(_names(values))
        if path:
            _refuse_odd_names(path, file, row)
            counts[path] += 1
    tree, spelled = Branch(), _spelling(counts)
    for path, count in counts.most_common():
        branch = tree
        for depth in range(1, len(path) + 1):
            branch = branch.below.setdefault(spelled[_folded(path[:depth])], Branch())
        branch.rows += count
    if not tree.below:
        raise InputError(
            file, f"no row has a label in {', '.join(columns)}", "Name the columns with --levels."
        )
    return tree


def taxonomy_text(tree: Branch, project: str, labelled: str) -> str:
    """A taxonomy file: one label a line with how many rows bear it, and room for instructions."""
    head = [
        f"# The labels of {project}, from {labelled}; behind each, how many rows bear it.",
        "# A leaf may carry a line of instruction, which the teacher reads (Kettles: to boil water in); an inner",
        f"# label carries it under {ABOUT}. A label renamed here is a new label to the teacher.",
    ]
    return "\n".join([*head, *_lines(tree, "")]) + "\n"


def project_text(name: str, values: Mapping[str, tuple[str, Any]]) -> str:
    """The template with what was found; every other line keeps its default and its comment.

    Args:
        name: of the project.
        values: dotted place in the template to (key to write, value); a line that is commented out comes alive.
    """
    wanted = {
        "project": ("project", name),
        "task.taxonomy": ("taxonomy", f"{name}.taxonomy.yaml"),
        **values,
    }
    section, lines = "", []
    for line in TEMPLATE.read_text(encoding="utf-8").replace("var/NAME", f"var/{name}").splitlines():
        found = _LINE.match(line)
        if found and not found["indent"]:
            section = found["key"]
        place = f"{section}.{found['key']}" if found and found["indent"] else section
        if found and place in wanted:
            key, value = wanted.pop(place)
            written = f"{found['indent']}{key}: {scalar(value)}"
            note = (found["note"] or "").strip()
            column = len(line) - len(note) - 1 if note else 0  # the notes below each other, as they were
            line = f"{written:<{column}} {note}"
        lines.append(line.rstrip())
    assert not wanted, f"the template has no line for {', '.join(wanted)}"
    return "\n".join(lines) + "\n"


def scalar(value: Any) -> str:
    """A value as YAML on one line, quoted where it must be."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _lines(tree: Branch, indent: str) -> Iterator[str]:
    for name, branch in sorted(tree.below.items(), key=lambda pair: (-pair[1].total, pair[0])):
        yield f"{indent}{scalar(name)}:  # {branch.total:,}"
        yield from _lines(branch, indent + "  ")


def _names(values: Iterable[str | None]) -> Iterator[str]:
    """The names of a path up to the first empty one; a single column may hold the whole path."""
    given = list(values)
    parts = split(given[0]) if len(given) == 1 and given[0] else given
    for part in parts:
        name = " ".join((part or "").split())
        if not name:
            return
        yield name


def _refuse_odd_names(path: tuple[str, ...], file: Path, row: int) -> None:
    for name in path:
        if SEPARATOR.strip() in name or len(name) > MAX_LABEL or name == ABOUT:
            raise InputError(
                file,
                f"{name[:60]!r} cannot be a label",
                f"A label has at most {MAX_LABEL} characters and no '>'; is this the right column?",
                row,
            )


def _folded(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", name.casefold()) for name in path)


def _spelling(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The most frequent spelling of the last name of every path and of everything above it."""
    spelled: dict[tuple[str, ...], Counter[str]] = {}
    for path, count in counts.items():
        for depth in range(1, len(path) + 1):
            spelled.setdefault(_folded(path[:depth]), Counter())[path[depth - 1]] += count
    return {path: names.most_common(1)[0][0] for path, names in spelled.items()}


def _by_name(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with one of these names, in the order of the names, letter case forgiven."""
    known = {column.casefold(): column for column in reversed(columns)}
    return [known[name] for name in names if name in known]


def _holds_images(values: pl.Series) -> bool:
    if values.dtype == pl.Binary:
        return True
    if values.dtype != pl.String:
        return False
    some = values.drop_nulls().head(50).to_list()
    return bool(some) and all(Path(value).suffix.lower() in IMAGE_SUFFIXES for value in some)


def _content(frame: pl.DataFrame, free: list[str], images: list[str], modality: str) -> str | None:
    if modality == "image":
        return next(
            iter([*(name for name in _by_name(free, IMAGE_COLUMNS) if name in images), *images]), None
        )
    texts = [name for name in free if frame[name].dtype == pl.String and name not in images]
    if named := _by_name(texts, (*TEXT_COLUMNS, *TITLES)):
        return named[0]
    texts = [name for name in texts if not _named_as_id(name)]
    return max(texts, key=lambda name: float(frame[name].str.len_chars().mean() or 0), default=None)  # type: ignore[arg-type]


def _named_as_id(name: str) -> bool:
    return name.casefold() in ID_COLUMNS or name.casefold().endswith(("_id", " id", "-id"))


def _id(frame: pl.DataFrame, content: str, labels: Sequence[str]) -> str | None:
    """A column that names each item: by its name, else by being different in every row; None where none does."""
    free = [name for name in frame.columns if name not in (*labels, content)]
    named = _by_name(free, ID_COLUMNS) + [name for name in free if _named_as_id(name)]
    plain = [name for name in free if frame[name].dtype.is_integer() or frame[name].dtype == pl.String]
    for name in dict.fromkeys([*named, *plain]):
        if frame[name].null_count() == 0 and frame[name].n_unique() == frame.height:
            return name
    # One item may stand in many rows of a named column; `flywheel check` tells where one id has two items.
    return named[0] if named else None


def _not_there(frame: pl.DataFrame, file: Path, column: str) -> InputError:
    return InputError(file, f"column {column!r} is missing", _has(frame))


def _has(frame: pl.DataFrame) -> str:
    return f"It has: {', '.join(frame.columns[:20])}."
