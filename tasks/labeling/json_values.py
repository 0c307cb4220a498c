"""The values of a JSON array, or of values one after the other, without holding the whole text.

Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

READ_CHARACTERS = 1 << 20
MOST_CHARACTERS = 1 << 30  # of one value
_BETWEEN = re.compile(r"[\s,]*")


def json_values(text: TextIO, read_characters: int = READ_CHARACTERS) -> Iterator[Any]:
    """Each value of the array that `text` holds; without an array, each value (JSON Lines, or one value alone).

    Raises:
        ValueError: it is no JSON, ends in the middle of a value or of the array, or goes on after it.
    """
    decoder, size = json.JSONDecoder(), read_characters
    buffer, place, array = _first(text, read_characters), 0, False
    if buffer.startswith("["):
        place, array = 1, True
    while True:
        place = _end_of_blank(buffer, place)
        if array and buffer.startswith("]", place):
            if (buffer[place + 1 :] + text.read()).strip():
                raise ValueError("it goes on after the end of its array")
            return
        if place < len(buffer):
            try:
                value, place = decoder.raw_decode(buffer, place)
            except json.JSONDecodeError as error:
                more = text.read(size) if len(buffer) - place < MOST_CHARACTERS else ""
                if not more:
                    raise ValueError(f"it is not whole JSON: {error.msg}") from error
                # Twice as much each time, or a value with a large image would be read in quadratic time.
                buffer, place, size = buffer[place:] + more, 0, size * 2
                continue
            yield value
            size = read_characters
        else:
            buffer, place = text.read(read_characters), 0
            if not buffer:
                if array:
                    raise ValueError("it ends in the middle of its array")
                return


def _first(text: TextIO, size: int) -> str:
    """The first characters that are not all blank, outer blank removed."""
    while (buffer := text.read(size)) and not buffer.strip():
        pass
    return buffer.lstrip()


def _end_of_blank(buffer: str, place: int) -> int:
    found = _BETWEEN.match(buffer, place)
    return found.end() if found else place
