"""Image students on phone photographs of groceries: trained from random weights, calibrated, exported, judged.

Run as `python -m tests.benchmarks.grocery_images --data DIR [--epochs N] [--size PIXELS]`; some minutes on one thread.
A retrain's own code compares a MobileNetV3 that starts from random weights (pretrained ones need a model hub) with
heads on the bare pixels; the train split teaches, the test split is gold: by key a part fits the temperature and half
evaluates. The winner is written as an ONNX graph, which the export compares with it item by item.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.embedding.encoders import EncoderSettings, load_encoder
from tasks.records import image_key
from tasks.student.comparison import paired_difference
from tasks.student.crossfit import fold_of
from tasks.student.judged import with_roles
from tasks.student.onnx_export import export_onnx
from tasks.student.package import load_student
from tasks.student.retrain import retrain
from tasks.student.training import ImageTraining, Rows
from tasks.taxonomy import Taxonomy

CANDIDATES = ("linear", "ensemble", "timm")
FOLDS, SEED, COMPARED = 5, 0, 64


def squares(count: int) -> pl.DataFrame:
    """Made-up photographs of the same form, of one colour a label: small enough for a test."""
    from io import BytesIO

    from PIL import Image

    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        label = number % 3
        pixels = rng.integers(0, 90, (24, 24, 3), dtype=np.uint8)
        pixels[4:20, 4:20, label] += 150
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        split = "train" if number < count // 2 else "test"
        rows.append((f"square-{number}", file.getvalue(), f"colour {label}", split))
    return pl.DataFrame(rows, schema=["id", "image", "label", "split"], orient="row")


def run(table: pl.DataFrame, epochs: int, size: int) -> None:
    """Train, print what came out, export."""
    train, test = (table.filter(pl.col("split") == split) for split in ("train", "test"))
    taxonomy = Taxonomy(("label",), tuple(sorted(table["label"].unique())), {}, None)
    encoder = EncoderSettings("pixels:24")
    encode = load_encoder(encoder).encode
    y = np.array([taxonomy.leaf_index[label] for label in train["label"]], np.int64)
    images = train["image"].to_list()
    rows = Rows(
        encode(images), y, y, fold_of(train["id"].to_list(), FOLDS, SEED), np.ones(len(y), np.float32), images
    )
    keys = pl.Series("key", [image_key(image) for image in test["image"].to_list()], pl.Binary)
    gold = with_roles(test.select(keys, "label"))
    photographs = test["image"].to_list()
    began = time.process_time()
    trained = retrain(
        rows,
        CANDIDATES,
        taxonomy,
        encoder,
        "image",
        gold,
        (encode(photographs), photographs),
        images=ImageTraining("mobilenetv3_small_100", False, epochs, size),
    )
    seconds = time.process_time() - began
    truth = np.array([taxonomy.leaf_index[label] for label in gold["label"]])
    evaluated = (gold["role"] == "evaluation").to_numpy()
    usual = int(np.bincount(y).argmax())
    majority = truth[evaluated] == usual
    print(f"{len(y)} photographs to learn from, {evaluated.sum()} to evaluate on; {seconds:.0f} CPU s")
    print(f"always {taxonomy.leaves[usual]!r}: {majority.mean():.1%}")
    for name, [scores] in trained.scores.items():
        right = trained.answered[name] == truth[evaluated]
        gain, low, high = paired_difference(right, majority, seed=SEED)
        print(
            f"{name:<10}{scores.top1:>7.1%}, {gain:+.1%} [{low:+.1%}, {high:+.1%}] over that; macro-F1 "
            f"{scores.macro_f1:.2f}, calibration error {scores.ece:.1%}"
            + (" <- the student, calibrated" if name == trained.student.kind else "")
        )
    inputs = photographs if trained.student.reads_images else encode(photographs)
    with tempfile.TemporaryDirectory(prefix="flywheel-benchmark-") as folder:
        exported = export_onnx(trained.student, Path(folder) / "onnx", inputs[:COMPARED], model_version="1")
        difference = exported.float32
        print(
            f"ONNX: {exported.files['head.onnx'] / 1e6:.1f} MB, largest difference {difference.largest:.1e} on "
            f"{difference.rows} items, the same answer to {difference.same_answer:.1%}"
        )
        trained.student.save(Path(folder) / "student")
        again = load_student(Path(folder) / "student").probabilities(inputs[:COMPARED])
        print(f"saved and loaded: the same to the last bit: "
              f"{np.array_equal(again, trained.student.probabilities(inputs[:COMPARED]))}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print accuracies, calibration and how exact the export is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with grocery5.parquet")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--quick", action="store_true", help="coloured squares instead, to see whether it runs"
    )
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    if options.quick:
        run(squares(48), 2, 32)
        return 0
    file = options.data / "grocery5.parquet" if options.data else None
    if file is None or not file.exists():
        print("skipped: grocery5.parquet is not there; name its folder by --data")
        return 0
    run(pl.read_parquet(file), options.epochs, options.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
