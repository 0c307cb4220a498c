"""Reading answers from a file: recorded ones column by column, or gold made noisy.

It owns what a file must contain. It does not know how the answers are served.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from deployments.teacher_sim.answers import AnswerBook
from tasks.demo.noise import noisy_passes, noisy_passes_from_features
from tasks.errors import InputError
from tasks.sources import read_table

NOISY_PASSES = 3
"""Passes made of noisy gold: two, and a third for the tie."""


def recorded_answers(
    file: Path,
    *,
    text_column: str = "text",
    answer_columns: Sequence[str] = ("label",),
    confidence_columns: Sequence[str] = (),
) -> AnswerBook:
    """The answers recorded in a parquet, CSV or JSONL file; a column a pass.

    Args:
        file: the table; the column of texts may hold the bytes of images instead.
        text_column: name of that column.
        answer_columns: labels of pass 1, pass 2, ...
        confidence_columns: confidences of the same passes, 0 to 1; may be fewer.

    Raises:
        InputError: unreadable or empty file, a missing column, no usable row, or a confidence that is no
            number.
    """
    frame = _read(file, (text_column, *answer_columns, *confidence_columns))
    if not answer_columns:
        raise InputError(
            file=file, problem="no answer column was named", remedy="Name at least one with --answer-columns."
        )
    confidences = [_numbers(frame, column, file) for column in confidence_columns]
    answers = [frame[column].cast(pl.String).to_list() for column in answer_columns]
    return _book(frame, text_column, answers, confidences, file)


def gold_with_noise(
    file: Path,
    noise: float,
    *,
    text_column: str = "text",
    label_columns: Sequence[str] = ("label",),
    seed: int = 0,
) -> AnswerBook:
    """Answers of a teacher that is wrong about the share `noise` of the gold in a file.

    Args:
        file: the table; the column of texts may hold the bytes of images instead.
        noise: mean share of wrong answers in each of three passes, 0 to 1.
        text_column: name of the text or image column.
        label_columns: one column of label paths, or a column a level (joined with " > ", empty ones left
            out).
        seed: the same seed and file give the same answers.

    Raises:
        InputError: unreadable or empty file, a missing column, a row without a label.
        ValueError: the share is outside 0 to 1.
    """
    frame = _read(file, (text_column, *label_columns))
    if not label_columns:
        raise InputError(file=file, problem="no label column was named", remedy="Name the label column.")
    levels = [pl.col(column).cast(pl.String).str.strip_chars() for column in label_columns]
    written = [pl.when(level != "").then(level) for level in levels]
    labels = frame.select(pl.concat_str(written, separator=" > ", ignore_nulls=True)).to_series().to_list()
    for row, label in enumerate(labels, start=1):
        if not label:
            raise InputError(
                file=file, problem="has no label", remedy="Label the row or leave it out.", row=row
            )
    contents = frame[text_column]
    if contents.dtype == pl.Binary:
        passes = noisy_passes_from_features(_pixels(contents, file), labels, noise, NOISY_PASSES, seed)
    else:
        texts = contents.cast(pl.String).fill_null("").to_list()
        passes = noisy_passes(texts, labels, noise, NOISY_PASSES, seed)
    return _book(frame, text_column, passes, [], file)


def _read(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    frame = read_table(file)
    for column in columns:
        if column not in frame.columns:
            raise InputError(
                file=file,
                problem=f"column {column!r} is missing",
                remedy=f"It has: {', '.join(frame.columns[:20])}. Name the right one on the command line.",
            )
    return frame


def _numbers(frame: pl.DataFrame, column: str, file: Path) -> list[float | None]:
    numbers = frame[column].cast(pl.Float64, strict=False)
    bad = frame[column].is_not_null() & ~numbers.is_between(0, 1).fill_null(False)
    if frame[column].dtype == pl.String:
        bad &= frame[column] != ""
    if bad.any():
        row = bad.arg_true()[0]
        raise InputError(
            file=file,
            problem=f"{frame[column][row]!r} in column {column!r} is not a confidence",
            remedy="Give numbers from 0 to 1, or nothing.",
            row=row + 1,
        )
    return numbers.to_list()


def _book(
    frame: pl.DataFrame,
    text_column: str,
    answers: Sequence[Sequence[str | None]],
    confidences: Sequence[Sequence[float | None]],
    file: Path,
) -> AnswerBook:
    book = AnswerBook({})
    contents = frame[text_column]
    if contents.dtype != pl.Binary:
        contents = contents.cast(pl.String)
    for row, content in enumerate(contents):
        if content:
            book.record(content, [column[row] for column in answers], [column[row] for column in confidences])
    if not len(book):
        raise InputError(
            file=file,
            problem=f"column {text_column!r} is empty",
            remedy="Name the column of texts or images.",
        )
    return book


def _pixels(images: pl.Series, file: Path) -> npt.NDArray[np.float32]:
    """Every image as 16x16 grey values, which is enough to tell which look alike."""
    from PIL import Image, UnidentifiedImageError

    rows = []
    for row, image in enumerate(images, start=1):
        try:
            grey = Image.open(io.BytesIO(image or b"")).convert("L").resize((16, 16))
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(
                file=file, problem=f"is no image ({error})", remedy="Give PNG or JPEG bytes.", row=row
            ) from error
        rows.append(np.asarray(grey, dtype=np.float32).ravel())
    return np.stack(rows)
