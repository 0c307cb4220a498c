"""What models want before a text, where their cards say so; and what is wrong with another choice.

Knows names of models, nothing of how they are loaded.
"""

from __future__ import annotations

import re

# The cards of the E5 family: 'Use "query: " prefix if you want to use embeddings as features, such as linear probing
# classification, clustering'; those tuned on instructions want a sentence in its place.
_E5 = re.compile(r"(?:^|[-_.])e5(?:[-_.]|$)", re.IGNORECASE)
_INSTRUCTED = re.compile(r"instruct|mistral", re.IGNORECASE)
E5_PREFIXES = ("query: ", "passage: ")


def known_prefix(model: str) -> str:
    """The prefix for classification and clustering that a model's card asks for; empty where none is known."""
    return E5_PREFIXES[0] if _is_e5(model) and not _INSTRUCTED.search(_name(model)) else ""


def complaint(model: str, prefix: str) -> str | None:
    """Why this prefix is not what the model was trained with; None where it is, or where nothing is known."""
    if not _is_e5(model):
        return None
    if _INSTRUCTED.search(_name(model)):
        if prefix:
            return None
        return (
            f"encoder {model}: models tuned on instructions want one before every text. Set encoder.prefix to "
            r'"Instruct: Classify the given text\nQuery: ", say.'
        )
    if prefix in E5_PREFIXES:
        return None
    given = f"encoder.prefix is {prefix!r}" if prefix else "encoder.prefix is empty"
    return (
        f"encoder {model}: {given}, but models of the e5 family were trained with a prefix and are worse without. "
        'Leave encoder.prefix out, or set it to "query: ".'
    )


def _is_e5(model: str) -> bool:
    return _E5.search(_name(model)) is not None


def _name(model: str) -> str:
    return model.split(":")[-1].rstrip("/").split("/")[-1]
