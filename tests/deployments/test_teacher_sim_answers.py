"""The answer book finds what is there, whatever the number of texts; files are read or refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teacher_sim import AnswerBook, gold_with_noise, recorded_answers
from deployments.teacher_sim.answers import normalise
from tasks.demo import digits
from tasks.errors import InputError

WORDS = st.lists(st.sampled_from(["usb", "usb-c", "cable", "2 m", "é", "İ", "(new)", "50%"]), min_size=1)


@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=8), st.data())
def test_the_longest_match_is_what_a_scan_over_all_texts_finds(texts: list[str], data: st.DataObject) -> None:
    """The index may not differ from the slow definition, for texts that start and end words."""
    book = AnswerBook(dict.fromkeys(texts, "x"))
    chosen = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3))
    message = "Items: " + " ;; ".join(chosen) + " ;; end"
    found = book.find_longest(message)
    bounded = [t for t in map(normalise, texts) if f" {t} " in f" {normalise(message)} "]
    assert found is not None
    assert len(found.name) == max(map(len, bounded))
    assert [normalise(text) for text in chosen] == [item.name for item in book.find_texts(message)]


def test_a_text_is_found_only_as_whole_words() -> None:
    book = AnswerBook({"cup": "x", "-5 °C bag": "y"})
    assert book.find_longest("cupboard teacup cups") is None
    found = book.find_longest("(cup)")
    assert found is not None
    assert found.name == "cup"
    assert book.find_longest("item: -5 °C bag!") is not None


def test_looking_into_a_message_costs_the_same_with_a_hundred_thousand_texts() -> None:
    """A scan over all texts would take seconds for these 300 messages."""
    book = AnswerBook(
        {f"Brand{i % 50} shared long prefix product no {i} size {i % 7}": "x" for i in range(100_000)}
    )
    message = (
        "Classify the product by its name. " * 20
        + "<item>Brand7 shared long prefix product no {} size {}</item>"
    )
    start = time.process_time()
    for i in range(7, 30_007, 100):
        if i % 50 == 7:
            found = book.find_longest(message.format(i, i % 7))
            assert found is not None
            assert found.name.endswith(f"no {i} size {i % 7}")
    assert time.process_time() - start < 2.0


def write(folder: Path, name: str = "answers.parquet") -> Path:
    file = folder / name
    frame = pl.DataFrame(
        {
            "text": ["a", "b", ""],
            "first": ["X", "Y", "Z"],
            "second": ["Y", None, "Z"],
            "sure": [0.9, None, 1.0],
        }
    )
    if name.endswith("parquet"):
        frame.write_parquet(file)
    elif name.endswith("csv"):
        frame.write_csv(file)
    else:
        frame.write_ndjson(file)
    return file


@pytest.mark.parametrize("name", ["answers.parquet", "answers.csv", "answers.jsonl"])
def test_recorded_answers_are_read_from_every_kind_of_table(tmp_path: Path, name: str) -> None:
    book = recorded_answers(
        write(tmp_path, name), answer_columns=("first", "second"), confidence_columns=("sure",)
    )
    a, b = book.find_longest("a"), book.find_longest("b")
    assert a is not None
    assert b is not None
    assert len(book) == 2
    assert (a.answer(1), a.answer(2), a.confidence(1)) == ("X", "Y", 0.9)
    assert (b.answer(1), b.answer(2)) == ("Y", None)


def test_files_that_cannot_be_used_are_refused_with_a_remedy(tmp_path: Path) -> None:
    good = write(tmp_path)
    with pytest.raises(InputError, match=r"'nope' is missing.*first"):
        recorded_answers(good, answer_columns=("nope",))
    with pytest.raises(InputError, match="no such file"):
        recorded_answers(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match="cannot be read"):
        recorded_answers(tmp_path / "broken.parquet")
    pl.DataFrame({"text": [], "label": []}).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no rows"):
        recorded_answers(tmp_path / "empty.parquet")
    pl.DataFrame({"text": ["a"], "label": ["x"], "sure": ["very"]}).write_csv(tmp_path / "sure.csv")
    with pytest.raises(InputError, match=r"row 1.*'very'"):
        recorded_answers(tmp_path / "sure.csv", confidence_columns=("sure",))
    with pytest.raises(InputError, match=r"row 2.*no label"):
        gold_with_noise(write(tmp_path), 0.1, label_columns=("second",))


def test_gold_with_noise_joins_levels_and_errs_at_the_rate(tmp_path: Path) -> None:
    rows = 900
    frame = pl.DataFrame(
        {
            "name": [f"{('kettle', 'mug', 'lamp')[i % 3]} number {i}" for i in range(rows)],
            "l1": [("Kitchen", "Kitchen", "none of these")[i % 3] for i in range(rows)],
            "l2": [("Kettles", "Mugs", None)[i % 3] for i in range(rows)],
        }
    )
    frame.write_parquet(tmp_path / "gold.parquet")
    book = gold_with_noise(tmp_path / "gold.parquet", 0.2, text_column="name", label_columns=("l1", "l2"))
    truth = ("Kitchen > Kettles", "Kitchen > Mugs", "none of these")
    wrong = 0
    for i, name in enumerate(frame["name"]):
        item = book.find_longest(name)
        assert item is not None
        assert item.answer(1) in truth
        wrong += item.answer(1) != truth[i % 3]
    assert wrong / rows == pytest.approx(0.2, abs=0.04)


def test_noisy_gold_serves_images(tmp_path: Path) -> None:
    made = digits.generate(seed=1)
    file = tmp_path / "gold.parquet"
    made.gold.write_parquet(file)
    book = gold_with_noise(file, 0.1, text_column="image")
    answers = [book.find_image(image) for image in made.gold["image"]]
    wrong = sum(a is None or a.answer(1) != t for a, t in zip(answers, made.gold["label"], strict=True))
    assert 15 <= wrong <= 65


def test_as_a_process_it_says_where_it_is_and_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from deployments.teacher_sim import serve;"
        "print(serve(Path(sys.argv[1]), answer_columns=('first',), port=0,"
        " ready=lambda url: print(url, flush=True))['paid'])"
    )
    command = [sys.executable, "-c", program, str(write(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"model": "m", "messages": [{"role": "user", "content": "b"}]}
        assert httpx.post(f"{url}/chat/completions", json=body).status_code == 200
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.strip() == "1"
