import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import duplicates
from tasks.duplicates import SIMILARITY, near_duplicate_groups, near_duplicates_of


def jaccard(a: str, b: str) -> float:
    def trigrams(text: str) -> set[str]:
        tidy = " ".join(text.casefold().split()).ljust(3)
        return {tidy[i : i + 3] for i in range(len(tidy) - 2)}

    x, y = trigrams(a), trigrams(b)
    return len(x & y) / len(x | y)


def names(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    return ["".join(rng.choice(letters, rng.integers(20, 60))) for _ in range(n)]


def test_nearly_all_pairs_are_found_and_no_others() -> None:
    """Of 500 texts with one to six letters changed, those at 0.8 and above share a group and the others do not."""
    texts = names(500)
    rng = np.random.default_rng(1)
    changed = []
    for text in texts:
        letters = list(text)
        for at in rng.integers(0, len(letters), rng.integers(1, 7)):
            letters[at] = "q"
        changed.append("".join(letters))
    together = near_duplicate_groups(texts + changed)[500:] == np.arange(500)
    near = np.array([jaccard(a, b) >= SIMILARITY for a, b in zip(texts, changed, strict=True)])
    assert 50 < near.sum() < 450
    assert not np.any(together & ~near)
    assert together[near].mean() >= 0.99
    against = near_duplicates_of(changed, texts)
    assert not np.any(against & ~near)
    assert against[near].mean() >= 0.99


@given(st.lists(st.text(max_size=8), max_size=25), st.lists(st.text(max_size=8), max_size=10))
def test_groups_are_named_by_their_first_row_and_equal_texts_meet(old: list[str], new: list[str]) -> None:
    texts = [*old, *new, *(text.upper().lower() + "  " for text in old)]
    groups = near_duplicate_groups(texts)
    assert np.all(groups <= np.arange(len(texts)))
    assert np.array_equal(groups[groups], groups)
    assert np.array_equal(groups[: len(old)], groups[len(old) + len(new) :]) or any(
        jaccard(a, a.upper().lower()) < 1 for a in old
    )
    assert near_duplicates_of(old, texts).all()
    assert not near_duplicates_of(old, []).any()
    assert near_duplicates_of([], old).shape == (0,)


@given(st.lists(st.text(st.characters(codec=None), max_size=12), min_size=1, max_size=20))
def test_trigrams_are_told_apart_by_their_code_points_in_a_table_or_by_sorting(texts: list[str]) -> None:
    """Each text has its set, as the values of three code points; signatures do not depend on the other texts."""
    tidy = [" ".join(text.casefold().split()).ljust(3) for text in texts]
    places = [[text[i : i + 3] for i in range(len(text) - 2)] for text in tidy]
    values = [sorted({ord(x[0]) << 42 | ord(x[1]) << 21 | ord(x[2]) for x in one}) for one in places]
    for entries in (0, 1 << 24):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duplicates, "MOST_IN_TABLE", entries)
            patch.setattr(duplicates, "TABLE_FOR_EACH", entries)
            found = duplicates._trigrams(texts)
            ours = [found.values[a:b] for a, b in zip(found.starts[:-1], found.starts[1:], strict=True)]
            assert [found.distinct[one].tolist() for one in ours] == values
            signed = duplicates.signatures(texts)
            assert np.array_equal(signed, np.concatenate([duplicates.signatures([text]) for text in texts]))


def test_a_crowd_of_near_copies_is_linear_work_and_one_group() -> None:
    """Templated names would make every pair a candidate; each is compared with a few only."""
    texts = [f"the very same product name in a catalogue, article {i % 10}" for i in range(3000)]
    assert len(np.unique(near_duplicate_groups(texts))) == 1
    assert near_duplicates_of(texts, texts[:5]).all()
