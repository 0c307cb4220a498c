"""Encodes texts by ONNX Runtime on the processor, in float32 or with int8 weights.

The graph is written once by `onnx_export`; tokens and batches are those of the torch model. Knows nothing of caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.batch_size import TooLargeError, in_batches
from tasks.embedding.encoding import Encoded, Told, all_or_none, dimension_kept, lengthened, shortened
from tasks.embedding.onnx_export import LIMITS, exported, needs, read_limits
from tasks.embedding.reading_texts import readable
from tasks.embedding.sentence_encoder import batches_on, padded, token_ids
from tasks.embedding.settings import EncoderSettings
from tasks.errors import EncoderError


class OnnxEncoder:
    """`backend: onnx` or `onnx-int8` of a text model; torch is loaded only to write the graph.

    Raises:
        EncoderError: the extra is not installed, or the model cannot be written as a graph.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        needs("onnxruntime")
        graph = exported(settings)
        import onnxruntime
        from transformers import AutoTokenizer

        self._settings = settings
        limits = read_limits(graph.with_name(LIMITS))
        self._most_tokens, self._whole = limits["most_tokens"], limits["dimension"]
        self._tokenizer = AutoTokenizer.from_pretrained(str(graph.parent))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads := _threads():
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._failed = onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException
        self.dimension = dimension_kept(settings.model, self._whole, settings.dimensions)
        self._few, self._size = batches_on("cpu")

    def encode(self, contents: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of texts, at length 1 if the settings say so."""
        return all_or_none(self.encode_each(contents))

    def encode_each(self, contents: Sequence[Any], told: Told | None = None) -> Encoded:
        """See `Encoder.encode_each`; no text is refused.

        Raises:
            EncoderError: one text alone does not fit into memory.
        """
        texts = readable(contents, self._settings.prefix, self._most_tokens)
        ids = token_ids(self._tokenizer, texts, self._most_tokens)
        pad = self._tokenizer.pad_token_id or 0
        vectors = np.empty((len(texts), self._whole), np.float32)

        def run(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            tokens, mask = padded([ids[row] for row in rows], pad)
            try:
                [found] = self._session.run(None, {"input_ids": tokens, "attention_mask": mask})
            except self._failed as error:
                raise RuntimeError(str(error)) from error
            return np.asarray(found, np.float32)

        lengths = np.maximum(np.array([len(tokens) for tokens in ids], np.int64), 1)
        try:
            in_batches(lengths, run, vectors, self._size, self._few, told)
        except TooLargeError as error:
            raise EncoderError(
                self._settings.model,
                f"memory does not suffice for one text of {lengths[error.row]} tokens",
                "Set encoder.max_length, take a smaller model, or free memory.",
            ) from error
        if self._settings.normalize:
            vectors = lengthened(vectors)
        return Encoded(shortened(vectors, self._settings.dimensions, self._settings.normalize))


def _threads() -> int:
    """As many as other libraries were told to take; 0: all."""
    import os

    written = os.environ.get("OMP_NUM_THREADS", "")
    return int(written) if written.isdigit() else 0
