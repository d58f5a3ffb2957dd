"""Masks from outlines: closed polygons in the XML of ImageScope, as MoNuSeg distributes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from defusedxml import ElementTree
from jaxtyping import Bool, Float

from fdfed.data.pictures import picture_size
from fdfed.data.unusable import UnusablePicture

_EXPORT: Final = "export the outlines again, as XML of ImageScope, or give a mask as PNG instead"


def filled_outlines(xml: Path, *, image: Path) -> Bool[np.ndarray, "height width"]:
    """True for every pixel whose centre lies inside one of the outlines.

    Coordinates count pixels from the upper left corner of the image, so the centre of the pixel in
    row i and column j is at (j + 1/2, i + 1/2). Outlines may touch and overlap; a region that is
    marked as negative is cut out of the others. Outlines of fewer than three corners, which
    annotators leave behind by a stray click, enclose nothing.

    Args:
        xml: regions with their vertices.
        image: gives the size of the mask.

    Raises:
        UnusablePicture: if the file is not such XML, holds no region, or an outline leaves the
            image by more than its own size.
    """
    height, width = picture_size(image)
    mask = np.zeros((height, width), dtype=bool)
    holes = np.zeros_like(mask)
    for corners, negative in _regions(xml):
        reach = np.array([width, height])
        if not np.isfinite(corners).all() or (abs(corners - reach / 2) > 1.5 * reach).any():
            raise UnusablePicture("has an outline far outside of its image", _EXPORT)
        _fill_(holes if negative else mask, corners)
    return mask & ~holes


def _regions(xml: Path) -> Iterator[tuple[Float[np.ndarray, "corners 2"], bool]]:
    try:
        tree = ElementTree.parse(xml)
        regions = [
            (
                np.array(
                    [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")],
                    dtype=np.float64,
                ).reshape(-1, 2),
                region.attrib.get("NegativeROA", "0") == "1",
            )
            for region in tree.iter("Region")
        ]
    except Exception as err:  # bad XML, a forbidden entity, a missing or broken number
        reason = " ".join(str(err).split()) or type(err).__name__
        raise UnusablePicture(f"cannot be read as outlines ({reason[:160]})", _EXPORT) from err
    if not regions:
        raise UnusablePicture("holds no outline", _EXPORT)
    yield from (region for region in regions if len(region[0]) >= 3)


def _fill_(mask: Bool[np.ndarray, "height width"], corners: Float[np.ndarray, "corners 2"]) -> None:
    """Sets the pixels inside the polygon, within its bounding box."""
    height, width = mask.shape
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, [width, height])
    if right <= left or bottom <= top:
        return
    from matplotlib.path import Path as Polygon  # noqa: PLC0415  slow, and few layouts need it

    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    centres = np.column_stack((columns.ravel(), rows.ravel()))
    inside = Polygon(corners, closed=False).contains_points(centres)
    mask[top:bottom, left:right] |= inside.reshape(rows.shape)
