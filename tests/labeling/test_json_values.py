"""Values come out of a JSON text one by one, whatever pieces it is read in."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.labeling.json_values import json_values

TASK = st.dictionaries(
    st.text(max_size=3), st.text(max_size=30) | st.lists(st.integers(), max_size=3), max_size=3
)


def _values(text: str, read_characters: int = 7) -> list[object]:
    return list(json_values(io.StringIO(text), read_characters))


@settings(deadline=None)
@given(st.lists(TASK, max_size=6), st.integers(1, 40), st.sampled_from([None, 2]))
def test_an_array_in_pieces_of_any_size(tasks: list[object], size: int, indent: int | None) -> None:
    assert _values(f" \n{json.dumps(tasks, indent=indent)}\n ", size) == tasks


@settings(deadline=None)
@given(st.lists(TASK, max_size=6), st.integers(1, 40))
def test_a_value_a_line(tasks: list[object], size: int) -> None:
    assert _values("\n".join(map(json.dumps, tasks)), size) == tasks


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1}', "ends in the middle of its array"),
        ('[{"a": 1}, {"b"', "not whole JSON"),
        ('[{"a": 1}] [', "goes on after the end"),
        ("[}", "not whole JSON"),
        ("<html>", "not whole JSON"),
    ],
)
def test_what_is_no_json_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _values(text)


def test_one_long_value_is_not_read_in_quadratic_time() -> None:
    """Each piece is twice the last: a task with an image of 4 MB is tried a dozen times, not a thousand."""

    class Counted(io.StringIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> str:
            self.reads += 1
            return super().read(size)

    text = Counted(json.dumps([{"image": "x" * (1 << 22)}]))
    assert [len(value["image"]) for value in json_values(text, 1 << 10)] == [1 << 22]
    assert text.reads < 20
