"""Phantoms are repeatable, pass the checks of real data, differ by site and are not trivial."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fdfed.data import KNOWN_SITES, check_site_folder, write_phantoms
from fdfed.data.phantoms import HistologySpec, UltrasoundSpec, spec_of
from fdfed.data.phantoms.fields import blob, blur, grid, smooth_noise
from fdfed.errors import DataError, InvalidInput


def digest(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stacked(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(grey levels, masks) of all pictures with a foreground."""
    pictures, masks = [], []
    for path in sorted((folder / "images").iterdir()):
        mask = np.asarray(Image.open(folder / "masks" / path.name))
        if mask.any():
            pictures.append(np.asarray(Image.open(path).convert("L")))
            masks.append(mask)
    return np.array(pictures), np.array(masks)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sites")
    for site in (*KNOWN_SITES, "hospital-x"):
        write_phantoms(made, site, images=12, size=64)
    return made


@pytest.mark.parametrize("site", [*KNOWN_SITES, "hospital-x"])
def test_phantoms_pass_the_checks_of_real_data(sites: Path, site: str) -> None:
    report = check_site_folder(sites / site)
    assert report.findings == ()
    assert report.phantoms
    assert len(report.cases) == 12
    with Image.open(report.cases[0].image) as first:
        assert first.mode == ("RGB" if isinstance(spec_of(site), HistologySpec) else "L")


def test_the_same_arguments_give_the_same_files(tmp_path: Path, sites: Path) -> None:
    for site in ("tnbc", "udiat"):
        assert digest(write_phantoms(tmp_path, site, images=12, size=64)) == digest(sites / site)


def test_more_images_begin_with_the_same_ones(tmp_path: Path, sites: Path) -> None:
    few = write_phantoms(tmp_path, "busbra", images=5, size=64)
    for path in (few / "images").iterdir():
        assert path.read_bytes() == (sites / "busbra" / "images" / path.name).read_bytes()


@pytest.mark.parametrize("site", KNOWN_SITES)
def test_no_single_threshold_solves_a_site(sites: Path, site: str) -> None:
    pictures, masks = stacked(sites / site)

    def dice(threshold: int) -> float:
        dark = pictures < threshold
        both = (dark & masks).sum((1, 2))
        return float((2 * both / (dark.sum((1, 2)) + masks.sum((1, 2)))).mean())

    assert max(dice(threshold) for threshold in range(4, 252, 4)) < 0.78


@pytest.mark.parametrize("site", [name for name in KNOWN_SITES if name != "ad"])
def test_targets_are_darker_than_their_surroundings(sites: Path, site: str) -> None:
    pictures, masks = stacked(sites / site)
    assert pictures[masks].mean() < pictures[~masks].mean() - 10


@pytest.mark.parametrize(
    ("one", "other"), [("tnbc", "monuseg"), ("udiat", "us-tnbc"), ("busbra", "busuclm")]
)
def test_sites_of_one_modality_differ_in_their_levels(sites: Path, one: str, other: str) -> None:
    first, second = stacked(sites / one)[0], stacked(sites / other)[0]
    # Mean distance of the sorted levels (first Wasserstein distance), in grey levels.
    quantiles = np.linspace(0.005, 0.995, 200)
    apart = np.abs(np.quantile(first, quantiles) - np.quantile(second, quantiles)).mean()
    assert apart > 10


def test_an_unknown_name_is_an_ultrasound_site_of_its_own() -> None:
    assert isinstance(spec_of("hospital-x"), UltrasoundSpec)
    assert spec_of("hospital-x") == spec_of("hospital-x")
    assert spec_of("hospital-x") != spec_of("hospital-y")


def test_the_marker_tells_what_the_phantoms_are(sites: Path) -> None:
    content = json.loads((sites / "ad" / "PHANTOMS.json").read_text())
    assert (content["site"], content["images"], content["kind"]) == ("ad", 12, "histology")


def test_phantoms_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path, "udiat", images=2, size=32)
    stamp = (folder / "PHANTOMS.json").stat().st_mtime_ns
    write_phantoms(tmp_path, "udiat", images=2, size=32)
    assert (folder / "PHANTOMS.json").stat().st_mtime_ns == stamp


def test_other_arguments_replace_the_phantoms(tmp_path: Path) -> None:
    write_phantoms(tmp_path, "udiat", images=4, size=32)
    folder = write_phantoms(tmp_path, "udiat", images=2, size=40)
    assert len(list((folder / "images").iterdir())) == 2
    assert check_site_folder(folder).usable


def test_an_interrupted_writing_is_begun_anew(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path, "udiat", images=3, size=32)
    (folder / "PHANTOMS.json").unlink()
    (folder / "patients.csv").unlink()
    (folder / "images" / "phantom_0001.png").unlink()
    write_phantoms(tmp_path, "udiat", images=3, size=32)
    assert check_site_folder(folder).usable


@pytest.mark.parametrize("file", ["images/real.png", "patients.csv", "notes.txt"])
def test_patients_files_are_never_overwritten(tmp_path: Path, file: str) -> None:
    path = tmp_path / "udiat" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"is not a phantom.*another folder"):
        write_phantoms(tmp_path, "udiat", images=2, size=32)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(("images", "size"), [(0, 64), (2, 16)])
def test_impossible_phantoms_are_refused(tmp_path: Path, images: int, size: int) -> None:
    with pytest.raises(InvalidInput, match="at least one image"):
        write_phantoms(tmp_path, "udiat", images=images, size=size)


@settings(deadline=None, max_examples=25)
@given(sigma_y=st.floats(0.3, 9), sigma_x=st.floats(0.3, 9), seed=st.integers(0, 1000))
def test_a_blur_keeps_the_mean_roughly_and_never_leaves_the_range(
    sigma_y: float, sigma_x: float, seed: int
) -> None:
    field = np.random.default_rng(seed).random((24, 31))
    smooth = blur(field, (sigma_y, sigma_x))
    assert smooth.shape == field.shape
    # The sampled Gaussian rings by less than a hundredth where it is narrow (σ = 0.3).
    assert field.min() - 0.05 < smooth.min() <= smooth.max() < field.max() + 0.05
    assert abs(smooth.mean() - field.mean()) < 0.1


def test_a_blurred_point_has_the_gaussians_variance() -> None:
    point = np.zeros((65, 65))
    point[32, 32] = 1
    smooth = blur(point, (3.0, 5.0))
    y, x = np.mgrid[-32:33, -32:33]
    assert smooth.sum() == pytest.approx(1, abs=1e-6)
    assert (smooth * y**2).sum() == pytest.approx(9, rel=1e-3)
    assert (smooth * x**2).sum() == pytest.approx(25, rel=1e-3)


def test_smooth_noise_is_standardised() -> None:
    field = smooth_noise(np.random.default_rng(0), 64, 4.0)
    assert field.mean() == pytest.approx(0, abs=1e-12)
    assert field.std() == pytest.approx(1)


def test_a_smooth_blob_is_an_ellipse_of_the_asked_area() -> None:
    depth = blob(
        np.random.default_rng(0),
        grid(400),
        centre=(0.5, 0.5),
        radii=(0.1, 0.2),
        tilt=0.4,
        roughness=0.0,
    )
    # π · 0.1 · 0.2 = 0.0628 of the picture
    assert (depth > 0).mean() == pytest.approx(np.pi * 0.02, rel=0.01)
