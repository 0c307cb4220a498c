"""The file of answers, written piece by piece beside its place and put there whole.

Knows columns and suffixes; what an answer means is the router's business.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from tasks.labeling.review_csv import defused


class AnswerFile:
    """A context manager: `append` what is answered, and on leaving it whole the file stands in its place.

    Where it is left by an error, or by a kill, whatever stood there before still does. A name that ends in .csv
    gives CSV, its cells made harmless to a spreadsheet; any other name gives parquet, a row group an `append`.

    Args:
        out: where it is to stand; the folder is made.
        schema: the columns of every frame appended.
    """

    def __init__(self, out: Path, schema: dict[str, Any]) -> None:
        self._out, self._schema = out, schema
        self._beside = out.with_name(f".{out.name}.tmp")
        self._is_csv = out.suffix.lower() == ".csv"

    def __enter__(self) -> Self:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        empty = pl.DataFrame(schema=self._schema)
        if self._is_csv:
            self._stream = self._beside.open("wb")
            empty.write_csv(self._stream)
        else:
            import pyarrow.parquet as pq

            self._writer = pq.ParquetWriter(self._beside, _arrow(empty).schema, compression="zstd")
        return self

    def append(self, answers: pl.DataFrame) -> None:
        """Write rows after those that are there."""
        if not answers.height:
            return
        if self._is_csv:
            texts = [name for name, dtype in answers.schema.items() if dtype == pl.String]
            answers.with_columns(defused(name) for name in texts).write_csv(
                self._stream, include_header=False
            )
        else:
            self._writer.write_table(_arrow(answers))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            (self._stream if self._is_csv else self._writer).close()
            if kind is None:
                self._beside.replace(self._out)
        finally:
            self._beside.unlink(missing_ok=True)


def _arrow(answers: pl.DataFrame) -> Any:
    return answers.to_arrow(compat_level=pl.CompatLevel.oldest())
