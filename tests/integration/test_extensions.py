"""A package as `docs/EXTENDING.md` has it, with everything that one can add, in one federation."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import safetensors.numpy
import torch

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.simulation import Progress, simulate
from fdfed.training.model_file import load_model, read_header
from fdfed_server.observer import Observer

PAGE = Path(__file__).parents[2] / "docs" / "EXTENDING.md"
MODULES = ("two_step_network", "small_tap_loss", "personal_head_strategy", "clinic_layout")
ENTRY_POINTS = """
[fdfed.networks]
two-step = two_step_network:TwoStep
[fdfed.losses]
small-tap = small_tap_loss:SmallTap
[fdfed.strategies]
personal-head = personal_head_strategy:PersonalHead
[fdfed.datasets]
clinic = clinic_layout:read
"""
SITES = ("north", "south")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    info = folder / "hospital-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hospital\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    text = PAGE.read_text(encoding="utf-8")
    sources = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    for name, source in zip(MODULES, sources, strict=True):
        (folder / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def clinics(tmp_path: Path) -> Path:
    """Phantoms of two sites, moved into the layout of the page."""
    for site in SITES:
        made = write_phantoms(tmp_path / "made", site, images=14, size=32)
        for image in sorted((made / "images").iterdir()):
            patient = tmp_path / "data" / site / image.stem.split("-")[0]
            patient.mkdir(parents=True, exist_ok=True)
            shutil.move(made / "masks" / image.name, patient / f"{image.stem}_lesion.png")
            shutil.move(image, patient / image.name)
        (tmp_path / "data" / site / "layout.txt").write_text("clinic")
    return tmp_path / "data"


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(SITES),
        "network": "two-step",
        "loss": "small-tap",
        "strategy": "personal-head",
        "width": 2,
        "size": 16,
        "rounds": 4,
        "steps_per_round": 1,
        "batch_size": 2,
        "min_count": 1,
    }
    return RunPlan.model_validate(values | changes)


class InterruptedAfterTwo(Observer):
    def round_finished(self, record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt


def weights(out: Path) -> dict[str, dict[str, bytes]]:
    files = ("model", *(f"models/{site}" for site in SITES))
    return {
        file: {
            name: value.tobytes()
            for name, value in safetensors.numpy.load_file(out / f"{file}.safetensors").items()
        }
        for file in files
    }


@pytest.mark.usefixtures("package")
def test_a_federation_of_an_installed_packages_parts_trains_and_goes_on_after_a_stop(
    tmp_path: Path, clinics: Path
) -> None:
    with mock.patch("fdfed.simulation.run.write_report"):
        simulate(plan_of(), data=clinics, out=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            simulate(
                plan_of(),
                data=clinics,
                out=tmp_path / "stopped",
                progress=Progress(observer=InterruptedAfterTwo()),
            )
        simulate(plan_of(), data=clinics, out=tmp_path / "stopped")
    whole = weights(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == whole
    # The heads stayed at the sites and were trained there; everything else is common.
    north, south = (whole[f"models/{site}"] for site in SITES)
    differing = {name for name in north if north[name] != south[name]}
    assert differing == {"head.weight", "head.bias"}
    _, header = load_model(tmp_path / "whole" / "models" / "north.safetensors", torch.device("cpu"))
    assert set(header.dice) == {"north"}
    # No site scored the common weights with the initial head that the common file has.
    assert not read_header(tmp_path / "whole" / "model.safetensors").dice
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert results["config"]["strategy"] == "personal-head"
    # 14 images are split 10, 1 and 3.
    assert {name: site["n_train"] for name, site in results["sites"].items()} == {
        "north": 10,
        "south": 10,
    }


@pytest.mark.usefixtures("package")
def test_a_strategy_that_shares_nothing_is_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import personal_head_strategy

    monkeypatch.setattr(
        personal_head_strategy.PersonalHead, "_kept", lambda _, network: list(network.state_dict())
    )
    with pytest.raises(InvalidInput, match="use strategy = local"):
        simulate(plan_of(), data=tmp_path / "absent", out=tmp_path / "out")
