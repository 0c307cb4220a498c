"""Files that are there whole or not at all, whatever kills the writer.

Knows nothing of what is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Where to write what `file` shall hold; it takes its place when the block ends well, else nothing has changed.

    The folder is made. Two processes that write the same file at once do not meet; the later one's stays.

    Args:
        file: any name; a reader sees what it held before, or all of what it holds now.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
