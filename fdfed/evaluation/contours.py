"""Outlines of a foreground, as polygons that can be drawn at any scale."""

from __future__ import annotations

import numpy as np
from contourpy import LineType, contour_generator
from jaxtyping import Float, Shaped

Polygon = Float[np.ndarray, "_ 2"]


def outlines(field: Shaped[np.ndarray, "height width"], *, level: float = 0.5) -> list[Polygon]:
    """Closed polygons, as (x, y), along which `field` crosses `level`.

    Coordinates are those of the picture's plane: pixel (row i, column j) covers the unit square
    with corners (j, i) and (j + 1, i + 1). Outside the picture counts as zero, so that foreground
    at the border is closed there.
    """
    padded = np.pad(field.astype(np.float64), 1)
    # Padding moves each pixel by 1; its value belongs to the centre of its square.
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(level)
    return [np.asarray(line, dtype=np.float64) - 0.5 for line in lines]


def svg_path(polygons: list[Polygon]) -> str:
    """`polygons` as the `d` of an SVG path, to a tenth of a pixel."""
    return "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in polygon) + "Z" for polygon in polygons
    )
