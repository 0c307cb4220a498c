"""What an item is, and the records that pass between steps."""

from __future__ import annotations

import json
import string
import unicodedata
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.records import KEY_BYTES, Labelled, Policy, Retrained, Snapshot, image_key, normalise, text_key

ANY_TEXT = st.text(st.characters(), max_size=40)  # lone surrogates and controls among them
WORDS = st.lists(st.text(string.ascii_letters + "éüñ漢字ば", min_size=1, max_size=6), min_size=1, max_size=5)
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000"])


@given(ANY_TEXT)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    """The normal form is its own normal form, and a database takes it."""
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()
    assert "\x00" not in once
    once.encode()


@given(ANY_TEXT)
def test_any_text_has_a_key(text: str) -> None:
    """A key is 16 bytes whatever the text, and the normal form has the same one."""
    assert len(text_key(text)) == KEY_BYTES
    assert text_key(normalise(text)) == text_key(text)


@given(WORDS, SPACES, SPACES, st.sampled_from(["NFC", "NFD"]))
def test_spacing_and_unicode_form_do_not_tell_items_apart(
    words: list[str], space: str, outer: str, form: str
) -> None:
    """The same words differently spaced and composed are one item."""
    spaced = outer + space.join(unicodedata.normalize(form, word) for word in words) + outer  # type: ignore[arg-type]
    assert text_key(spaced) == text_key(" ".join(words))


@given(WORDS, WORDS)
def test_different_words_are_different_items(first: list[str], second: list[str]) -> None:
    """Keys are equal only where the normal forms are; letter case counts."""
    same = normalise(" ".join(first)) == normalise(" ".join(second))
    assert (text_key(" ".join(first)) == text_key(" ".join(second))) == same
    assert text_key("Kettle") != text_key("kettle")


def test_a_key_never_changes_between_versions() -> None:
    """Keys are in databases and caches of years: these two stand for all of them."""
    assert text_key("Electric kettle 1.7 l").hex() == "6a9e61a3a2d6ba9edffe6f34bbcadf25"
    assert image_key(b"not really a picture").hex() == "c0328bccdea183c65933118baafb55b6"


def test_an_image_is_never_the_text_of_the_same_bytes() -> None:
    """Images and texts have keys of their own."""
    assert image_key(b"kettle") != text_key("kettle")


def test_records_are_frozen_and_plain() -> None:
    """A record cannot be changed, and goes through JSON unharmed with the records inside it."""
    snapshot = Snapshot("snap.parquet", "f00", 10, 4, 1, 2)
    policy = Policy({"l1": 0.9}, 0.05, 0.95, 0.7, 400, "gold", "3", id=7)
    record = Retrained("run", "3", "linear", {"ece": 0.01}, policy, snapshot)
    again = json.loads(json.dumps(record.as_dict()))
    assert again["policy"]["thresholds"] == {"l1": 0.9}
    assert Snapshot(**again["snapshot"]) == snapshot
    with pytest.raises(FrozenInstanceError):
        snapshot.rows = 11  # type: ignore[misc]
    assert Labelled().rejected is not Labelled().rejected
