"""The simulated teacher: recorded answers, or noisy gold, served as an OpenAI-compatible API on loopback."""

from deployments.teacher_sim.answers import AnswerBook
from deployments.teacher_sim.recordings import gold_with_noise, recorded_answers
from deployments.teacher_sim.server import TeacherServer, run_server, serve
from deployments.teacher_sim.settings import TeacherSettings

__all__ = [
    "AnswerBook",
    "TeacherServer",
    "TeacherSettings",
    "gold_with_noise",
    "recorded_answers",
    "run_server",
    "serve",
]
