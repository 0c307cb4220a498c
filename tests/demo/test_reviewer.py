"""The simulated reviewer knows the truth, slips at a stated rate, and leaves what others decided alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tasks.demo.reviewer import simulated_review
from tasks.errors import InputError

COLUMNS = ["key", "id", "text", "answer_1", "answer_2", "final_label"]
LABELS = ["A > x", "A > y", "B > z"]


def review_file(folder: Path, count: int = 400) -> tuple[Path, dict[str, str]]:
    file = folder / "review_labels.csv"
    truth = {f"=text, {i}\n": LABELS[i % 3] for i in range(count)}
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for i in range(count):
            writer.writerow([f"k{i}", f"id{i}", f"'=text, {i}", LABELS[i % 3], LABELS[(i + 1) % 3], ""])
    return file, truth


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_without_slips_every_row_gets_its_truth_and_nothing_else_changes(tmp_path: Path) -> None:
    file, truth = review_file(tmp_path)
    out = simulated_review(file, truth, error_rate=0.0, seed=0)
    assert out == tmp_path / "review_labels.reviewed.csv"
    for i, (before, after) in enumerate(zip(read(file), read(out), strict=True)):
        assert after == {**before, "final_label": LABELS[i % 3]}


def test_slips_come_at_the_rate_and_pick_the_other_candidate(tmp_path: Path) -> None:
    file, truth = review_file(tmp_path)
    rows = read(simulated_review(file, truth, error_rate=0.2, seed=1))
    slips = [row for row in rows if row["final_label"] != row["answer_1"]]
    assert len(slips) / len(rows) == pytest.approx(0.2, abs=0.06)
    assert all(row["final_label"] == row["answer_2"] for row in slips)


def test_the_same_seed_slips_on_the_same_rows_whatever_else_the_file_holds(tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    long, truth = review_file(tmp_path)
    short, _ = review_file(tmp_path / "short", count=50)
    by_key = {r["key"]: r["final_label"] for r in read(simulated_review(long, truth, 0.3, seed=4))}
    for row in read(simulated_review(short, truth, 0.3, seed=4)):
        assert row["final_label"] == by_key[row["key"]]
    other = {r["key"]: r["final_label"] for r in read(simulated_review(long, truth, 0.3, seed=5))}
    assert other != by_key


def test_filled_rows_and_rows_of_unknown_truth_stay(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("key,id,text,final_label\n1,a,known,B > z\n2,b,unknown,\n3,c,,\n", encoding="utf-8")
    rows = read(simulated_review(file, {"known": "A > x", "c": "A > y"}, 0.0, seed=0, out=tmp_path / "o.csv"))
    assert [row["final_label"] for row in rows] == ["B > z", "", "A > y"]


def test_a_file_that_is_no_review_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        simulated_review(tmp_path / "absent.csv", {}, 0.0, seed=0)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="final_label"):
        simulated_review(tmp_path / "other.csv", {}, 0.0, seed=0)
    with pytest.raises(ValueError, match="error rate"):
        simulated_review(tmp_path / "other.csv", {}, 1.5, seed=0)
