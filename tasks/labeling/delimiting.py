"""Sets items apart from the task: data between marks that no item can write.

A mark carries a code of digits made from the items' keys; a code is only taken when it occurs in none of the
texts, however it might be disguised there. Knows nothing of labels or of what is asked.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import count

CODE_DIGITS = 6  # common tokenisers take three digits for a token
CODES_A_LENGTH = (
    8  # tries before a code grows by a digit, so that there is one in the end whatever the texts hold
)

_NO_DIGIT = re.compile(r"[^0-9]+")


def code_of(keys: Iterable[bytes], texts: Iterable[str]) -> str:
    """A code that stands in none of the texts, the same for the same keys and texts.

    What is between digits does not count, nor in which script or width they are written: neither a zero-width
    space nor a full-width digit hides a code.
    """
    digits = [_digits_of(text) for text in texts]
    digest = hashlib.blake2b(b"".join(keys), digest_size=16).digest()
    for salt in count():
        length = CODE_DIGITS + salt // CODES_A_LENGTH
        drawn = hashlib.blake2b(digest, salt=salt.to_bytes(8, "big"), digest_size=32).digest()
        code = str(int.from_bytes(drawn, "big") % 10**length).zfill(length)
        if not any(code in written for written in digits):
            return code
    raise AssertionError("count() never ends")


def one_item(code: str, text: str) -> str:
    """A text between an opening and a closing mark."""
    return f"<item-{code}>\n{text}\n</item-{code}>"


def mark(code: str, number: int) -> str:
    """The opening mark of one of several items; the next mark closes it."""
    return f"<item-{code} {number}>"


def several_items(code: str, texts: Sequence[str]) -> str:
    """Texts numbered from 1, each behind its mark, one closing mark at the end."""
    parts = [f"{mark(code, number)}\n{text}" for number, text in enumerate(texts, start=1)]
    return "\n".join((*parts, f"</item-{code}>"))


def decided_items(code: str, decided: Sequence[tuple[str, str]]) -> str:
    """Texts, each behind a mark that names its label."""
    parts = [f"<item-{code} label: {label}>\n{text}" for text, label in decided]
    return "\n".join((*parts, f"</item-{code}>"))


def _digits_of(text: str) -> str:
    if text.isascii():
        return _NO_DIGIT.sub("", text)
    plain = unicodedata.normalize("NFKC", text)
    return "".join(
        str(unicodedata.digit(sign)) for sign in plain if unicodedata.digit(sign, None) is not None
    )
