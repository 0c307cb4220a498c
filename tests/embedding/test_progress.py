"""How far a piece of work is: pace and time left, one line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

from tasks.embedding.progress import ProgressLine, duration, line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(terminal: bool, marks: list[tuple[float, int]], total: int) -> str:
    """What is written when so many are done at such seconds."""
    clock, stream = Clock(), io.StringIO()
    progress = ProgressLine("embedding", stream, terminal, clock)
    for second, done in marks:
        clock.now = 100.0 + second
        progress(done, total)
    return stream.getvalue()


def test_a_terminal_has_one_line_that_is_drawn_anew() -> None:
    """Each draw starts at the left and wipes what stood there; five a second at most, and the end ends the line."""
    written = told(True, [(0, 0), (0.05, 5), (0.5, 50), (0.6, 60), (1.0, 100)], 100)
    assert written.count("\n") == 1
    assert written.endswith("\n")
    drawn = written.rstrip("\n").split("\r\x1b[K")[1:]
    assert drawn == [
        "embedding: 0 of 100 (0%)",
        "embedding: 50 of 100 (50%), 100 a second, 0 s left",
        "embedding: 100 of 100 (100%), 100 a second",
    ]


def test_elsewhere_there_is_a_line_every_few_seconds_and_none_for_short_work() -> None:
    """A log gets a line each five seconds and the last one; work of four seconds leaves none."""
    assert told(False, [(0, 0), (2, 50), (4, 100)], 100) == ""
    written = told(False, [(second, second * 10) for second in range(13)], 120).splitlines()
    assert written == [
        "embedding: 50 of 120 (42%), 10 a second, 7 s left",
        "embedding: 100 of 120 (83%), 10 a second, 2 s left",
        "embedding: 120 of 120 (100%), 10 a second",
    ]


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    """Ten minutes of slow work do not stand against it once it goes fast."""
    slow = [(float(second), second) for second in range(0, 600, 10)]
    fast = [(600.0 + second, 600 + 100 * second) for second in range(0, 41, 10)]
    assert told(False, slow + fast, 100_000).splitlines()[-1].endswith("100 a second, 15 min 54 s left")


def test_the_time_left_is_told_in_two_units() -> None:
    """Seconds, minutes with seconds, hours with minutes."""
    assert [duration(seconds) for seconds in (0.4, 59.4, 61, 3599, 3600, 86_400)] == [
        "0 s", "59 s", "1 min 01 s", "59 min 59 s", "1 h 00 min", "24 h 00 min",
    ]  # fmt: skip
    assert line("embedding", 3, 10, 0.25) == "embedding: 3 of 10 (30%), 0.25 a second, 28 s left"
    assert line("embedding", 0, 0, None) == "embedding: 0 of 0 (0%)"
