"""How many requests may be on their way at once, and when the next may leave.

The limit falls when the teacher turns requests away and climbs again, never above what the project allows; the
provider's and the project's limits a minute are kept to. Knows nothing of what is asked, of retries or of money.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tasks.labeling.limits import Allowance, limits_in
from tasks.labeling.waiting import LONGEST_PAUSE_SECONDS, Clock, Sleep, WaitingRoom

TOLERATED_SHARE = 0.10  # of a round turned away: below it, slowing down would cost more than asking again
ROUND, ROUND_LIMITS = (
    60,
    2.0,
)  # requests at least, and limits: in less, chance alone would lower it now and then
BURST, BURST_SHARE = 4, 1 / 8  # so many sent in a row, or this share of the limit, and all turned away
FLOOR_SHARE = (
    1 / 8
)  # partial refusals never lower the limit below this share: they may not be about our speed
PROBE_SECONDS, LONGEST_PROBE_SECONDS = 0.5, 4.0  # between probes in a storm that names no pause itself
KNOWN_STEP, UNKNOWN_STEP = 3.0, 0.1  # a success adds: below the limit that was fine before, and above it
LONGEST_REST_SECONDS = 2.0  # of a place whose request was turned away
HEAD_START_SECONDS = (
    0.5  # of the first request: a refused key is told within that, a slow model is not waited for
)
RECENT = 0.05  # weight of the newest in what is kept as a running mean


@dataclass
class Ticket:
    """Leave to send one request: its number, its round, when, and the most tokens and those set aside for it."""

    number: int
    round: int
    sent_at: float
    most_tokens: float
    tokens: float
    turned_away: bool = False


@dataclass
class _Round:
    """Requests sent one after the other under one limit, and what has become of them."""

    size: int
    sent: int = 0
    served: int = 0
    turned_away: int = 0


class Pace:
    """Lives in one event loop. The first request has a head start: a wrong key then costs one call.

    The limit moves by rounds, as congestion control does (RFC 5681): what was sent before it last fell says
    nothing about the limit now. A round in which more than a tenth is turned away lowers it to the share that
    was served; several turned away in a row lower it at once to those that are under way. When these come to
    nothing, too, it is a storm: one probe at a time goes out, after the pause that the provider asks for, and the
    first success brings back what was fine before. The place of a request that was turned away rests as long as a
    reply takes, or the next would only be turned away faster.
    """

    def __init__(
        self,
        concurrency: int,
        clock: Clock,
        sleep: Sleep,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        seed: int = 0,
        head_start_seconds: float = HEAD_START_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.concurrency = concurrency
        self.limit = 1.0
        self._opened = self._closed = False
        self._head_start_seconds = head_start_seconds
        self._head_start: asyncio.TimerHandle | None = None
        self._known = float(concurrency)  # the limit that was fine when last anybody could tell
        self._held: float | None = (
            None  # the limit since a burst, while it is not clear whether it is a storm
        )
        self._clock, self._now, self._random = clock, now, Random(seed)
        self._requests = (
            Allowance(clock, requests_per_minute),
            Allowance(clock),
        )  # the project's, the provider's
        self._tokens = (Allowance(clock, tokens_per_minute), Allowance(clock))
        self._used_share = 1.0  # of the tokens set aside
        self._reply_seconds = 0.0
        self._in_use = self._sent = self._under_way = 0
        self._resting: deque[float] = deque()  # until when places in use rest
        self._open_at = float("-inf")
        self._round = 0
        self._rounds: dict[int, _Round] = {}
        self._away: set[int] = set()  # numbers of requests turned away, by which a burst is told
        self._away_in_a_row = self._storms = 0
        self._room = WaitingRoom(clock, sleep)

    async def enter(self, most_tokens: float) -> Ticket | None:
        """Wait until one more request may leave; None when it never will, because the pace was closed.

        Args:
            most_tokens: no fewer than the request and its reply will have.
        """
        while not self._closed:
            tokens = most_tokens * self._used_share
            wait = self._seconds_until_free(tokens)
            if wait == 0.0:
                return self._admit(most_tokens, tokens)
            await self._room.wait(self._clock() + wait)
        return None

    def leave(self, ticket: Ticket, used_tokens: float | None) -> None:
        """Give the place back, once the reply is safe; `used_tokens` None when nothing was used."""
        self._tokens[0].take((used_tokens or 0.0) - ticket.tokens)
        if used_tokens and ticket.most_tokens:
            share = min(1.0, used_tokens / ticket.most_tokens)
            self._used_share += RECENT * (share - self._used_share)
        if ticket.turned_away:
            self._resting.append(self._clock() + min(LONGEST_REST_SECONDS, self._reply_seconds))
        else:
            self._in_use -= 1
            self._open()
        self._room.wake()

    def served(self, ticket: Ticket) -> None:
        """The teacher dealt with a request, whatever it said."""
        took = self._clock() - ticket.sent_at
        self._reply_seconds += (RECENT if self._reply_seconds else 1.0) * (took - self._reply_seconds)
        self._under_way -= 1
        self._away_in_a_row = self._storms = 0
        if not self._opened or (current := self._rounds.get(ticket.round)) is None:
            return
        if self.limit < self.concurrency:
            known = self._known if self._held is None else self._held
            self.limit = min(
                float(self.concurrency), self.limit + (KNOWN_STEP if self.limit < known else UNKNOWN_STEP)
            )
            self._room.wake()
        current.served += 1
        self._judge(ticket.round, current)

    def turned_away(self, ticket: Ticket, retry_after_seconds: float | None) -> None:
        """The teacher had no time: a 429, an overload, or no reply at all."""
        ticket.turned_away = True
        self._under_way -= 1
        self._away_in_a_row += 1
        burst = min(int(self.limit), max(BURST, int(self.limit * BURST_SHARE)))
        if not self._under_way and self._away_in_a_row >= burst:
            self._pause(retry_after_seconds)
        elif (current := self._rounds.get(ticket.round)) is not None:
            self._away.add(ticket.number)
            current.turned_away += 1
            if self._in_a_row(ticket.number) >= burst:
                self.limit = self._held = min(self.limit, max(1.0, float(self._under_way)))
                self._new_round()
            else:
                self._judge(ticket.round, current)

    def told(self, headers: Mapping[str, str]) -> None:
        """Keep to the provider's limits, as it says them with every reply (names in small letters)."""
        if headers:
            for kind, limit in limits_in(headers, self._now()).items():
                (self._requests if kind == "requests" else self._tokens)[1].told(limit)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        if self._head_start is not None:
            self._head_start.cancel()
        self._room.close()

    def _open(self) -> None:
        """The first request was not turned away, or at least not at once: the others may follow."""
        if not self._opened and not self._away_in_a_row:
            self._opened, self.limit = True, float(self.concurrency)
            self._room.wake()

    def _admit(self, most_tokens: float, tokens: float) -> Ticket:
        if self._sent == 0 and self._head_start_seconds < float("inf"):
            # By the loop's own clock: it is about the real time that a reply takes.
            self._head_start = asyncio.get_running_loop().call_later(self._head_start_seconds, self._open)
        self._in_use += 1
        self._under_way += 1
        self._sent += 1
        for requests, bucket in zip(self._requests, self._tokens, strict=True):
            requests.take(1.0)
            bucket.take(tokens)
        current = self._rounds.setdefault(self._round, _Round(max(ROUND, int(self.limit * ROUND_LIMITS))))
        current.sent += 1
        ticket = Ticket(self._sent, self._round, self._clock(), most_tokens, tokens)
        self._round += current.sent == current.size
        self._room.wake()
        return ticket

    def _seconds_until_free(self, tokens: float) -> float:
        now = self._clock()
        while self._resting and self._resting[0] <= now:
            self._resting.popleft()
            self._in_use -= 1
        if self._in_use >= int(self.limit):
            return self._resting[0] - now if self._resting else float("inf")
        return max(
            0.0,
            self._open_at - now,
            *(bucket.seconds_until_allowed(1.0) for bucket in self._requests),
            *(bucket.seconds_until_allowed(tokens) for bucket in self._tokens),
        )

    def _in_a_row(self, number: int) -> int:
        """How many requests, sent one after the other with this one among them, were all turned away."""
        first = last = number
        while first - 1 in self._away:
            first -= 1
        while last + 1 in self._away:
            last += 1
        return last - first + 1

    def _judge(self, number: int, done: _Round) -> None:
        """When all of a round have come back, lower the limit if too many were turned away."""
        seen = done.served + done.turned_away
        if seen < done.size:
            return
        del self._rounds[number]
        if done.turned_away > TOLERATED_SHARE * seen:
            floor = max(1.0, self.concurrency * FLOOR_SHARE)
            self.limit = min(self.limit, max(floor, self.limit * max(0.5, done.served / seen)))
            self._known, self._held = self.limit, None
            self._new_round()
        elif self._held is not None or self.limit > self._known:
            self._known, self._held = self.limit, None

    def _pause(self, retry_after_seconds: float | None) -> None:
        """A storm: nobody is served. What was fine before stays known, for a storm says nothing about it."""
        self._storms += 1
        pause = min(LONGEST_PAUSE_SECONDS, retry_after_seconds or 0.0)
        if not pause:
            probe = min(LONGEST_PROBE_SECONDS, PROBE_SECONDS * 2 ** min(self._storms - 1, 10))
            pause = probe * self._random.uniform(0.75, 1.25)
        self._open_at = max(self._open_at, self._clock() + pause)
        self.limit, self._held = 1.0, None
        self._new_round()
        self._room.wake()

    def _new_round(self) -> None:
        self._rounds.clear()
        self._away.clear()
        self._round += 1
