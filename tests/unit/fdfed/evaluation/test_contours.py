"""Outlines of masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.evaluation.contours import Polygon, outlines, svg_path


def area(polygon: Polygon) -> float:
    """Enclosed area by the shoelace formula, signed by direction."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def test_a_single_pixel_is_outlined_by_a_diamond_around_its_centre() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True  # its square has corners (2, 1) and (3, 2), its centre is (2.5, 1.5)
    (polygon,) = outlines(mask)
    assert {tuple(point) for point in polygon.tolist()} == {
        *((2.0, 1.5), (3.0, 1.5), (2.5, 1.0), (2.5, 2.0)),
    }


def test_foreground_at_the_border_is_closed_along_it() -> None:
    (polygon,) = outlines(np.ones((3, 5), dtype=bool))
    assert polygon[0].tolist() == polygon[-1].tolist()
    assert polygon.min(axis=0).tolist() == [0, 0]
    assert polygon.max(axis=0).tolist() == [5, 3]


@settings(deadline=None, max_examples=25)
@given(
    top=st.integers(0, 4), left=st.integers(0, 4), height=st.integers(1, 6), width=st.integers(1, 6)
)
def test_a_rectangles_outline_cuts_half_a_pixel_off_each_corner_pixels_square(
    top: int, left: int, height: int, width: int
) -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[top : top + height, left : left + width] = True
    (polygon,) = outlines(mask)
    # Each of the four corners loses a triangle with two sides of half a pixel.
    assert abs(area(polygon)) == pytest.approx(height * width - 4 * 0.5**3)


def test_a_hole_has_an_outline_of_its_own() -> None:
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    assert len(outlines(mask)) == 2


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4))) == []
    assert svg_path([]) == ""


def test_an_svg_path_is_closed_and_rounded_to_a_tenth() -> None:
    triangle = np.array([[0.0, 0.0], [1.04, 0.0], [0.0, 2.0]])
    assert svg_path([triangle]) == "M0.0 0.0L1.0 0.0L0.0 2.0Z"
