"""What training does on a GPU, held to what it does on the CPU.

The CPU is among the devices, so that the comparisons themselves are known to work where there is no
GPU; where there is one, `pytest tests/gpu` says in a minute whether this machine's drivers, PyTorch
and this code fit together.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.data import write_phantoms
from fdfed.losses import feature_discrepancy_loss, segmentation_loss
from fdfed.networks import create_network
from fdfed.prototypes import masked_prototypes
from fdfed.simulation import open_sites, simulate_sites
from fdfed.training.batches import on_device
from fdfed.training.device import resolve_device
from fdfed_server.outputs import MODEL
from fdfed_server.run_state import load_state

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
SITES = ("alpha", "beta")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for site in SITES:
        write_phantoms(folder, site, images=12, size=32)
    return folder


def plan_of(**changes: object) -> RunPlan:
    values: dict[str, object] = {
        "sites": list(SITES),
        "width": 4,
        "size": 32,
        "rounds": 4,
        "steps_per_round": 2,
        "batch_size": 4,
        "min_count": 1,
        "phantoms": True,
        # Plain steps: AdamW makes whole steps of a gradient's rounding errors.
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "norm": "group",
    }
    return RunPlan.model_validate(values | changes)


def trained(plan: RunPlan, data: Path, out: Path, device: torch.device) -> dict[str, Tensor]:
    """The common weights after the last round."""
    results = simulate_sites(plan, open_sites(plan, data), out=out, device=device, report=False)
    assert results.rounds[-1].round == plan.rounds
    assert results.exchange.steps > 0, "phase 2 has exchanged prototypes"
    state = load_state(out / "state" / "run")
    assert state is not None
    return {name: torch.from_numpy(value) for name, value in state.model.weights.items()}


def test_a_federation_comes_to_the_weights_that_the_cpu_comes_to(
    data: Path, device: torch.device, tmp_path: Path
) -> None:
    # In fp64, and without a choice between rounds that score alike: what is left is one formula
    # computed twice.
    plan = plan_of(precision="fp64", phase_2_start="last")
    here = trained(plan, data, tmp_path / "here", device)
    there = trained(plan, data, tmp_path / "there", torch.device("cpu"))
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("precision", ["fp32", "amp", "auto"])
def test_a_federation_trains_in_every_precision(
    data: Path, device: torch.device, precision: str, tmp_path: Path
) -> None:
    weights = trained(plan_of(precision=precision), data, tmp_path, device)
    assert all(value.isfinite().all() for value in weights.values())
    assert load_file(tmp_path / MODEL).keys() == weights.keys()


@GPU
def test_fp32_on_a_gpu_is_not_rounded_to_tf32() -> None:
    device = resolve_device("cuda")
    rng = torch.Generator().manual_seed(0)
    image, kernel = (
        torch.randn(shape, generator=rng) for shape in ((2, 64, 32, 32), (64, 64, 3, 3))
    )
    exact = torch.nn.functional.conv2d(image.double(), kernel.double())
    found = torch.nn.functional.conv2d(image.to(device), kernel.to(device)).cpu().double()
    # TF32 has 10 bits behind the point: its error is about 3e-4, that of fp32 below 1e-6.
    assert (found - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("bound", ["none", "normalise"])
def test_losses_and_their_gradients_are_those_of_the_cpu(device: torch.device, bound: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    mask = (torch.rand(2, 1, 32, 32) > 0.5).double()
    found: list[list[Tensor]] = []
    for where in (device, torch.device("cpu")):
        torch.manual_seed(1)
        network = create_network("unet", in_channels=1, width=4, norm="group").double().to(where)
        logits, taps = network.forward_with_taps(image.to(where))
        loss = segmentation_loss(logits, mask.to(where))
        for features in taps.values():
            foreground, background, valid = masked_prototypes(features, mask.to(where))
            loss = loss + feature_discrepancy_loss(foreground, background, valid, bound=bound)
        loss.backward()
        gradients = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
        assert len(gradients) == len(list(network.parameters()))
        found.append([loss.detach().cpu(), *gradients])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


def test_batches_arrive_whole_and_in_order(device: torch.device) -> None:
    def make(step: int) -> tuple[Tensor, Tensor]:
        return torch.full((8, 3, 64, 64), float(step)), torch.full((8, 1, 64, 64), step % 2)

    # Read when all are there: a copy that was not waited for would show.
    sums = [
        (image.sum(), mask.sum())
        for image, mask in on_device(make, range(6), device=device, dtype=torch.float32)
    ]
    for step, (image, mask) in enumerate(sums):
        assert (image.device.type, mask.device.type) == (device.type, device.type)
        assert math.isclose(image.item(), step * 8 * 3 * 64 * 64)
        assert math.isclose(mask.item(), (step % 2) * 8 * 64 * 64)
