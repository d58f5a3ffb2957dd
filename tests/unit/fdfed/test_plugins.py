"""Networks, losses, strategies and layouts of other installed packages, as the page has them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdfed import plugins
from fdfed.config import RunPlan, parse
from fdfed.data import check_site_folder
from fdfed.errors import InvalidInput
from fdfed.losses import create_auxiliary_loss
from fdfed.networks import create_network
from fdfed.strategies import create_strategy
from fdfed.training.initialise import initial_auxiliary, initial_network
from fdfed.training.local_round import LocalRound, train_round_
from fdfed.training.model_file import ModelHeader, load_model, save_model
from fdfed.training.sharing import local_names

ROOT = Path(__file__).parents[3]


def blocks(language: str) -> list[str]:
    """The code of that language in the page that tells how to extend."""
    page = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.M | re.S)


NETWORK, LOSS, STRATEGY, LAYOUT = blocks("python")


def entry_points_of_the_page() -> str:
    lines: list[str] = []
    for block in blocks("toml"):
        groups = tomllib.loads(block).get("project", {}).get("entry-points", {})
        for group, entries in groups.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    return "\n".join(lines)


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package and its metadata on the import path, as an installer would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(package: str, entry_points: str, **modules: str) -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)

    return installed


@pytest.fixture
def two_step(install: Install) -> None:
    install(
        "hospital-networks",
        entry_points_of_the_page() + "\n[fdfed.networks]\nunet = two_step_network:TwoStep",
        two_step_network=NETWORK,
        small_tap_loss=LOSS,
        personal_head_strategy=STRATEGY,
        clinic_layout=LAYOUT,
    )


class Squares:
    """Batches with one bright square."""

    def training_batch(self, global_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.zeros(2, 1, 16, 16)
        mask[:, :, 4:10, 5:11] = 1
        return 0.2 + 0.5 * mask, mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("p", "q")


def test_a_seventh_network_takes_two_files() -> None:
    """A module, and the package's own description, which are the two blocks of the page."""
    description = blocks("toml")[1]
    assert tomllib.loads(description)["project"]["entry-points"] == {
        "fdfed.networks": {"two-step": "two_step_network:TwoStep"}
    }
    assert "two_step_network.py" in description
    assert re.findall(r"^from fdfed\S* import", NETWORK, flags=re.M) == [
        "from fdfed.networks import"
    ]


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": ("a", "b"),
        "network": "two-step",
        "width": 4,
        "in_channels": 1,
        "size": 16,
        "rounds": 2,
        "steps_per_round": 1,
        "loss": "fd",
    }
    return parse(RunPlan, values | changes, source="the test")


@pytest.mark.usefixtures("two_step")
@pytest.mark.parametrize("loss", ["fd", "con", "deeps", "small-tap"])
def test_a_network_of_another_package_trains_a_step_with_every_loss(loss: str) -> None:
    plan = plan_of(loss=loss)
    network = initial_network(plan)
    assert type(network).__name__ == "TwoStep"
    before = {name: t.clone() for name, t in network.state_dict().items()}
    request = LocalRound(
        plan=plan,
        run_id="0" * 16,
        server_round=2,
        attempt=1,
        alpha=torch.full((3,), 0.01).double().numpy() if loss == "fd" else None,
    )
    auxiliary = initial_auxiliary(plan, network)
    outcome = train_round_(network, Squares(), request, auxiliary=auxiliary)
    assert outcome.means.loss_seg() > 0
    assert all(not torch.equal(t, before[name]) for name, t in network.state_dict().items())


@pytest.mark.usefixtures("two_step")
def test_a_model_of_such_a_network_is_written_and_read_where_the_package_is(
    tmp_path: Path,
) -> None:
    network = create_network("two-step", in_channels=1, width=4, norm="group", size=16)
    header = ModelHeader(
        network="two-step", width=4, norm="group", in_channels=1, size=16, taps=network.tap_names
    )
    path = tmp_path / "model.safetensors"
    save_model(path, network.state_dict(), header)
    loaded, _ = load_model(path, torch.device("cpu"))
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(loaded(image), network(image))


@pytest.mark.usefixtures("two_step")
def test_no_package_takes_the_place_of_a_built_in_name() -> None:
    assert type(create_network("unet", in_channels=1, width=4)).__name__ == "UNet"


@pytest.mark.usefixtures("two_step")
def test_nothing_of_a_package_is_imported_before_its_name_is_used() -> None:
    assert "two-step" in plugins.installed("fdfed.networks")
    plan_of(loss="small-tap")
    create_network("unet", in_channels=1, width=4)
    plan_of(strategy="personal-head")
    modules = {"two_step_network", "small_tap_loss", "personal_head_strategy", "clinic_layout"}
    assert not modules & sys.modules.keys()


def test_a_name_that_is_not_installed_is_refused_with_those_that_are(install: Install) -> None:
    install("p", "[fdfed.networks]\nmine = m:N\n\n[fdfed.losses]\nown = m:L")
    with pytest.raises(InvalidInput, match=r"two-step is not known here.*swin-unet, mine; or inst"):
        initial_network(plan_of())
    with pytest.raises(InvalidInput, match=r"loss = small-tap is not known here.*deeps, own; or"):
        plan_of(loss="small-tap")
    with pytest.raises(InvalidInput, match=r"strategy = personal-head is not known here.*pooled; "):
        plan_of(strategy="personal-head")


def test_a_plan_from_the_coordinator_reaches_installed_names_alone() -> None:
    text = plan_of().to_json()
    for loss in ("os:system", "../x", "torch.nn:Module", ""):
        with pytest.raises(InvalidInput, match="loss"):
            RunPlan.from_json(text.replace('"loss":"fd"', f'"loss":"{loss}"'))
    for strategy in ("os:system", "fed+avg", "fedavg2"):
        with pytest.raises(InvalidInput, match="strategy"):
            RunPlan.from_json(text.replace('"strategy":"fdfed"', f'"strategy":"{strategy}"'))
    with pytest.raises(InvalidInput, match="is not known here"):
        create_network("os:system", in_channels=1)


def test_one_name_of_two_packages_is_refused_with_both(install: Install) -> None:
    install("first", "[fdfed.networks]\nmine = two_step_network:TwoStep", two_step_network=NETWORK)
    install("second", "[fdfed.networks]\nmine = another:Network")
    with pytest.raises(InvalidInput, match=r"several packages: first 1\.0, second 1\.0"):
        create_network("mine", in_channels=1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("absent_module:Network", "cannot be imported"),
        ("two_step_network:Absent", "cannot be imported"),
        ("two_step_network:nn", "is no subclass of SegmentationNetwork"),
        ("two_step_network:Tap", "is no subclass of SegmentationNetwork"),
        ("two_step_network:SegmentationNetwork", "has no paper_width"),
    ],
)
def test_an_entry_that_is_no_network_is_refused_with_its_package(
    install: Install, entry: str, message: str
) -> None:
    install("hospital", f"[fdfed.networks]\nmine = {entry}", two_step_network=NETWORK)
    with pytest.raises(InvalidInput, match=message):
        create_network("mine", in_channels=1)


def test_an_entry_that_is_no_loss_is_refused(install: Install) -> None:
    install("hospital", "[fdfed.losses]\nmine = two_step_network:TwoStep", two_step_network=NETWORK)
    with pytest.raises(InvalidInput, match="is no subclass of AuxiliaryLoss"):
        create_auxiliary_loss("mine", {"Enc1": 2})


@pytest.mark.usefixtures("two_step")
def test_a_strategy_of_another_package_decides_what_travels_and_what_the_mean_becomes() -> None:
    network = create_network("two-step", in_channels=1, width=4)
    assert local_names(network, "personal-head") == ("head.weight", "head.bias")
    strategy = create_strategy("personal-head")
    # v = (5 - 4) = 1, then 4 + 1; and v = 0.9 · 1 + (6 - 5) = 1.9, then 5 + 1.9.
    first, memory = strategy.advance({"w": np.full(2, 4.0)}, {"w": np.full(2, 5.0)}, {})
    assert first["w"].tolist() == [5.0, 5.0]
    second, _ = strategy.advance(first, {"w": np.full(2, 6.0)}, memory)
    np.testing.assert_allclose(second["w"], 6.9)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("two_step_network:TwoStep", "is no subclass of Averaging"),
        ("personal_head_strategy:Absent", "cannot be imported"),
    ],
)
def test_an_entry_that_is_no_strategy_is_refused(
    install: Install, entry: str, message: str
) -> None:
    install(
        "hospital",
        f"[fdfed.strategies]\nmine = {entry}",
        two_step_network=NETWORK,
        personal_head_strategy=STRATEGY,
    )
    with pytest.raises(InvalidInput, match=message):
        create_strategy("mine")


def clinic(folder: Path) -> Path:
    """Two patients of two images each, as the layout of the page has them."""
    for number in range(4):
        patient = folder / f"p{number // 2}"
        patient.mkdir(parents=True, exist_ok=True)
        levels = np.full((8, 8), 40 * number, dtype=np.uint8)
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[2:4, 2:4] = 255
        Image.fromarray(levels).save(patient / f"{number}.png")
        Image.fromarray(mask).save(patient / f"{number}_lesion.png")
    return folder


@pytest.mark.usefixtures("two_step")
@pytest.mark.parametrize("named", [True, False])
def test_a_layout_of_another_package_is_found_by_the_folders_name_or_by_its_file(
    tmp_path: Path, named: bool
) -> None:
    folder = clinic(tmp_path / ("clinic" if named else "site"))
    if not named:
        assert not check_site_folder(folder).usable
        (folder / "layout.txt").write_text("clinic\n")
    report = check_site_folder(folder)
    assert report.findings == ()
    assert report.patients_known
    assert [(case.name, case.patient) for case in report.cases] == [
        ("p0-0", "p0"),
        ("p0-1", "p0"),
        ("p1-2", "p1"),
        ("p1-3", "p1"),
    ]
    (folder / "p1" / "3_lesion.png").unlink()
    (finding,) = check_site_folder(folder).findings
    assert (finding.file, finding.reason) == ("p1/3.png", "has no mask")


@pytest.mark.usefixtures("two_step")
def test_what_is_wrong_with_pictures_of_another_layout_is_found_as_in_any(tmp_path: Path) -> None:
    folder = clinic(tmp_path / "clinic")
    shutil.copy(folder / "p0" / "0.png", folder / "p1" / "2.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(
        folder / "p0" / "1_lesion.png"
    )
    found = {finding.file: finding.reason for finding in check_site_folder(folder).findings}
    assert "has 64 levels" in found["p0/1_lesion.png"]
    assert "same pixels as p0/0.png of another patient" in found["p1/2.png"]


def test_an_unknown_layout_is_a_finding_that_names_the_known_ones(
    tmp_path: Path, install: Install
) -> None:
    install("hospital", "[fdfed.datasets]\nmine = clinic_layout:read", clinic_layout=LAYOUT)
    (tmp_path / "layout.txt").write_text("os:system")
    (finding,) = check_site_folder(tmp_path).findings
    assert finding.file == "layout.txt"
    assert "layout = os:system is not known here; use one of: folder" in finding.remedy
    assert "mine; or install the package that offers it, at this site" in finding.remedy


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("clinic_layout:Listing", "is no function"),
        ("clinic_layout:__doc__", "is no function"),
        ("builtins:str", "is no function"),
        ("pathlib:Path.exists", "returned bool; it must return"),
    ],
)
def test_an_entry_that_is_no_reader_of_a_layout_is_refused(
    tmp_path: Path, install: Install, entry: str, message: str
) -> None:
    install("hospital", f"[fdfed.datasets]\nmine = {entry}", clinic_layout=LAYOUT)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInput, match=message):
        check_site_folder(tmp_path / "mine")


def test_a_layout_without_an_image_or_with_one_name_twice_is_a_finding(
    tmp_path: Path, install: Install
) -> None:
    twice = LAYOUT.replace('f"{patient}-{image.stem}"', '"same"')
    install("hospital", "[fdfed.datasets]\nmine = clinic_layout:read", clinic_layout=twice)
    (tmp_path / "mine").mkdir()
    (finding,) = check_site_folder(tmp_path / "mine").findings
    assert "holds no image in the layout mine" in finding.reason
    clinic(tmp_path / "mine")
    (finding,) = check_site_folder(tmp_path / "mine").findings
    assert finding.reason == "gives 4 images the name same"


def test_the_commands_find_what_is_installed(tmp_path: Path, install: Install) -> None:
    install("hospital", "[fdfed.networks]\ntwo-step = two_step_network:TwoStep")
    (tmp_path / "two_step_network.py").write_text(NETWORK)
    script = (
        "from fdfed.networks import create_network;"
        "print(type(create_network('two-step', in_channels=3)).__name__)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "TwoStep"
