"""`fdfed predict`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdfed.cli.predict import predict
from fdfed.errors import DataError
from fdfed.networks import create_network
from fdfed.training.model_file import ModelHeader, save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = create_network("unet", in_channels=3, width=2, norm="batch", size=32)
    header = ModelHeader(
        network="unet",
        width=2,
        norm="batch",
        in_channels=3,
        size=32,
        taps=network.tap_names,
        phantoms=True,
    )
    path = tmp_path / "model.safetensors"
    save_model(path, network.state_dict(), header)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(folder / name)
    return folder


def test_a_folder_of_images_becomes_masks_overlays_and_a_table(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    predict(model=model, images=images, out=out, device="cpu")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == [
        *("masks/a.png", "masks/b.png", "overlays/a.png", "overlays/b.png", "predictions.csv"),
    ]
    printed = capsys.readouterr().out
    assert "2 of 2 images predicted" in printed
    assert "trained on built-in phantoms" in printed


def test_files_that_cannot_be_read_are_counted_after_the_others_are_done(
    model: Path, images: Path, tmp_path: Path
) -> None:
    (images / "bad.png").write_text("no image")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"(?s)1 of 3 images could not be read.*bad\.png") as err:
        predict(model=model, images=images, out=out, device="cpu")
    assert err.value.exit_code == 3
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + 2


def test_a_threshold_from_the_command_line_goes_before_the_models(
    model: Path, images: Path, tmp_path: Path
) -> None:
    for name, threshold in (("few", 0.999), ("many", 0.001)):
        predict(model=model, images=images, out=tmp_path / name, device="cpu", threshold=threshold)
    for name, level in (("few", 0), ("many", 255)):
        with Image.open(tmp_path / name / "masks" / "a.png") as mask:
            assert mask.getextrema() == (level, level)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, fdfed.cli.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
