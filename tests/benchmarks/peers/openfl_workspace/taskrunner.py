"""The comparison's site as an OpenFL task runner; copied into the workspace that OpenFL makes."""

import numpy as np
import torch
from common import LEARNING_RATE
from openfl.federated import PyTorchTaskRunner
from openfl.utilities import Metric
from work import LocalStep


class Runner(PyTorchTaskRunner):
    def __init__(self, device: str = "cpu", **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(device=device, **options)
        self.local = LocalStep(self.data_loader.site)
        self.net = self.local.model.net
        self.local.model = self
        self.optimizer = torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image)

    def train_(self, loader: object) -> Metric:
        return Metric(name="loss", value=np.array(self.local()))

    def validate_(self, loader: object) -> Metric:
        return Metric(name="accuracy", value=np.array(0.5))
