"""A student as an ONNX graph: from a vector (or pixels) to calibrated leaf probabilities and the answer at every level.

Says node by node what the head, the temperature and `decode` say. Knows neither files nor the runtime.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.student import neighbours
from tasks.student.ensemble import NEIGHBOURS, EnsembleHead
from tasks.student.familiarity import NOWHERE, SHARPNESS, Prototypes
from tasks.student.levels import Levels
from tasks.student.linear import LinearHead
from tasks.student.mlp import MlpHead
from tasks.student.package import SUREST, Student
from tasks.student.scoring import TEMPERATURES

OPSET = 18  # ReduceMax and Split took their present form here; ONNX Runtime has read it since 1.14
IR_VERSION = 9
PRODUCER = "llm-flywheel"
LARGEST_BYTES = 1_900_000_000
"""A graph of one file stays below protobuf's two gigabytes."""


class Graph:
    """Nodes and constants being put together; every method returns the name of the value it makes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.products: list[str] = []
        """Names of the nodes whose weights int8 may hold."""

    def constant(self, array: NDArray[Any] | np.generic) -> str:
        """An array or a number as a value."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        return self.add_many(op, *inputs, outputs=(output,), **attributes)[0]

    def add_many(
        self, op: str, *inputs: str, outputs: tuple[str | None, ...], **attributes: Any
    ) -> list[str]:
        """A node with several outputs, those without a name numbered."""
        from onnx import helper

        place = len(self.nodes)
        names = [name or f"{op.lower()}_{place}_{number}" for number, name in enumerate(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{place}", **attributes))
        return names

    def product(self, X: str, weights: NDArray[np.float32]) -> str:
        """X times weights, in int8 where that is asked for."""
        found = self.add("MatMul", X, self.constant(weights.astype(np.float32)))
        self.products.append(self.nodes[-1].name)
        return found


def student_graph(student: Student) -> tuple[Any, list[str]]:
    """The graph and the names of those nodes whose weights int8 may hold.

    Its input is `vectors` float32 [n, d], or `pixels` uint8 [n, 3, side, side] for a student that reads images; its
    outputs are `probabilities` float32 [n, leaves], `leaf` int64 [n], `confidences` and `scores` float32 [n, levels].

    Raises:
        TrainingError: a part of the student has no form in ONNX, with its name.
    """
    from onnx import TensorProto, helper

    graph, head = Graph(), student.head
    if student.reads_images:
        side = int(head.image_size)
        given = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 3, side, side])
        scores = _image_scores(graph, head)
        P = _softmax(graph, scores, head.seen, head.n_leaves, [student.temperature, head.temperature])
    else:
        given = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", width_of(head)])
        P = _probabilities(graph, head, [student.temperature])
    _answers(graph, P, student.levels)
    _scores(graph, student.prototypes)
    columns = {"probabilities": (TensorProto.FLOAT, ["n", student.levels.n_leaves])}
    columns |= {
        "leaf": (TensorProto.INT64, ["n"]),
        "confidences": (TensorProto.FLOAT, ["n", len(student.levels.names)]),
        "scores": (TensorProto.FLOAT, ["n", len(student.levels.names)]),
    }
    body = helper.make_graph(
        graph.nodes,
        "student",
        [given],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in columns.items()],
        graph.constants,
    )
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name=PRODUCER,
        ir_version=IR_VERSION,
    )
    return model, graph.products


def width_of(head: Any) -> int:
    """The dimension of the vectors a head was fitted on.

    Raises:
        TrainingError: the head has no form in ONNX.
    """
    if isinstance(head, EnsembleHead):
        return width_of(head.linear)
    if isinstance(head, LinearHead):
        return len(head.weights) - 1
    if isinstance(head, MlpHead):
        return len(head.weights["hidden"])
    raise _not_exportable(head)


def _probabilities(graph: Graph, head: Any, last_first: list[float]) -> str:
    """Calibrated probabilities [n, leaves]; `last_first` are the temperatures applied to the head's own."""
    if isinstance(head, LinearHead):
        product = graph.product("vectors", head.weights[:-1])
        scores = graph.add("Add", product, graph.constant(head.weights[-1]))
        return _softmax(graph, scores, head.seen, head.n_leaves, [*last_first, head.temperature])
    if isinstance(head, MlpHead):
        scores = _mlp_scores(graph, head)
        return _softmax(graph, scores, head.seen, head.n_leaves, [*last_first, head.temperature])
    if not isinstance(head, EnsembleHead):
        raise _not_exportable(head)
    if not head.share and not head.others:
        return _probabilities(graph, head.linear, [*last_first, head.temperature])
    bytes_of_rows = head.reference.size * 4
    if head.share and bytes_of_rows > LARGEST_BYTES:
        raise TrainingError(
            f"the ensemble keeps {len(head.reference)} neighbours of {head.reference.shape[1]} dimensions, more than "
            "one ONNX file can hold",
            "export a version whose student is `linear` or `mlp`",
        )
    shares = head.shares or {}
    said = {name: _probabilities(graph, member, []) for name, member in head.heads.items()}
    if head.share:
        said[NEIGHBOURS] = _votes(graph, head)
    weighted = [graph.add("Mul", P, graph.constant(np.float32(shares[name]))) for name, P in said.items()]
    mixed = weighted[0]
    for further in weighted[1:]:
        mixed = graph.add("Add", mixed, further)
    for temperature in (head.temperature, *reversed(last_first)):
        mixed = _tempered(graph, mixed, temperature)
    return mixed


def _mlp_scores(graph: Graph, head: MlpHead) -> str:
    scale = np.float32(np.sqrt(len(head.weights["hidden"])))  # as in training
    scaled = graph.add("Mul", "vectors", graph.constant(scale))
    hidden = graph.add(
        "Add", graph.product(scaled, head.weights["hidden"]), graph.constant(head.weights["hidden_bias"])
    )
    product = graph.product(graph.add("Relu", hidden), head.weights["out"])
    return graph.add("Add", product, graph.constant(head.weights["out_bias"]))


def _votes(graph: Graph, head: EnsembleHead) -> str:
    """What `neighbours.votes` says. Similarities stay in float32: a vote is exponential in them."""
    n_leaves, k = head.linear.n_leaves, min(neighbours.K, len(head.reference))
    similarity = graph.add("MatMul", "vectors", graph.constant(head.reference.T.astype(np.float32)))
    top, index = graph.add_many(
        "TopK", similarity, graph.constant(np.array([k], np.int64)), outputs=(None, None), axis=1
    )
    best = graph.add("ReduceMax", top, graph.constant(np.array([1], np.int64)), keepdims=1)
    behind = graph.add("Mul", graph.add("Sub", top, best), graph.constant(np.float32(neighbours.SHARPNESS)))
    strength = graph.add("Exp", behind)
    if head.weight is not None:
        weight = graph.constant((head.weight + 1e-12).astype(np.float32))
        strength = graph.add("Mul", strength, graph.add("Gather", weight, index, axis=0))
    axis = graph.constant(np.array([1], np.int64))
    strength = graph.add("Div", strength, graph.add("ReduceSum", strength, axis, keepdims=1))
    rows = graph.add("Shape", similarity, start=0, end=1)
    shape = graph.add("Concat", rows, graph.constant(np.array([n_leaves], np.int64)), axis=0)
    nothing = graph.add("Expand", graph.constant(np.zeros((1, 1), np.float32)), shape)
    leaves = graph.add("Gather", graph.constant(head.labels.astype(np.int64)), index, axis=0)
    return graph.add("ScatterElements", nothing, leaves, strength, axis=1, reduction="add")


def _softmax(
    graph: Graph, scores: str, seen: NDArray[np.int64], n_leaves: int, last_first: list[float]
) -> str:
    """Scores of the seen leaves to calibrated probabilities of all; leaves never seen are exactly 0."""
    together = np.cumprod(last_first)
    least, most = TEMPERATURES
    one = bool(least <= together[-1] and together.max() <= most)  # as in `scoring`: else rounding tells
    if one and together[-1] != 1:
        scores = graph.add("Mul", scores, graph.constant(np.float32(1 / together[-1])))
    P = graph.add("Softmax", scores, axis=-1)
    if not one:
        for temperature in reversed(last_first):
            P = _tempered(graph, P, temperature)
    if np.array_equal(seen, np.arange(n_leaves)):
        return P
    column = np.full(n_leaves, len(seen), np.int64)
    column[seen] = np.arange(len(seen))
    beside = graph.constant(np.array([0, 0, 0, 1], np.int64))
    padded = graph.add("Pad", P, beside, graph.constant(np.float32(0)))
    return graph.add("Gather", padded, graph.constant(column), axis=1)


def _tempered(graph: Graph, P: str, temperature: float) -> str:
    """What `apply_temperature` says, in double precision as there."""
    from onnx import TensorProto

    if temperature == 1:
        return P
    logs = graph.add("Log", graph.add("Cast", P, to=TensorProto.DOUBLE))
    scaled = graph.add("Div", logs, graph.constant(np.float64(temperature)))
    return graph.add("Cast", graph.add("Softmax", scaled, axis=-1), to=TensorProto.FLOAT)


def _answers(graph: Graph, P: str, levels: Levels) -> None:
    """What `decode` says: the best node at the first level, then the best below it; confidences never rise."""
    graph.add("Identity", P, output="probabilities")
    deepest = np.zeros(levels.n_leaves, np.int64)
    deepest[levels.maps[-1]] = np.arange(levels.n_leaves)
    sums = [P if _in_order(deepest) else graph.add("Gather", P, graph.constant(deepest), axis=1)]
    for above, size in zip(reversed(levels.parents[1:]), reversed(levels.sizes[:-1]), strict=True):
        lies_under = (above[:, None] == np.arange(size)).astype(np.float32)
        sums.append(graph.add("MatMul", sums[-1], graph.constant(lies_under)))
    axis, chosen = graph.constant(np.array([1], np.int64)), ""
    surest, said = graph.constant(np.ones((1, 1), np.float32)), []
    for depth, nodes in enumerate(reversed(sums)):
        if depth:
            parents = graph.constant(levels.parents[depth][None, :].astype(np.int64))
            below = graph.add("Equal", parents, chosen)
            nodes = graph.add("Where", below, nodes, graph.constant(np.float32(-1)))
        chosen = graph.add("ArgMax", nodes, axis=1, keepdims=1)
        surest = graph.add("Min", graph.add("ReduceMax", nodes, axis, keepdims=1), surest)
        said.append(surest)
    graph.add("Concat", *said, axis=1, output="confidences")
    leaf = graph.add("Gather", graph.constant(deepest), chosen, axis=0)
    graph.add("Squeeze", leaf, axis, output="leaf")


def _scores(graph: Graph, prototypes: Prototypes | None) -> None:
    """What `Answers.scores` says: the confidences, their odds multiplied by the familiarity."""
    if prototypes is None:
        graph.add("Identity", "confidences", output="scores")
        return
    axis, one = graph.constant(np.array([1], np.int64)), graph.constant(np.float32(1))
    lengths = graph.add("ReduceL2", "vectors", axis, keepdims=1)
    lengths = graph.add("Max", lengths, graph.constant(np.float32(1e-12)))
    cosines = graph.add("Div", graph.add("MatMul", "vectors", graph.constant(prototypes.vectors.T)), lengths)
    leaves = np.repeat(np.arange(len(prototypes.first) - 1), np.diff(prototypes.first))
    own = graph.add("Equal", graph.constant(leaves[None, :]), graph.add("Unsqueeze", "leaf", axis))
    among = graph.add("Where", own, cosines, graph.constant(np.float32(1 - NOWHERE)))
    distance = graph.add("Sub", one, graph.add("ReduceMax", among, axis, keepdims=1))
    distance = graph.add("Clip", distance, graph.constant(np.float32(0)), graph.constant(np.float32(NOWHERE)))
    beyond = graph.add("Sub", graph.add("Div", distance, graph.constant(np.float32(prototypes.typical))), one)
    familiarity = graph.add("Exp", graph.add("Mul", beyond, graph.constant(np.float32(-SHARPNESS))))
    sure = graph.add("Min", "confidences", graph.constant(SUREST))
    against = graph.add("Div", graph.add("Sub", one, sure), graph.add("Mul", sure, familiarity))
    graph.add("Div", one, graph.add("Add", one, against), output="scores")


def _in_order(places: NDArray[np.int64]) -> bool:
    return np.array_equal(places, np.arange(len(places)))


def _image_scores(graph: Graph, student: Any) -> str:
    """The image model as torch's exporter writes it, from `pixels` uint8 on: they are normalised in the graph.

    Raises:
        TrainingError: the model cannot be written.
    """
    import logging
    import warnings

    import onnx
    import torch

    class Scores(torch.nn.Module):
        """From pixels of 0 to 255 to the scores before the softmax."""

        def __init__(self) -> None:
            super().__init__()
            self.net = student._net
            self.register_buffer("mean", torch.tensor(student.mean).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(student.std).view(1, 3, 1, 1))

        def forward(self, pixels: Any) -> Any:
            """Float32 [n, seen] of uint8 [n, 3, side, side]."""
            return self.net((pixels.to(torch.float32) / 255 - self.mean) / self.std)

    example, written = (
        torch.zeros((2, 3, student.image_size, student.image_size), dtype=torch.uint8),
        BytesIO(),
    )
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of its own deprecation, and of what it traced
            logger.setLevel(logging.ERROR)
            torch.onnx.export(
                Scores().eval(),
                (example,),
                written,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_axes={"pixels": {0: "n"}, "logits": {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"the image model {student.model} cannot be written as an ONNX graph "
            f"({str(error).strip().splitlines()[0][:200]})",
            "train another timm model",
        ) from error
    finally:
        logger.setLevel(level)
    traced = onnx.load_model_from_string(written.getvalue()).graph
    graph.nodes.extend(traced.node)
    graph.constants.extend(traced.initializer)
    graph.products.extend(node.name for node in traced.node if node.op_type in ("Conv", "MatMul", "Gemm"))
    return "logits"


def _not_exportable(head: Any) -> TrainingError:
    kind = getattr(head, "kind", type(head).__name__)
    return TrainingError(
        f"a student of kind `{kind}` has no ONNX form here",
        "export a version whose student is linear, mlp, ensemble, finetuned or timm",
    )
