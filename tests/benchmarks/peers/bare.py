"""Federated averaging in one process without any framework: `bare.py SITES ROUNDS FOLDER`."""

from __future__ import annotations

import sys

import torch
from common import tell
from work import LocalStep, Model


def main() -> None:
    sites, rounds = int(sys.argv[1]), int(sys.argv[2])
    local = [LocalStep(site) for site in range(sites)]
    state = {name: value.clone() for name, value in Model().state_dict().items()}
    for _ in range(rounds):
        total: dict[str, torch.Tensor] = {}
        for site in local:
            site(state)
            for name, value in site.model.state_dict().items():
                total[name] = total.get(name, 0) + value.double()
        state = {n: (value / sites).to(state[n].dtype) for n, value in total.items()}
    tell("ended")


if __name__ == "__main__":
    main()
