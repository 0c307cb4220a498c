"""Examples that the teacher writes for starved labels: rounds of wishes, screened, kept, counted.

Knows neither how a request is worded and sent nor how an example is judged, nor what a student makes of it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from random import Random
from types import MappingProxyType

from tasks.labeling.asking import Asking
from tasks.labeling.ledger import Ledger
from tasks.labeling.screening import DUPLICATE, KEPT, OFF_LABEL, UNUSABLE, Screen
from tasks.labeling.sessions import run_in_loop
from tasks.labeling.starved import Starved
from tasks.labeling.synthesis_prompts import Wish, Written
from tasks.labeling.writer import Writer
from tasks.records import Synthesized
from tasks.store import Store
from tasks.store.synthetic import append_synthetic
from tasks.taxonomy import Taxonomy

STAGE = "synthesis"
PER_CALL = 10
SHOWN = 5
SPARE = 1.5
"""So many times what is missing is asked for: an example more costs some tokens, another request the whole prompt."""

ROUNDS = 3
"""Requests again for what the screen took out; a label that a round brought nothing waits for the next run."""

Progress = Callable[[int, int, float], None]


def write_examples(
    store: Store,
    how: Asking,
    taxonomy: Taxonomy,
    instructions: str,
    structured: bool,
    starved: Sequence[Starved],
    real_texts: Mapping[str, Sequence[str]],
    screen: Screen,
    budget_usd: float | None,
    run_id: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Synthesized:
    """Ask for what is wanted, keep what is fit; each kept example is an item with its label when this returns.

    At most `how.concurrency` requests are between being paid for and being kept, so that a kill loses no more.

    Args:
        store: the open database.
        how: the teacher, with room for a reply of `PER_CALL` examples.
        taxonomy: explains the labels.
        instructions: of the task.
        structured: whether the provider enforces a JSON schema.
        starved: as `starved_labels` gives them.
        real_texts: real examples by label, none of them gold or nearly gold; a few are shown with each request.
        screen: what there is already.
        budget_usd: the most this run may spend.
        run_id: the job's row in `runs`.
        seed: another one shows other examples and asks the teacher for other ones.
        progress: called with requests done, requests begun or planned, and the cost so far.

    Raises:
        FatalTeacherError: no call can succeed; what was paid for before is kept.
        StoreError: the database refuses.
    """
    synthesis = _Synthesis(store, starved, real_texts, screen, run_id, seed, progress)

    async def work() -> Writer:
        async with (
            aclosing(how.connect()) as teacher,
            Ledger(store, how.version, STAGE, run_id, sleep=how.sleep) as ledger,
        ):
            writer = Writer(how, taxonomy, instructions, structured, teacher, ledger, budget_usd, seed)
            try:
                await synthesis.run(writer, how.concurrency)
            finally:
                writer.close()
            return writer

    if not any(label.wanted for label in starved):
        return standing(starved)
    writer = run_in_loop(work())
    if writer.fatal is not None:
        raise writer.fatal
    return synthesis.record(writer)


class _Synthesis:
    """The state of one `write_examples`."""

    def __init__(
        self,
        store: Store,
        starved: Sequence[Starved],
        real_texts: Mapping[str, Sequence[str]],
        screen: Screen,
        run_id: int,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._store, self._starved, self._real_texts, self._screen = store, starved, real_texts, screen
        self._run_id, self._seed, self._progress = run_id, seed, progress
        self._room = {label.label: label.room for label in starved}
        self._kept: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        self._barren: set[str] = set()
        self._written = self._surplus = self._done = self._planned = 0

    async def run(self, writer: Writer, at_once: int) -> None:
        """Ask, screen and keep in waves of `at_once` requests, until nothing is wanted or there is no more to get."""
        for _ in range(ROUNDS):
            wishes = [wish for wish in self._wishes() if wish.label not in writer.refused]
            self._planned += len(wishes)
            before = writer.calls
            for first in range(0, len(wishes), at_once):
                if writer.stopped is None:
                    await self._wave(writer, wishes[first : first + at_once])
            if writer.calls == before:  # whoever did not answer once will not answer in the next round
                break

    def _wishes(self) -> Iterator[Wish]:
        for starved in self._starved:
            label = starved.label
            missing = starved.wanted - self._kept[label]
            if missing <= 0 or label in self._barren:
                continue
            asked = math.ceil(missing * SPARE)
            for first in range(0, asked, PER_CALL):
                self._numbers[label] += 1
                number = self._numbers[label]
                yield Wish(label, min(PER_CALL, asked - first), self._shown(label, number), number)

    def _shown(self, label: str, number: int) -> tuple[str, ...]:
        texts = list(self._real_texts.get(label, ()))
        return tuple(Random(f"{self._seed}:{label}:{number}").sample(texts, min(SHOWN, len(texts))))

    async def _wave(self, writer: Writer, wave: Sequence[Wish]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(writer.ask(wish)) for wish in wave]
        except BaseExceptionGroup as errors:
            # Every request stops for the same reason (the ledger cannot be written): one of them says it.
            raise errors.exceptions[0] from None
        replies = [(wish.label, task.result()) for wish, task in zip(wave, tasks, strict=True)]
        await asyncio.to_thread(self._take_in, replies)
        self._done += len(wave)
        if self._progress is not None:
            self._progress(self._done, self._planned, writer.cost_usd)

    def _take_in(self, replies: Sequence[tuple[str, Written | None]]) -> None:
        examples = [(text, label) for label, said in replies if said is not None for text in said.texts]
        fit: list[tuple[str, str]] = []
        brought: Counter[str] = Counter()
        for (_, label), (text, verdict) in zip(examples, self._screen.judge(examples), strict=True):
            self._written += 1
            if verdict == KEPT and brought[label] + self._kept[label] >= self._room[label]:
                self._surplus += 1
                continue
            self._verdicts[verdict] += 1
            if verdict == KEPT:
                brought[label] += 1
                fit.append((text, label))
        append_synthetic(self._store, fit, self._run_id)
        self._kept.update(brought)
        self._barren |= {label for label, said in replies if said is not None and not brought[label]}

    def record(self, writer: Writer) -> Synthesized:
        """What came of it."""
        return replace(
            standing(self._starved, self._kept),
            written=self._written,
            kept=self._kept.total(),
            duplicates=self._verdicts[DUPLICATE],
            off_label=self._verdicts[OFF_LABEL],
            unusable=self._verdicts[UNUSABLE],
            surplus=self._surplus,
            calls=writer.calls,
            cost_usd=round(writer.cost_usd, 9),
            stopped=writer.stopped,
            errors=dict(writer.errors),
        )


def standing(starved: Sequence[Starved], kept: Mapping[str, int] = MappingProxyType({})) -> Synthesized:
    """How the starved labels stand, with so many more examples `kept` by label; nothing else is counted."""
    by_label = {}
    for label in starved:
        new = kept.get(label.label, 0)
        missing = max(0, label.wanted - new)
        by_label[label.label] = {"real": label.real, "synthetic": label.synthetic + new, "missing": missing}
    return Synthesized(
        starved=len(starved),
        missing=sum(counts["missing"] for counts in by_label.values()),
        by_label=by_label,
        unseen=[label.label for label in starved if not label.real],
    )
