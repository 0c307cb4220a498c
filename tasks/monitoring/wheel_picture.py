"""The picture of the wheel in the README, drawn by code so that its words are those of the program.

It stands on a card of its own, which reads on light and dark pages alike. Run as a module to write it again.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 860, 444
CENTRE_X, CENTRE_Y, RADIUS_X, RADIUS_Y = 498, 222, 248, 196
NODE_WIDTH, NODE_HEIGHT, GAP = 186, 64, 9
INK, SOFT, LINE, CARD = "#1d2a35", "#5d6b79", "#aab6c2", "#ffffff"
BLUE, AMBER, OCHRE, GREY = "#2f6db5", "#d99a35", "#8f5b00", "#7b8794"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TEACHER_SHARES = (0.92, 0.60, 0.43, 0.31, 0.22, 0.16)


@dataclass(frozen=True)
class Station:
    """One stop of the wheel: where on it (degrees, clockwise from the right), its name, what happens there."""

    degrees: float
    name: str
    does: str
    colour: str

    @property
    def x(self) -> float:
        """Of its middle."""
        return CENTRE_X + RADIUS_X * math.cos(math.radians(self.degrees))

    @property
    def y(self) -> float:
        """Of its middle."""
        return CENTRE_Y + RADIUS_Y * math.sin(math.radians(self.degrees))

    def covers(self, x: float, y: float) -> bool:
        """Whether a point lies on its card, or too near to it."""
        return abs(x - self.x) <= NODE_WIDTH / 2 + GAP and abs(y - self.y) <= NODE_HEIGHT / 2 + GAP


STATIONS = (
    Station(233, "Teacher labels", "two passes, consensus", AMBER),
    Station(307, "Embed", "only what is new", BLUE),
    Station(360, "Clean", "labels that look wrong", BLUE),
    Station(413, "Retrain", "calibrate, certify", BLUE),
    Station(487, "Gate", "not worse, or it stays out", GREY),
    Station(540, "Champion answers", "what it is sure of", BLUE),
)


def draw_wheel() -> str:
    """The wheel as an SVG document."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title about" font-family="{FONT}">',
        '<title id="title">The LLM flywheel</title>',
        '<desc id="about">Items are labelled by the teacher in two passes, embedded, cleaned and learned from; a '
        "gate lets the new student answer traffic. What it is not sure of goes back to the teacher, audits watch "
        "every tier, and the wheel turns once a night.</desc>",
        "<defs>",
        *(_arrowhead(name, colour) for name, colour in (("line", LINE), ("amber", AMBER), ("grey", GREY))),
        "</defs>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="16" fill="#f6f8fa" stroke="#d6dde4"/>',
        *(_arc(first, second) for first, second in itertools.pairwise(STATIONS)),
        _arc(STATIONS[-1], Station(STATIONS[0].degrees + 360, "", "", AMBER), AMBER, "amber"),
        *_ways_in_and_out(),
        *_ways_back(),
        *_shares(),
        *(_card(station) for station in STATIONS),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _arrowhead(name: str, colour: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="11" markerHeight="11" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.6 L9 5 L0 9.4 Z" fill="{colour}"/></marker>'
    )


def _arc(first: Station, second: Station, colour: str = LINE, head: str = "line") -> str:
    """The piece of the ring between two cards, with an arrow at its end."""
    steps = [first.degrees + (second.degrees - first.degrees) * step / 720 for step in range(721)]
    points = [Station(degrees, "", "", "") for degrees in steps]
    free = [p for p in points if not first.covers(p.x, p.y) and not second.covers(p.x, p.y)]
    path = f"M{free[0].x:.1f} {free[0].y:.1f} A{RADIUS_X} {RADIUS_Y} 0 0 1 {free[-1].x:.1f} {free[-1].y:.1f}"
    if abs(first.y - second.y) < 1:  # side by side: from edge to edge, where the ring would pass them by
        way = math.copysign(NODE_WIDTH / 2 + GAP, second.x - first.x)
        middle, bow = (first.x + second.x) / 2, first.y - math.copysign(14, way)
        path = (
            f"M{first.x + way:.1f} {first.y:.1f} Q{middle:.1f} {bow:.1f} {second.x - way:.1f} {second.y:.1f}"
        )
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="3.5" stroke-linecap="round" '
        f'marker-end="url(#{head})"/>'
    )


def _card(station: Station) -> str:
    left, top = station.x - NODE_WIDTH / 2, station.y - NODE_HEIGHT / 2
    return "\n".join(
        [
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="10" fill="{CARD}" '
            f'stroke="{station.colour}" stroke-width="1.6"/>',
            _text(station.x, station.y - 3, station.name, 16, INK, "middle", 650),
            _text(station.x, station.y + 18, station.does, 13.5, SOFT, "middle"),
        ]
    )


def _ways_in_and_out() -> list[str]:
    teacher, champion = STATIONS[0], STATIONS[-1]
    left = teacher.x - NODE_WIDTH / 2 - GAP, champion.x - NODE_WIDTH / 2 - GAP
    return [
        _text(26, teacher.y + 5, "new items", 15, INK, "start", 600),
        _arrow(118, teacher.y, left[0], teacher.y),
        _text(26, champion.y - 11, "traffic", 15, INK, "start", 600),
        _arrow(86, champion.y - 16, left[1], champion.y - 16),
        _text(26, champion.y + 21, "answers", 15, INK, "start", 600),
        _arrow(left[1], champion.y + 16, 106, champion.y + 16),
    ]


def _ways_back() -> list[str]:
    """What connects the champion with the teacher besides the ring: audits, and the words on both."""
    teacher, champion = STATIONS[0], STATIONS[-1]
    middle = (teacher.y + champion.y) / 2
    x, top, bottom = champion.x + 62, teacher.y + NODE_HEIGHT / 2 + GAP, champion.y - NODE_HEIGHT / 2 - GAP
    return [
        _text(champion.x - 2, middle - 5, "unsure? the teacher", 13.5, OCHRE, "end", 600),
        _text(champion.x - 2, middle + 13, "answers and teaches", 13.5, OCHRE, "end", 600),
        f'<path d="M{x:.1f} {bottom:.1f} Q{x + 6:.1f} {middle:.1f} {x + 38:.1f} {top:.1f}" '
        f'fill="none" stroke="{GREY}" stroke-width="2" stroke-dasharray="2 6" stroke-linecap="round" '
        'marker-end="url(#grey)"/>',
        _text(x + 40, middle - 5, "audits: a random sample", 13.5, SOFT),
        _text(x + 40, middle + 13, "of every tier's answers", 13.5, SOFT),
    ]


def _shares() -> list[str]:
    """The middle: who answers, night by night."""
    width, pitch, height, foot = 24, 33, 74, CENTRE_Y + 76
    left = CENTRE_X + 8 - (pitch * (len(TEACHER_SHARES) - 1) + width) / 2
    parts = [_text(CENTRE_X + 8, CENTRE_Y - 16, "one turn a night", 17, INK, "middle", 650)]
    for night, share in enumerate(TEACHER_SHARES):
        x, teacher = left + pitch * night, height * share
        parts += [
            f'<rect x="{x:.1f}" y="{foot - height}" width="{width}" height="{teacher:.1f}" rx="3" fill="{AMBER}"/>',
            f'<rect x="{x:.1f}" y="{foot - height + teacher + 2:.1f}" width="{width}" '
            f'height="{height - teacher - 2:.1f}" rx="3" fill="{BLUE}"/>',
        ]
    middle = CENTRE_X + 8
    return [
        *parts,
        f'<circle cx="{middle - 98}" cy="{foot + 19}" r="5" fill="{AMBER}"/>',
        _text(middle - 88, foot + 24, "teacher", 13.5, SOFT),
        f'<circle cx="{middle - 18}" cy="{foot + 19}" r="5" fill="{BLUE}"/>',
        _text(middle - 8, foot + 24, "caches, student", 13.5, SOFT),
    ]


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" fill="none" stroke="{GREY}" stroke-width="2" '
        'stroke-linecap="round" marker-end="url(#grey)"/>'
    )


def _text(
    x: float, y: float, words: str, size: float, colour: str, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{words}</text>'
    )


if __name__ == "__main__":
    PLACE = Path(__file__).parents[2] / "notebooks" / "figures" / "wheel.svg"
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    PLACE.write_text(draw_wheel(), encoding="utf-8")
