"""The work that every system of the comparison does: model, images, one step.

It imports neither fdfed nor any peer, so that each runs in an environment of its own.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import IMAGES, LEARNING_RATE, SIDE, tell
from monai.networks.nets import UNet
from torch import Tensor, nn

torch.set_num_threads(1)


class Model(nn.Module):
    """A residual U-Net of 1.6 million parameters; without arguments, as some peers want it."""

    def __init__(self, out_channels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=out_channels,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            norm="batch",
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


def images_of(site: int) -> tuple[Tensor, Tensor]:
    """Discs in noise, a batch of them."""
    rng = np.random.default_rng(100 + site)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    masks = np.stack(
        [
            (columns - rng.integers(16, 48)) ** 2 + (rows - rng.integers(16, 48)) ** 2
            < rng.integers(5, 14) ** 2
            for _ in range(IMAGES)
        ]
    )
    noisy = masks + rng.normal(0, 0.3 + 0.1 * site, masks.shape)
    return torch.from_numpy(noisy[:, None].astype("float32")), torch.from_numpy(masks.astype(int))


class LocalStep:
    """One site's part of a round, told to the log: receipt, then one step."""

    def __init__(self, site: int) -> None:
        self.site = site
        self.model = Model()
        self.images, self.masks = images_of(site)
        self.done = 0

    def __call__(self, state: dict[str, Tensor] | None = None) -> float:
        tell("received", site=self.site, round=self.done)
        if state is not None:
            self.model.load_state_dict(state)
        began = time.time()
        loss = step(self.model, self.images, self.masks)
        tell("stepped", site=self.site, round=self.done, seconds=time.time() - began)
        self.done += 1
        return loss


def step(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """One step of stochastic gradient descent."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), masks)
    loss.backward()
    optimizer.step()
    return float(loss.detach())
