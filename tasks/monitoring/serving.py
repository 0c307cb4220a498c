"""Which version serves and which one wants to, without paying for MLflow where there is no registry yet."""

from __future__ import annotations

from pathlib import Path

from tasks.project import Project


def versions_in_charge(project: Project) -> tuple[str | None, str | None]:
    """(champion, challenger), each a version or None; a registry file that is not there yet holds neither."""
    file = project.tracking_uri.removeprefix("sqlite:///")
    if file != project.tracking_uri and not Path(file).exists():
        return None, None
    from tasks.promotion.registry import CHALLENGER, CHAMPION
    from tasks.promotion.tracking import registry_of

    registry = registry_of(project)
    return registry.alias(CHAMPION), registry.alias(CHALLENGER)
