"""How fast a run asks, in virtual time: it fills the pipe, backs off when it must, and comes back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from deployments.teacher_sim.faults import MinuteBucket, written_duration
from tasks.errors import TransientTeacherError
from tasks.labeling.dispatch import LONGEST_SILENCE_SECONDS
from tasks.labeling.pace import HEAD_START_SECONDS, Pace
from tests.labeling.virtual import LATENCY_SECONDS, VirtualTeacher, ask, run, turned_away

ITEMS = 4000
CEILING = 64 / LATENCY_SECONDS


def chance(seed: int = 1) -> Callable[[int, float, int], Exception | None]:
    """5 % 429 that ask for a second, 2 % 500."""
    dice = Random(seed)

    def fault(number: int, now: float, in_flight: int) -> Exception | None:
        drawn = dice.random()
        if drawn < 0.05:
            return turned_away(1.0)
        return TransientTeacherError("http_500", "failed") if drawn < 0.07 else None

    return fault


def test_the_pipe_is_full() -> None:
    """Of the requests that 64 at once and this latency allow, all but what the commits and the first one cost."""
    teacher = VirtualTeacher()
    asked, kept, seconds = ask(teacher, ITEMS)
    assert asked.answered == len(set(kept.answered())) == ITEMS
    assert seconds < 1.04 * ITEMS / CEILING + LATENCY_SECONDS
    assert teacher.most_in_flight == 64


def test_the_first_request_goes_alone() -> None:
    """A wrong key costs one call, and the provider's prompt cache is warm for the others."""
    teacher = VirtualTeacher()
    ask(teacher, 200)
    assert teacher.sent_at[1] > teacher.answered_at[0]


def test_a_slow_teacher_is_not_waited_for() -> None:
    """Where a reply takes twenty seconds, the first one does not keep sixty-three places empty so long."""
    teacher = VirtualTeacher(latency_seconds=20.0)
    ask(teacher, 64)
    assert teacher.sent_at[1] == HEAD_START_SECONDS
    assert teacher.sent_at[63] < 1


def test_a_few_refusals_by_chance_cost_next_to_nothing() -> None:
    """Each of them waits for itself and nobody else, so that little but the last stragglers' second is lost."""
    _, _, clean = ask(VirtualTeacher(), 2 * ITEMS)
    for seed in range(2):
        teacher = VirtualTeacher(chance(seed))
        asked, kept, seconds = ask(teacher, 2 * ITEMS)
        assert sorted(set(kept.answered())) == sorted(kept.answered())
        assert asked.answered == 2 * ITEMS
        assert (asked.failed, asked.stopped) == (0, None)
        assert seconds < 1.15 * clean + 1


@pytest.mark.parametrize("retry_after", [1.0, None])
@pytest.mark.parametrize("latency", [LATENCY_SECONDS, 1.0])
def test_after_a_storm_full_speed_is_back_within_ten_seconds(
    retry_after: float | None, latency: float
) -> None:
    """Thirty seconds of nothing but 429: nothing is lost, and the teacher is not hammered meanwhile."""
    begin, end = 5.0, 35.0
    teacher = VirtualTeacher(
        lambda number, now, in_flight: turned_away(retry_after) if begin <= now < end else None,
        latency_seconds=latency,
    )
    asked, _, _ = ask(teacher, int(25 * 64 / latency))
    assert asked.answered == int(25 * 64 / latency)
    assert asked.stopped is None
    # What is in flight when it begins is turned away; then one probe at a time.
    assert len(teacher.failed_at) < 64 + 60
    assert teacher.answered_between(end + 9, end + 10) >= 0.9 * 64 / latency


def test_the_limit_settles_where_the_teacher_serves() -> None:
    """A teacher with twenty places and no word about them: most requests are served, and most places used."""

    def fault(number: int, now: float, in_flight: int) -> Exception | None:
        return turned_away() if in_flight >= 20 else None

    teacher = VirtualTeacher(fault)
    asked, _, seconds = ask(teacher, ITEMS)
    assert asked.answered == ITEMS
    assert len(teacher.failed_at) < 0.25 * ITEMS
    assert seconds < 1.3 * ITEMS * LATENCY_SECONDS / 20


def test_the_limit_climbs_again_when_there_is_room() -> None:
    """Twenty places for half a minute, then as many as anybody wants."""

    def fault(number: int, now: float, in_flight: int) -> Exception | None:
        return turned_away() if now < 30 and in_flight >= 20 else None

    teacher = VirtualTeacher(fault)
    ask(teacher, 8000)
    assert teacher.answered_between(39, 40) >= 0.9 * CEILING


def test_time_outs_lower_the_limit() -> None:
    """A teacher that has choked on sixty-four requests is not sent sixty-four more."""
    teacher = VirtualTeacher(
        lambda number, now, in_flight: TransientTeacherError("timeout", "no reply") if 1 <= now < 20 else None
    )
    asked, _, _ = ask(teacher, ITEMS, max_attempts=50)
    assert asked.answered == ITEMS
    assert len(teacher.failed_at) < 150


def test_who_was_turned_away_comes_back_when_it_was_told_to() -> None:
    teacher = VirtualTeacher(lambda number, now, in_flight: turned_away(7.0) if number == 100 else None)
    ask(teacher, 150)
    assert sum(at >= teacher.failed_at[0] + 7 for at in teacher.sent_at) == 1


def test_a_teacher_that_only_ever_says_later_is_down_in_the_end() -> None:
    """However politely it asks to wait: after a quarter of an hour without an answer the run ends, not before."""
    teacher = VirtualTeacher(lambda number, now, in_flight: turned_away(30.0) if number > 10 else None)
    asked, _, seconds = ask(teacher, 100)
    assert asked.stopped == "teacher_down"
    assert asked.answered == 10
    assert LONGEST_SILENCE_SECONDS < seconds < LONGEST_SILENCE_SECONDS + 60


def test_a_longer_pause_than_anybody_waits_is_cut_short() -> None:
    teacher = VirtualTeacher(lambda number, now, in_flight: turned_away(86_400.0) if number == 1 else None)
    asked, _, seconds = ask(teacher, 1)
    assert asked.answered == 1
    assert seconds < 150


def test_the_providers_headers_are_kept_to() -> None:
    """600 requests a minute, of which a minute's worth may go at once: few are turned away, and none is wasted."""
    loops: list[asyncio.AbstractEventLoop] = []
    buckets: list[MinuteBucket] = []

    def bucket() -> MinuteBucket:
        if not buckets:
            loops.append(asyncio.get_running_loop())
            buckets.append(MinuteBucket(600, loops[0].time))
        return buckets[0]

    def headers() -> dict[str, str]:
        held = bucket()
        return {
            "x-ratelimit-limit-requests": "600",
            "x-ratelimit-remaining-requests": str(held.remaining),
            "x-ratelimit-reset-requests": written_duration(held.seconds_to_full),
        }

    def fault(number: int, now: float, in_flight: int) -> Exception | None:
        wait = bucket().take()
        return turned_away(wait, **headers()) if wait else None

    teacher = VirtualTeacher(fault, headers)
    asked, _, seconds = ask(teacher, 1800)
    assert asked.answered == 1800
    assert len(teacher.failed_at) < 100
    assert seconds < 1.1 * 120  # 600 at once, 1,200 more at ten a second


@pytest.mark.parametrize(
    ("terms", "a_second"),
    [({"requests_per_minute": 600}, 10.0), ({"tokens_per_minute": 42_000}, 42_000 / 60 / 420)],
)
def test_the_projects_own_caps_are_kept_to(terms: dict[str, int], a_second: float) -> None:
    """Requests and tokens a minute, from the first minute on; tokens as they were used, not as they were feared."""
    teacher = VirtualTeacher()
    count = int(a_second * 180)
    ask(teacher, count, **terms)
    for minute in (0, 60, 120):
        sent = sum(minute <= at < minute + 60 for at in teacher.sent_at)
        assert sent <= 1.1 * a_second * 60 + 2
    assert teacher.sent_at[-1] < 200


def test_it_never_exceeds_its_concurrency_whatever_happens() -> None:
    """Hypothesis would not find more: a thousand random fates, some in storms, and the limit holds."""
    for seed in range(5):
        dice = Random(seed)

        def fault(number: int, now: float, in_flight: int, dice: Random = dice) -> Exception | None:
            assert in_flight < 7
            share = 0.9 if int(now) % 7 == 3 else 0.1
            return turned_away(dice.choice([None, 0.1, 2.0])) if dice.random() < share else None

        asked, _, _ = ask(VirtualTeacher(fault), 600, concurrency=7)
        assert asked.answered == 600


def test_who_waits_for_a_place_is_let_go_when_the_pace_is_closed() -> None:
    async def work() -> list[object]:
        loop = asyncio.get_running_loop()
        pace = Pace(1, loop.time, asyncio.sleep)
        first = await pace.enter(1)
        waiting = [asyncio.create_task(pace.enter(1)) for _ in range(3)]
        await asyncio.sleep(1)
        pace.close()
        assert first is not None
        return list(await asyncio.gather(*waiting))

    assert run(work()) == [None] * 3
