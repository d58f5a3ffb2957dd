"""Small folders of images for the tests of `fdfed.data`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdfed.data import write_phantoms

REPOSITORY = Path(__file__).resolve().parents[4]
PUBLIC_SITES = ("tnbc", "monuseg", "busbra", "busuclm")

WriteCase = Callable[..., None]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the four public sites: real images where they exist, else phantoms."""
    for candidate in (os.environ.get("FDFED_DATA"), REPOSITORY.parent / "shared" / "data"):
        if candidate and Path(candidate, PUBLIC_SITES[0], "images").is_dir():
            return Path(candidate)
    made = tmp_path_factory.mktemp("data")
    for site in PUBLIC_SITES:
        write_phantoms(made, site, images=30, size=64)
    return made


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small phantom sites."""
    made = tmp_path_factory.mktemp("phantoms")
    write_phantoms(made, "tnbc", images=13, size=32, seed=3)
    write_phantoms(made, "busuclm", images=20, size=48, seed=1)
    return made


def picture(number: int, *, height: int = 12, width: int = 10) -> np.ndarray:
    """A grey picture that differs from that of every other number."""
    return np.random.default_rng(number).integers(0, 256, (height, width), dtype=np.uint8)


def square_mask(*, height: int = 12, width: int = 10) -> np.ndarray:
    """0/255, foreground in rows 3 to 5 and columns 2 to 4."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[3:6, 2:5] = 255
    return mask


@pytest.fixture
def write_case() -> WriteCase:
    """Function that writes one image and its mask into a site's folder."""

    def write(
        folder: Path,
        stem: str,
        *,
        image: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        suffix: str = ".png",
    ) -> None:
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        number = sum(map(ord, stem))
        image = picture(number) if image is None else image
        mask = square_mask() if mask is None else mask
        Image.fromarray(image).save(folder / "images" / f"{stem}{suffix}")
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")

    return write


@pytest.fixture
def site_folder(tmp_path: Path, write_case: WriteCase) -> Path:
    """A sound site of ten images without patients.csv."""
    folder = tmp_path / "site"
    for letter in "abcdefghij":
        write_case(folder, letter)
    return folder
