"""The page that lies beside an exported graph: what the files are, and a program that runs as it stands.

Knows words and shapes only.
"""

from __future__ import annotations

from collections.abc import Sequence

PROGRAM = """\
import json
import numpy as np
import onnxruntime

with open("labels.json", encoding="utf-8") as file:
    labels = json.load(file)
session = onnxruntime.InferenceSession("head.onnx", providers=["CPUExecutionProvider"])
{inputs}
leaf, confidences, scores = session.run(["leaf", "confidences", "scores"], {{"{name}": {name}}})
names = np.array(labels["leaves"])[leaf]
thresholds = np.array(labels["thresholds"] or [2.0] * len(labels["levels"]))  # none certified: none answered
answered = (scores >= thresholds).all(axis=1) & (names != (labels["other"] or ""))
for name, sure, confidence in zip(names, answered, confidences[:, -1]):
    print(name if sure else "ask the teacher", f"{{confidence:.4f}}", sep="\\t")
"""

PAGE = """\
# A student in ONNX

`head.onnx` takes {takes} and gives

| output | | |
|---|---|---|
| `probabilities` | float32 [n, leaves] | calibrated; in the order of `leaves` in `labels.json` |
| `leaf` | int64 [n] | the answer: the best label at the first level, then the best below it |
| `confidences` | float32 [n, levels] | of the answer at each level, never rising with depth |
| `scores` | float32 [n, levels] | the same, lower for items unlike those the student learned from |

An item is answered where every level's score reaches its threshold (`thresholds`, one a level; `null`: nothing is
certified, so nothing is answered) and the answer is not `other`; everything else goes to the teacher. `promise` says
what that promises. Where `partial_thresholds` is no null, an item that is not answered in full is answered down to the
deepest level whose score reaches the threshold of that name. {reading}

```python
{program}```

`labels.json` says under `compared` how far the graph's probabilities were from the student's own when it was written.
{rough}"""

VECTORS = """\
The vectors are those of `reads.encoder`: its model (`encoder` is the folder beside this page), with its `prefix` before
every text, read to `max_length` tokens, of length 1 where `normalize` is true, cut to `dimensions` where that is a
number. Texts are in Unicode form C, white space runs are one space, ends are trimmed."""

PIXELS = """\
Images are decoded to RGB and resized to `reads.image_size` in both directions (Pillow's bicubic, the aspect not kept);
the graph normalises the pixels itself."""

INT8 = """\
`head.int8.onnx` is the same with weights of eight bits: smaller, less exact. What flows through it is scaled by the
largest value in a batch, so an answer depends a little on what it is asked together with. The thresholds were
certified for the student, not for this file: `compared.int8` says on what share of the items both decide the same.
"""


def readme(images: bool, shape: Sequence[int], int8: bool) -> str:
    """The page for a student that reads images or vectors; `shape` is that of one row of its input."""
    if images:
        inputs = f"pixels = np.zeros({(1, *shape)}, np.uint8)  # one item a row"
        takes = f"`pixels` uint8 [n, {', '.join(map(str, shape))}]"
    else:
        inputs = f"vectors = np.zeros({(1, *shape)}, np.float32)  # one item a row"
        takes = f"`vectors` float32 [n, {shape[0]}]"
    program = PROGRAM.format(inputs=inputs, name="pixels" if images else "vectors")
    return PAGE.format(
        takes=takes, reading=PIXELS if images else VECTORS, program=program, rough=INT8 if int8 else ""
    )
