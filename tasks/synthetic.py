"""The rule of synthetic examples: who wrote them stands in their source, and how many a label may have.

Knows neither who writes them nor who trains on them; both keep to this one rule.
"""

from __future__ import annotations

from math import floor

SYNTHETIC = "synthetic"
"""Origin of an item that a teacher wrote, and source of the label it was written for."""

UNSEEN_EXAMPLES = 5
"""For a label without any real example: no share of nothing can be kept, yet the student should know that the label
exists. From the first real example on the share holds, and these give way to it."""


def most_synthetic(real: int, most_share: float) -> int:
    """How many synthetic examples may stand beside `real` ones so that they are at most `most_share` of all.

    Args:
        real: real examples of the label, at least 0.
        most_share: in (0, 1).

    Returns:
        floor(real x most_share / (1 - most_share)), but `UNSEEN_EXAMPLES` for a label without real ones.
    """
    if not real:
        return UNSEEN_EXAMPLES
    # the epsilon keeps 3 x 0.75 / 0.25 at 9
    return floor(real * most_share / (1.0 - most_share) + 1e-9)
