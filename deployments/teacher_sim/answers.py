"""Recorded answers and the index that finds recorded texts inside a message.

It owns how a text is recognised (normalised, longest match, whole words). It does not know HTTP, prompts or
JSON schemas, nor whether an answer is a good one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks import records

_PREFIXES = (16, 6, 1)
_STARTS = re.compile(r"(?<!\w)\S")


def normalise(text: str) -> str:
    """What of a text must agree to be the same text: NFKC, no control characters, single spaces, trimmed."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return " ".join(unicodedata.normalize("NFKC", records.normalise(text)).split())


def image_name(image: bytes) -> str:
    """The name an image is recorded under: "sha256:" and the hexadecimal hash of its bytes."""
    return "sha256:" + hashlib.sha256(image).hexdigest()


@dataclass(frozen=True)
class Recorded:
    """What one item was answered, pass by pass.

    Attributes:
        name: the normalised text, or `image_name`.
        answers: label of pass 1, pass 2, ...; None where the teacher gave none.
        confidences: confidence of each pass; shorter than `answers` where none was recorded.
    """

    name: str
    answers: tuple[str | None, ...]
    confidences: tuple[float | None, ...] = ()

    def answer(self, seed: int | None) -> str | None:
        """The label of the pass that `seed` names; beyond the last pass the last repeats."""
        return self.answers[self._column(seed)]

    def confidence(self, seed: int | None) -> float:
        """The recorded confidence, else a plausible one (0.55 to 0.99) made from the item's hash."""
        column = self._column(seed)
        if column < len(self.confidences):
            recorded = self.confidences[column]
            if recorded is not None:
                return recorded
        drawn = hashlib.blake2b(f"{column}:{self.name}".encode(), digest_size=2).digest()
        share = int.from_bytes(drawn, "big") / 65535
        # The root crowds the values towards the top, where LLMs state theirs.
        return round(0.55 + 0.44 * share**0.5, 2)

    def _column(self, seed: int | None) -> int:
        return min(max(seed or 1, 1), len(self.answers)) - 1


Given = Sequence[str | None] | str
Answers = Mapping[str, Given] | Mapping[bytes, Given] | Mapping[str | bytes, Given]
"""Text or image bytes to the labels of pass 1, pass 2, ..., or to the one label of all passes."""


class AnswerBook:
    """Every recorded item, found by text or by image.

    Recorded texts are filed by their first 16, 6 or 1 characters and then by length, so a look at one place
    of a message costs three dictionary look-ups whatever the number of texts.
    """

    def __init__(self, answers: Answers) -> None:
        self._items: dict[str, Recorded] = {}
        self._lengths: dict[int, dict[str, list[int]]] = {size: {} for size in _PREFIXES}
        for content, given in answers.items():
            self.record(content, (given,) if isinstance(given, str) else given)

    def record(
        self,
        content: str | bytes,
        answers: Sequence[str | None],
        confidences: Sequence[float | None] = (),
    ) -> None:
        """Add a text or an image's bytes; the first record of an item stays, empty texts are left out.

        Raises:
            ValueError: no answer at all is given.
        """
        if not answers:
            raise ValueError(f"no answer for {content!r:.80}")
        name = image_name(content) if isinstance(content, bytes) else normalise(content)
        if not name or name in self._items:
            return
        self._items[name] = Recorded(name, tuple(answers), tuple(confidences))
        if isinstance(content, str):
            size = next(size for size in _PREFIXES if len(name) >= size)
            lengths = self._lengths[size].setdefault(name[:size], [])
            if -len(name) not in lengths:
                insort(lengths, -len(name))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self._items.values())

    def find_image(self, image: bytes) -> Recorded | None:
        """The record of exactly these bytes."""
        return self._items.get(image_name(image))

    def find_texts(self, message: str) -> list[Recorded]:
        """Recorded texts inside the message, from left to right, not overlapping, the longest at each place.

        A text counts only as whole words: "cup" is not found in "cupboard".
        """
        message = normalise(message)
        found = []
        end = 0
        for start in _STARTS.finditer(message):
            at = start.start()
            if at < end:
                continue
            record = self._longest_at(message, at)
            if record is not None:
                found.append(record)
                end = at + len(record.name)
        return found

    def find_longest(self, message: str) -> Recorded | None:
        """The longest recorded text inside the message; of equally long ones the last.

        The last, because instructions stand before the item they are about.
        """
        message = normalise(message)
        best: Recorded | None = None
        for start in _STARTS.finditer(message):
            record = self._longest_at(message, start.start())
            if record is not None and (best is None or len(record.name) >= len(best.name)):
                best = record
        return best

    def _longest_at(self, message: str, at: int) -> Recorded | None:
        for size in _PREFIXES:
            for negative in self._lengths[size].get(message[at : at + size], ()):
                record = self._items.get(message[at : at - negative])
                if record is not None and _ends_a_word(message, at - negative):
                    return record
        return None


def _ends_a_word(message: str, end: int) -> bool:
    if end >= len(message):
        return True
    return not (_is_word(message[end - 1]) and _is_word(message[end]))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
