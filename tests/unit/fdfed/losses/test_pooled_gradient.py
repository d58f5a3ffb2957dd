"""Sites that know only their cotangents train as if all images lay in one place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fdfed.losses import Form, exchange_cotangents, exchange_loss
from fdfed.networks import create_network
from fdfed.prototypes import batch_prototypes, masked_prototypes


@pytest.mark.parametrize("form", ["paper", "ratio", "gap"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_sites_gradients_from_cotangents_sum_to_the_pooled_gradient(
    norm: str, form: Form
) -> None:
    torch.manual_seed(0)
    network = create_network("attention-unet", in_channels=1, width=2, norm=norm).double()
    batches = [
        (torch.rand(2, 1, 16, 16, dtype=torch.float64) * (s + 1), _discs(s)) for s in range(3)
    ]

    def prototypes(image: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        _, taps = network.forward_with_taps(image)
        return {
            name: batch_prototypes(*masked_prototypes(features, mask))
            for name, features in taps.items()
        }

    # Pooled, with each site's batch forwarded on its own: BatchNorm then sees the same statistics.
    seen = [prototypes(*batch) for batch in batches]
    stacked = {
        name: [torch.stack(parts) for parts in zip(*(site[name] for site in seen), strict=True)]
        for name in network.tap_names
    }
    loss = torch.stack([exchange_loss(*stacked[n], form=form) for n in network.tap_names]).sum()
    weights = [p for name, p in network.named_parameters() if not name.startswith("head")]
    pooled = torch.autograd.grad(loss, weights)

    # At the sites: <prototypes, cotangents>, the cotangents computed from detached prototypes.
    total = [torch.zeros_like(p) for p in weights]
    replies = {
        name: exchange_cotangents(F.detach(), B.detach(), valid, form=form)
        for name, (F, B, valid) in stacked.items()
    }
    for s, batch in enumerate(batches):
        surrogate = torch.zeros((), dtype=torch.float64)
        for name, (F, B, _) in prototypes(*batch).items():
            _, dF, dB = replies[name]
            surrogate = surrogate + F @ dF[s] + B @ dB[s]
        for accumulated, gradient in zip(
            total, torch.autograd.grad(surrogate, weights), strict=True
        ):
            accumulated.add_(gradient)
    for got, want in zip(total, pooled, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def _discs(site: int) -> Tensor:
    """Two masks of a disc each, whose place and size differ by site."""
    axis = torch.arange(16.0)
    mask = torch.zeros(2, 1, 16, 16)
    for i in range(2):
        row, column, radius = 4 + 3 * site, 5 + 4 * i, 2 + site
        distance = (axis.unsqueeze(1) - row).square() + (axis.unsqueeze(0) - column).square()
        mask[i, 0] = (distance <= radius**2).float()
    return mask
