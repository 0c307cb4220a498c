"""Opening a file that a person or a tool saved: its encoding by its mark, its kind by its first character.

Knows nothing of what stands in it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from tasks.errors import InputError

# Excel's "CSV UTF-8" and "Unicode text" begin with these; the longer mark is looked for first.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
REMEDY = "Save it as CSV in UTF-8 (in Excel: `CSV UTF-8`)."


@contextmanager
def opened_text(file: Path) -> Iterator[TextIO]:
    """The file as text, line ends as they are.

    Raises:
        InputError: it cannot be opened, is a workbook, or (while it is read) is in another encoding.
    """
    try:
        with file.open("rb") as raw:
            head = raw.read(4)
        if head.startswith(WORKBOOKS):
            raise InputError(file, "is a workbook", REMEDY)
        encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
        with file.open(encoding=encoding, newline="") as text:
            yield text
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not in UTF-8: {error}"
        raise InputError(file, f"cannot be read ({reason})", REMEDY) from error


def kind_of(file: Path) -> Literal["json", "table"]:
    """What a file holds, by its first character that is no white space.

    Raises:
        InputError: as `opened_text`.
    """
    with opened_text(file) as text:
        while (start := text.read(4096)) and not start.strip():
            pass
    return "json" if start.lstrip().startswith(("[", "{")) else "table"
