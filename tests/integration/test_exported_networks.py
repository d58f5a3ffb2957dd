"""What `docs/METHOD.md` says of `torch.export` and `torch.compile` holds for every network.

Here and not among the unit tests, which run a second time with every annotation checked: a network
that is traced must be as it is deployed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import torch
from torch import Tensor, nn

from fdfed.errors import InvalidInput
from fdfed.networks import NETWORK_NAMES, SegmentationNetwork, create_network

PAGE = Path(__file__).parents[2] / "docs" / "METHOD.md"

SMALL: Final = {
    "unet": (2, 32),
    "attention-unet": (2, 16),
    "nucleisegnet": (2, 32),
    "cmunet": (2, 32),
    "transunet": (4, 32),
    "swin-unet": (8, 64),
}
"""Width and side that keep tracing quick."""

NAMES: Final = [
    pytest.param(name, marks=[pytest.mark.thorough] * (name != "unet")) for name in NETWORK_NAMES
]
"""The others when there is time."""
FIXED: Final = ("transunet", "swin-unet")
"""Networks whose weights fit one size of images."""


def small(name: str) -> SegmentationNetwork:
    torch.manual_seed(3)
    width, size = SMALL[name]
    return create_network(name, in_channels=3, width=width, size=size)


def images(name: str, *, batch: int = 2, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, SMALL[name][1], SMALL[name][1], generator=rng)


def with_taps(network: SegmentationNetwork) -> nn.Module:
    """The module that the page shows, made by the page's own code."""
    (block,) = (
        block
        for block in re.findall(
            r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        if "torch.export" in block
    )
    names = {"network": network, "image": torch.rand(2, 3, 32, 32)}
    definition = block[: block.index("program = ")]
    exec(compile(definition, str(PAGE), "exec"), names)  # noqa: S102
    module = names["WithTaps"](network)  # type: ignore[operator]
    assert isinstance(module, nn.Module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_program_gives_the_logits_of_other_batches_and_sizes(name: str) -> None:
    network, side = small(name).eval(), SMALL[name][1]
    free = {0: torch.export.Dim("batch")}
    if name not in FIXED:
        free |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network, (images(name),), dynamic_shapes={"image": free})
    other = torch.rand(3, 3, 2 * side, 3 * side)
    seen = [images(name, batch=1), images(name, batch=3)] + [other] * (name not in FIXED)
    with torch.no_grad():
        for image in seen:
            torch.testing.assert_close(program.module()(image), network(image))
    if name in FIXED:
        with pytest.raises(AssertionError, match="Guard failed"):
            program.module()(other)
        with pytest.raises(InvalidInput, match="its weights fit"):
            network(other)


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_program_gives_every_tap(name: str) -> None:
    module = with_taps(small(name).eval())
    program = torch.export.export(module, (images(name),))
    image = images(name, seed=7)
    with torch.no_grad():
        logits, taps = program.module()(image)
        expected, known = module(image)
    torch.testing.assert_close(logits, expected)
    assert list(taps) == list(known)
    for tap, features in known.items():
        torch.testing.assert_close(taps[tap], features)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_training_step_is_one_graph_with_the_gradients_of_the_plain_one(
    name: str,
) -> None:
    torch.compiler.reset()
    plain, traced = small(name).double(), small(name).double()
    step = torch.compile(traced.forward_with_taps, backend="aot_eager", fullgraph=True)
    image = images(name).double()
    for network, forward in ((plain, plain.forward_with_taps), (traced, step)):
        torch.manual_seed(5)  # dropout
        logits, taps = forward(image)
        (logits.square().mean() + sum(f.square().mean() for f in taps.values())).backward()
        assert tuple(taps) == network.tap_names
    expected = dict(plain.named_parameters())
    for key, parameter in traced.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-8, atol=1e-10)
    for key, value in traced.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key], msg=key)
