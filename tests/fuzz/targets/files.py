"""Files: plans and settings, models, states, pictures and patient lists."""

from __future__ import annotations

import json
import struct

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image

from fdfed.config import RunPlan
from fdfed.data.dicom import dicom_patient, pixel_spacing
from fdfed.data.outlines import filled_outlines
from fdfed.data.patients import read_patients
from fdfed.data.phantoms.marker import MARKER, read_marker
from fdfed.data.pictures import picture_size, read_image, read_mask
from fdfed.data.unusable import UnusablePicture
from fdfed.errors import InvalidInput
from fdfed.evaluation.results_files import load_per_image, load_results
from fdfed.networks import create_network
from fdfed.training.model_file import ModelHeader, load_model
from fdfed.training.site_state import SiteStore
from fdfed_client.config import SiteConfig
from fdfed_server.config import FederationConfig
from fdfed_server.run_state import load_state
from fdfed_server.status import read_status
from tests.fuzz.parties import PLAN, RUN
from tests.fuzz.target import CORPUS, JsonPart, Target, scratch


def plan(data: bytes) -> None:
    """A run plan as it comes in a message."""
    found = RunPlan.from_json(data.decode("utf-8", errors="surrogatepass"))
    assert RunPlan.from_json(found.to_json()) == found
    assert found.phase(found.rounds) in (1, 2)
    assert 0 <= found.quorum_of(len(found.sites)) <= max(1, len(found.sites))


def settings(data: bytes) -> None:
    """`site.toml`, and `federation.toml` where it is none."""
    with scratch() as folder:
        path = folder / "settings.toml"
        path.write_bytes(data)
        try:
            assert SiteConfig.load(path).site
        except InvalidInput:
            assert FederationConfig.load(path).server.hosts


def model(data: bytes) -> None:
    """`model.safetensors`: header and weights."""
    with scratch() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(data)
        network, header = load_model(path, torch.device("cpu"))
    assert tuple(network.tap_names) == header.taps


def model_bytes(header: str) -> bytes:
    """A model file with `header` in place of a valid one."""
    network = create_network("unet", in_channels=1, width=1, norm="group", size=32)
    tensors = {name: torch.zeros_like(t) for name, t in network.state_dict().items()}
    text = header.encode("utf-8", errors="replace").decode()  # the format takes nothing else
    return safetensors.torch.save(tensors, metadata={"fdfed": text})


def _model_header() -> str:
    network = create_network("unet", in_channels=1, width=1, norm="group", size=32)
    header = ModelHeader(
        network="unet", width=1, norm="group", in_channels=1, size=32, taps=network.tap_names
    )
    return header.model_dump_json()


def _around_tensors(head: str) -> bytes:
    encoded = head.encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + bytes(64)


def site_state(data: bytes) -> None:
    """A record of a site's state."""
    with scratch() as folder:
        (folder / RUN).mkdir()
        (folder / RUN / "round-000001.safetensors").write_bytes(data)
        record = SiteStore(folder).load(RUN, 1)
    assert record is not None
    assert record.phase in (1, 2)


def run_state(data: bytes) -> None:
    """`state.json` (a line), and the one file of tensors that model and best model name."""
    text, _, tensors = data.partition(b"\n")
    with scratch() as folder:
        (folder / "state.json").write_bytes(text)
        (folder / "t").write_bytes(tensors or _state_tensors())
        state = load_state(folder)
    assert state is not None
    assert state.model.alpha.dtype == np.float64


def _state_tensors() -> bytes:
    return safetensors.numpy.save({"alpha": np.zeros(2), "weights.w": np.zeros(3, np.float32)})


def status(data: bytes) -> None:
    """`status.json`."""
    with scratch() as folder:
        (folder / "status.json").write_bytes(data)
        assert read_status(folder).ended in (True, False)


def results(data: bytes) -> None:
    """`results.json`."""
    with scratch() as folder:
        path = folder / "results.json"
        path.write_bytes(data)
        assert load_results(path).rounds is not None
        load_per_image(path)


def marker(data: bytes) -> None:
    """The mark of a folder of phantoms; whatever it is not is no mark."""
    with scratch() as folder:
        (folder / MARKER).write_bytes(data)
        read_marker(folder)


def picture(data: bytes) -> None:
    """An image or a mask."""
    with scratch() as folder:
        path = folder / "picture"
        path.write_bytes(data)
        height, width = picture_size(path)
        try:
            mask = read_mask(path)
        except UnusablePicture:
            image = read_image(path)
            assert image.shape[:2] == (height, width)
            assert image.dtype == np.float32
            assert 0 <= image.min() <= image.max() <= 1
            return
    assert mask.shape == (height, width)
    assert mask.dtype == np.bool_


def dicom(data: bytes) -> None:
    """A DICOM file: its picture, its mask, and what its header says."""
    with scratch() as folder:
        path = folder / "picture.dcm"
        path.write_bytes(data)
        assert dicom_patient(path) != ""
        height, width = picture_size(path)
        spacing = pixel_spacing(path)
        assert spacing is None or len(spacing) == 2
        try:
            assert read_mask(path).shape == (height, width)
        except UnusablePicture:
            image = read_image(path)
            assert image.shape[:2] == (height, width)
            assert 0 <= image.min() <= image.max() <= 1


def outlines(data: bytes) -> None:
    """Outlines of nuclei in XML."""
    with scratch() as folder:
        (folder / "a.xml").write_bytes(data)
        Image.new("L", (9, 7)).save(folder / "a.png")
        mask = filled_outlines(folder / "a.xml", image=folder / "a.png")
    assert mask.shape == (7, 9)


def patients(data: bytes) -> None:
    """`patients.csv`: rows, or findings that say what is wrong with them."""
    names = {"a": "a.png", "b": "b.png"}
    with scratch() as folder:
        (folder / "patients.csv").write_bytes(data)
        rows, findings = read_patients(folder, names, names)
    assert rows or findings
    assert all(row.patient for row in rows.values())


_STATE = (CORPUS / "run-state" / "state").read_bytes().partition(b"\n")[0].decode()
_JSON = "fdfed/files/strict_json.py"
_STATUS = (CORPUS / "status" / "status").read_text()
_RESULTS = (CORPUS / "results" / "results").read_text()
_TENSORS = json.dumps(
    {
        "__metadata__": {"phase": "1"},
        "local.a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
        "optimizer.b": {"dtype": "I64", "shape": [4], "data_offsets": [32, 64]},
    }
)
_BAD = (InvalidInput,)

TARGETS = (
    Target(
        "plan",
        plan,
        (InvalidInput, UnicodeDecodeError),
        ("fdfed/config/run_plan.py", "fdfed/config/reading.py", _JSON),
        (JsonPart(PLAN.to_json()),),
    ),
    Target(
        "settings",
        settings,
        _BAD,
        ("fdfed/config/run_plan.py", "fdfed/config/reading.py", "client/fdfed_client/config.py"),
    ),
    Target(
        "model-file",
        model,
        _BAD,
        ("fdfed/training/model_file.py",),
        (JsonPart(_model_header(), model_bytes), JsonPart(_TENSORS, _around_tensors)),
        max_bytes=65536,
        cost=5,
    ),
    Target(
        "site-state",
        site_state,
        _BAD,
        ("fdfed/training/site_state.py",),
        (JsonPart(_TENSORS, _around_tensors),),
    ),
    Target(
        "run-state", run_state, _BAD, ("server/fdfed_server/run_state.py",), (JsonPart(_STATE),)
    ),
    Target("status", status, _BAD, ("server/fdfed_server/status.py",), (JsonPart(_STATUS),)),
    Target(
        "results",
        results,
        _BAD,
        ("fdfed/evaluation/results_files.py", _JSON),
        (JsonPart(_RESULTS),),
    ),
    Target("marker", marker, (), ("fdfed/data/phantoms/marker.py",), (JsonPart('{"seed": 1}'),)),
    Target("picture", picture, (UnusablePicture,), ("fdfed/data/pictures.py",)),
    Target("dicom", dicom, (UnusablePicture,), ("fdfed/data/dicom.py",), cost=2),
    Target("outlines", outlines, (UnusablePicture,), ("fdfed/data/outlines.py",)),
    Target("patients", patients, (), ("fdfed/data/patients.py",)),
)
