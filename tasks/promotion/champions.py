"""Which version serves, which served before it, and which are kept: the champion's alias and its history.

Moves what it is told to move and writes that down; whether it should be moved is the gate's business.
"""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.errors import TrainingError
from tasks.promotion.registry import CHALLENGER, CHAMPION, Registry

PREDECESSOR, ROLLED_BACK_AT = "predecessor", "rolled_back_at"
ROLLING_BACK, DONE = "rolling_back", "done"
"""A tag of the model: the step that a rollback is about to take; without it one that was killed and is repeated after
its alias moved would take a second step."""


def stamp(now: datetime) -> str:
    """A moment as tags show it."""
    return now.astimezone(UTC).isoformat(timespec="seconds")


def make_champion(registry: Registry, version: str, why: str, now: datetime) -> None:
    """Afterwards the version serves, knows whom it followed, and is no challenger; called again it changes nothing.

    Called again after a kill it does what was left to do.

    Args:
        registry: of the project.
        version: to serve.
        why: one line for the history.
        now: the time.
    """
    before = registry.alias(CHAMPION)
    moves = before != version
    if moves:
        registry.tag(
            version, {"promoted_at": stamp(now)} | ({PREDECESSOR: before} if before is not None else {})
        )
        registry.set_alias(CHAMPION, version)
    else:
        before = registry.tags(version).get(PREDECESSOR)
    if moves or f"-> {version}," not in next(iter(registry.history()), ""):
        registry.add_to_history(f"{stamp(now)} champion {before or 'none'} -> {version}, promoted: {why}")
    if registry.alias(CHALLENGER) == version:
        registry.drop_alias(CHALLENGER)


def roll_back(registry: Registry, now: datetime) -> tuple[str, str, bool]:
    """Afterwards the champion's predecessor serves; returns (version that serves, version that did, finished).

    One that was cut short after the alias had moved is finished and goes no further back: then `finished` is true.

    Raises:
        TrainingError: there is no champion, it has no predecessor, or the predecessor's files are gone.
    """
    champion = registry.alias(CHAMPION)
    if champion is None:
        raise TrainingError("there is no champion to roll back from", "Promote a version first.")
    left, _, moved_to = registry.model_tag(ROLLING_BACK).partition(" -> ")
    finished = champion == moved_to
    before = champion if finished else _predecessor(registry, champion)
    if not finished:
        left = champion
        registry.tag_model(ROLLING_BACK, f"{left} -> {before}")
        registry.set_alias(CHAMPION, before)
    if left in registry.versions():
        registry.tag(left, {ROLLED_BACK_AT: stamp(now)})
    line = f"champion {left} -> {before}, rolled back"
    if not finished or line not in next(iter(registry.history()), ""):
        registry.add_to_history(f"{stamp(now)} {line}")
    registry.tag_model(ROLLING_BACK, DONE)
    return before, left, finished


def _predecessor(registry: Registry, champion: str) -> str:
    """The version that served before the champion, whose files are there.

    Raises:
        TrainingError: there is none, or its files are gone.
    """
    before = registry.tags(champion).get(PREDECESSOR)
    if before is None:
        raise TrainingError(
            f"version {champion} has no predecessor", "It was the first one; retrain instead."
        )
    if before not in registry.versions():
        raise TrainingError(
            f"version {before}, which served before version {champion}, is kept no longer",
            "Retrain; `promotion.keep_versions` says how many are kept.",
        )
    registry.load(before)  # a version whose files are gone must not become champion
    return before


def delete_oldest(registry: Registry, keep: int) -> list[str]:
    """Afterwards at most `keep` versions are left, or all that must be kept; returns those that went, oldest first.

    The champion and its predecessor, whatever else bears an alias, and the newest version, whose number the next one
    would get again, are kept always. A version goes with its model's files; its run, its policies and what its retrain
    left under the project's root stay.
    """
    versions = registry.versions()
    kept = registry.aliased() | {versions[-1]}
    if (champion := registry.alias(CHAMPION)) is not None:
        kept |= {registry.tags(champion).get(PREDECESSOR, champion)}
    gone = [version for version in versions if version not in kept][: max(0, len(versions) - keep)]
    for version in gone:
        registry.delete(version)
    return gone
