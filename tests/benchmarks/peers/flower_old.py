"""Flower's old pair, `start_server` and `start_client` over one gRPC stream a site, without TLS:
`flower_old.py SITES ROUNDS FOLDER`, which starts `flower_old.py client SITE`."""

from __future__ import annotations

import subprocess
import sys

import flwr
import torch
from common import IMAGES, tell
from work import LocalStep, Model

ADDRESS = "127.0.0.1:18690"


class Client(flwr.client.NumPyClient):
    def __init__(self, site: int) -> None:
        self._local = LocalStep(site)

    def fit(self, parameters, config):  # type: ignore[no-untyped-def]
        names = self._local.model.state_dict()
        pairs = zip(names, parameters, strict=True)
        loss = self._local({name: torch.as_tensor(value) for name, value in pairs})
        return arrays(self._local.model), IMAGES, {"loss": loss}


def arrays(model: torch.nn.Module) -> list:  # type: ignore[type-arg]
    return [value.cpu().numpy() for value in model.state_dict().values()]


def serve(sites: int, rounds: int) -> None:
    clients = [
        subprocess.Popen([sys.executable, __file__, "client", str(site)]) for site in range(sites)
    ]
    flwr.server.start_server(
        server_address=ADDRESS,
        config=flwr.server.ServerConfig(num_rounds=rounds),
        strategy=flwr.server.strategy.FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=sites,
            min_available_clients=sites,
            initial_parameters=flwr.common.ndarrays_to_parameters(arrays(Model())),
        ),
    )
    tell("ended")
    for client in clients:
        client.wait(30)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        own = Client(int(sys.argv[2])).to_client()
        flwr.client.start_client(server_address=ADDRESS, client=own, insecure=True)
    else:
        serve(int(sys.argv[1]), int(sys.argv[2]))
