"""Files of images and masks, matched by a key that both give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from fdfed.data.cases import Finding

_LEFT_BY_ARCHIVERS: Final = "__MACOSX"


def files_below(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files at any depth with one of the suffixes (in small letters), in the order of their paths;
    without those that file managers and archivers leave behind."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == _LEFT_BY_ARCHIVERS for part in parts):
            continue
        if path.suffix.lower() in suffixes and path.is_file():
            yield path


def matched(
    folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path], *, mask_is: str
) -> tuple[list[str], list[Finding]]:
    """The keys that image and mask share, sorted, and a finding for every file that is alone.

    Args:
        mask_is: what the mask of an image is called in this layout, such as `GT_01/01_1.png`.
    """
    findings = [
        Finding(
            images[key].relative_to(folder).as_posix(),
            "has no mask",
            f"add its mask ({mask_is}), or remove the image",
        )
        for key in sorted(images.keys() - masks.keys())
    ]
    findings += [
        Finding(
            masks[key].relative_to(folder).as_posix(),
            "belongs to no image",
            f"add its image (a mask is called {mask_is}), or remove the mask",
        )
        for key in sorted(masks.keys() - images.keys())
    ]
    return sorted(images.keys() & masks.keys()), findings
