"""Masks from outlines: pixels by hand, and XML that is none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdfed.data.outlines import filled_outlines
from fdfed.data.unusable import UnusablePicture

Corners = list[tuple[float, float]]


def xml_of(*regions: Corners, negative: tuple[int, ...] = ()) -> str:
    """As ImageScope writes it: x, y by vertex, region by region."""
    text = ""
    for number, corners in enumerate(regions, start=1):
        flag = f' NegativeROA="{int(number - 1 in negative)}"'
        vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
        text += f'<Region Id="{number}"{flag}><Vertices>{vertices}</Vertices></Region>'
    return (
        '<?xml version="1.0"?><Annotations MicronsPerPixel="0.252"><Annotation Id="1">'
        f"<Regions>{text}</Regions></Annotation></Annotations>"
    )


def filled(folder: Path, text: str, *, height: int = 6, width: int = 8) -> np.ndarray:
    Image.new("RGB", (width, height)).save(folder / "a.tif")
    (folder / "a.xml").write_text(text)
    return filled_outlines(folder / "a.xml", image=folder / "a.tif")


def box(left: float, top: float, right: float, bottom: float) -> Corners:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def test_pixels_whose_centre_is_inside_are_foreground(tmp_path: Path) -> None:
    # Columns 1 to 3 and rows 1 to 2 have their centres inside: 6 pixels, the area of the box.
    mask = filled(tmp_path, xml_of(box(1, 1, 4, 3)))
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(mask, expected)
    # x is the column and y the row: a wide box stays wide.
    assert mask.sum(0).max() == 2
    assert mask.sum(1).max() == 3


def test_outlines_may_overlap_touch_and_leave_the_image(tmp_path: Path) -> None:
    mask = filled(tmp_path, xml_of(box(-2, -2, 2, 2), box(1, 1, 3, 3), box(3, 3, 9, 7)))
    expected = np.zeros((6, 8), dtype=bool)
    expected[:2, :2] = expected[1:3, 1:3] = expected[3:, 3:] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_negative_region_is_cut_out_wherever_it_stands(tmp_path: Path) -> None:
    mask = filled(tmp_path, xml_of(box(2, 2, 4, 4), box(1, 1, 6, 5), negative=(0,)))
    assert mask.sum() == 5 * 4 - 2 * 2
    assert not mask[2:4, 2:4].any()


def test_a_stray_click_encloses_nothing(tmp_path: Path) -> None:
    mask = filled(tmp_path, xml_of([(2, 2)], [(1, 1), (4, 4)], [], box(0, 0, 1, 1)))
    assert mask.sum() == 1


def test_an_image_without_a_nucleus_is_an_empty_mask_only_if_a_region_says_so(
    tmp_path: Path,
) -> None:
    assert not filled(tmp_path, xml_of([])).any()
    with pytest.raises(UnusablePicture, match="holds no outline"):
        filled(tmp_path, xml_of())


@given(
    radius=st.floats(3, 20), x=st.floats(25, 38), y=st.floats(25, 38), corners=st.integers(24, 90)
)
@settings(deadline=None, max_examples=15)
def test_the_filled_area_is_that_of_the_polygon(
    tmp_path_factory: pytest.TempPathFactory, radius: float, x: float, y: float, corners: int
) -> None:
    folder = tmp_path_factory.mktemp("outline")
    angles = [2 * math.pi * k / corners for k in range(corners)]
    circle = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    mask = filled(folder, xml_of(circle), height=64, width=64)
    area = corners / 2 * math.sin(2 * math.pi / corners) * radius**2
    # Only pixels that the outline crosses can be off, and about half of them either way.
    assert abs(mask.sum() - area) < 0.35 * 2 * math.pi * radius
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() + 0.5 - y) < 0.3
    assert abs(columns.mean() + 0.5 - x) < 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as outlines"),
        ("<Annotations>", "cannot be read as outlines"),
        ("<Annotations/>", "holds no outline"),
        (xml_of(box(0, 0, 1, 1)).replace('X="0"', 'X="left"'), "cannot be read as outlines"),
        (xml_of(box(0, 0, 1, 1)).replace(' X="0"', ""), "cannot be read as outlines"),
        (xml_of(box(0, 0, 1, 1)).replace('X="0"', 'X="nan"'), "far outside"),
        (xml_of(box(0, 0, 1, 1)).replace('X="0"', 'X="4e4"'), "far outside"),
        (
            '<!DOCTYPE a [<!ENTITY x "aaaa">]><Annotations>&x;</Annotations>',
            "cannot be read as outlines",
        ),
    ],
)
def test_what_is_no_outline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnusablePicture, match=message):
        filled(tmp_path, text)
