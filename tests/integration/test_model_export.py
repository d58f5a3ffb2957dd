"""A trained model gives the same masks in other programs: ONNX Runtime and MONAI's bundles.

Here and not among the unit tests, for the reason that `test_exported_networks.py` gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from PIL import Image
from torch import Tensor, nn

from fdfed.cli.export import export
from fdfed.cli.predict import predict
from fdfed.data import load_image
from fdfed.data.phantoms import write_phantoms
from fdfed.errors import InvalidInput
from fdfed.export import TOLERANCE, write_onnx
from fdfed.networks import NETWORK_NAMES, SegmentationNetwork, create_network
from fdfed.networks.base import Tap, TapSink
from fdfed.training.model_file import ModelHeader, load_model, save_model

SMALL: Final = {
    "unet": (2, 32),
    "attention-unet": (2, 16),
    "nucleisegnet": (2, 32),
    "cmunet": (2, 32),
    "transunet": (4, 32),
    "swin-unet": (8, 64),
}
"""Width and side that keep tracing quick."""
SPECIFIED: Final = (
    *("version", "monai_version", "pytorch_version", "numpy_version", "task", "description"),
    *("required_packages_version", "authors", "copyright", "network_data_format"),
)
"""Keys that MONAI's specification of `metadata.json` demands."""


def model_file(folder: Path, name: str = "unet", *, crop: int | None = None) -> Path:
    torch.manual_seed(4)
    width, size = SMALL[name]
    network = create_network(name, in_channels=3, width=width, size=crop or size)
    with torch.no_grad():  # a network that was never trained is all but constant
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    header = ModelHeader(
        network=name,
        width=width,
        norm="batch",
        in_channels=3,
        size=size,
        crop=crop,
        taps=network.tap_names,
        phantoms=True,
    )
    path = folder / "model.safetensors"
    save_model(path, network.state_dict(), header)
    return path


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough] * (name != "unet"))
        for name in NETWORK_NAMES
        if name != "swin-unet"
    ],
)
def test_onnx_runtime_gives_the_logits_of_the_network_for_batches_of_any_size(
    tmp_path: Path, name: str
) -> None:
    model, out = model_file(tmp_path, name), tmp_path / "model.onnx"
    export(model=model, to="onnx", out=out)
    network, header = load_model(model, torch.device("cpu"))
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    kept = session.get_modelmeta().custom_metadata_map["fdfed"]
    assert ModelHeader.model_validate_json(kept) == header
    size = SMALL[name][1]
    for shape in [(5, size, size)] + [(2, 3 * size, size)] * (network.fixed_size is None):
        image = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            own = network(image)
        (theirs,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), own, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.thorough
def test_swin_unet_is_refused_since_its_attention_over_windows_has_no_onnx_form(
    tmp_path: Path,
) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(InvalidInput, match="swin-unet cannot be exported to ONNX: "):
        export(model=model_file(tmp_path, "swin-unet"), to="onnx", out=out)
    assert not out.exists()


class ByItsPixels(SegmentationNetwork):
    """Asks what the pixels are before it decides what to compute."""

    paper_width = 1

    def __init__(self) -> None:
        taps = {"Bot": Tap(1, 1)}
        super().__init__(in_channels=3, norm="group", taps=taps, size_multiple=1, size=None)
        self.conv = nn.Conv2d(3, 1, 1)

    def _forward(self, image: Tensor, taps: TapSink) -> Tensor:
        logits = self.conv(image)
        taps["Bot"] = logits
        return logits if image.mean().item() > 0.5 else -logits


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    header = ModelHeader(network="own", norm="group", in_channels=3, size=16, taps=("Bot",))
    with pytest.raises(InvalidInput, match=r"own cannot be exported to ONNX: .*data-dependent"):
        write_onnx(tmp_path / "own.onnx", ByItsPixels(), header)
    assert not list(tmp_path.iterdir())


def bundle(tmp_path: Path, *, crop: int | None) -> tuple[Path, Path]:
    model, folder = model_file(tmp_path, crop=crop), tmp_path / "bundle"
    export(model=model, to="bundle", out=folder)
    return model, folder


@pytest.mark.parametrize("crop", [None, 32], ids=["resized", "native"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_monai_runs_the_bundle_and_writes_the_masks_of_predict(
    tmp_path: Path, crop: int | None
) -> None:
    model, folder = bundle(tmp_path, crop=crop)
    images = write_phantoms(tmp_path, "tnbc", images=2, size=40) / "images"
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "by-monai"),
        device="$torch.device('cpu')",
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    predict(model=model, images=images, out=tmp_path / "by-fdfed", device="cpu")
    masks = sorted((tmp_path / "by-fdfed" / "masks").iterdir())
    assert len(masks) == 2
    levels = set()
    for path in masks:
        with Image.open(path) as own, Image.open(tmp_path / "by-monai" / path.name) as theirs:
            np.testing.assert_array_equal(np.asarray(theirs), np.asarray(own))
            levels |= set(np.unique(np.asarray(own)).tolist())
    assert levels == {0, 255}


@pytest.mark.parametrize("crop", [None, 32], ids=["resized", "native"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_network_takes_and_gives_what_the_metadata_of_the_bundle_says(
    tmp_path: Path, crop: int | None
) -> None:
    _, folder = bundle(tmp_path, crop=crop)
    metadata, config = folder / "configs" / "metadata.json", folder / "configs" / "inference.json"
    said = json.loads(metadata.read_text())
    assert not [key for key in SPECIFIED if not said.get(key)]
    assert said["network_data_format"]["inputs"]["image"]["spatial_shape"] == (
        ["16*n", "16*n"] if crop else [32, 32]
    )
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(metadata),
        config_file=str(config),
        device="cpu",
        n=2,
        bundle_root=str(folder),
    )


def test_the_network_of_the_bundle_gives_the_logits_of_the_model_file(tmp_path: Path) -> None:
    model, folder = bundle(tmp_path, crop=None)
    images = write_phantoms(tmp_path, "tnbc", images=1, size=40) / "images"
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"], parser["device"] = str(folder), "$torch.device('cpu')"
    theirs = parser.get_parsed_content("network_def")
    own, header = load_model(model, torch.device("cpu"))
    image = load_image(next(images.iterdir()), size=header.size, in_channels=3)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), own(image), rtol=0, atol=0)


def test_a_bundle_says_that_it_was_trained_on_phantoms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = bundle(tmp_path, crop=None)
    warning = "mean nothing on medical images"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert warning in capsys.readouterr().out
    assert warning in metadata["intended_use"]
    assert warning in (folder / "docs" / "README.md").read_text()


@pytest.mark.parametrize("to", ["onnx", "bundle"])
def test_nothing_that_exists_is_overwritten(tmp_path: Path, to: str) -> None:
    model = model_file(tmp_path)
    with pytest.raises(InvalidInput, match="exists already"):
        export(model=model, to=to, out=model if to == "onnx" else tmp_path)  # type: ignore[arg-type]
