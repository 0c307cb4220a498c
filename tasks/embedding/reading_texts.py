"""Texts as encoders read them: normalised, the prefix in front, cut where no model would read on.

Knows nothing of models; what an item's text is was decided where it was taken in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.records import normalise

# No language has more than some ten characters a token; a text longer than this is cut before it is tokenised, for
# some tokenizers take time that grows with the square of a word.
CHARACTERS_A_TOKEN = 32
FEW_CHARACTERS = 4096  # as many are always read


def readable(contents: Sequence[Any], prefix: str, max_tokens: int) -> list[str]:
    """Each text without control characters, lone surrogates and runs of white space, of bounded length."""
    most = max(FEW_CHARACTERS, CHARACTERS_A_TOKEN * max_tokens)
    # Cut twice: normalising takes time, too, and white space that is dropped makes room.
    return [prefix + normalise(str(text)[: 4 * most])[:most] for text in contents]
