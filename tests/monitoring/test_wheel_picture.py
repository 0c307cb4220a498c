"""The picture in the README is the one the program draws."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tasks.monitoring.wheel_picture import HEIGHT, STATIONS, WIDTH, draw_wheel

COMMITTED = Path(__file__).parents[2] / "notebooks" / "figures" / "wheel.svg"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_picture_is_what_is_drawn() -> None:
    """`python -m tasks.monitoring.wheel_picture` writes it again."""
    assert COMMITTED.read_text(encoding="utf-8") == draw_wheel()


def test_the_picture_is_an_svg_that_names_every_station_inside_its_frame() -> None:
    root = ElementTree.fromstring(draw_wheel())
    said = {text.text for text in root.iter(f"{SVG}text")}
    assert {station.name for station in STATIONS} <= said
    for box in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + height <= HEIGHT
    assert root.find(f"{SVG}title") is not None
