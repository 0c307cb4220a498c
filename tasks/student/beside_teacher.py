"""The student's errors beside its teacher's on the same judged items: shared mistakes, new ones, and gains.

A mistake that both make alike was taught; one that only the student makes is its own (too small a model, or too few
rows); one that only the teacher makes is what the wheel gains. Knows true and answered nodes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.student.comparison import paired_difference


@dataclass(frozen=True)
class BesideTeacher:
    """One level: counts of items by who is right, and the difference in accuracy.

    Attributes:
        level: its name.
        both_right: nothing to say.
        gained: the teacher is wrong, the student right.
        own: the teacher is right, the student wrong.
        same: both wrong, with the same answer.
        different: both wrong, with different answers.
        difference: accuracy of the student less that of the teacher, (value, low, high), paired at 95 %.
    """

    level: str
    both_right: int
    gained: int
    own: int
    same: int
    different: int
    difference: tuple[float, float, float]

    @property
    def items(self) -> int:
        """That both answered."""
        return self.both_right + self.gained + self.own + self.same + self.different

    @property
    def teacher_wrong(self) -> int:
        """Items that the teacher gets wrong."""
        return self.gained + self.same + self.different

    @property
    def own_rate(self) -> float:
        """Share of the items the teacher gets right that the student gets wrong, in [0, 1]; 0 where there is none."""
        right = self.items - self.teacher_wrong
        return self.own / right if right else 0.0


def beside_teacher(
    level: str,
    true: NDArray[np.integer],
    student: NDArray[np.integer],
    teacher: NDArray[np.integer],
    seed: int = 0,
) -> BesideTeacher:
    """Compare the two on the items that both answered.

    Args:
        level: its name.
        true: nodes [n] of the level, n at least 1.
        student: nodes [n].
        teacher: nodes [n].
        seed: of the bootstrap.
    """
    student_right, teacher_right = student == true, teacher == true
    neither = ~student_right & ~teacher_right
    return BesideTeacher(
        level,
        int((student_right & teacher_right).sum()),
        int((student_right & ~teacher_right).sum()),
        int((teacher_right & ~student_right).sum()),
        int((neither & (student == teacher)).sum()),
        int((neither & (student != teacher)).sum()),
        paired_difference(student_right, teacher_right, seed=seed),
    )
