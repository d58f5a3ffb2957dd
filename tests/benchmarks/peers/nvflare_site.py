"""A site of the comparison under NVFlare, which runs this script once a job."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, os.environ.get("PEERS_FOLDER", str(Path(__file__).parent)))

import nvflare.client as flare
import torch
from work import LocalStep


def main() -> None:
    flare.init()
    local = LocalStep(int(flare.get_site_name().rsplit("-", 1)[-1]) - 1)
    while flare.is_running():
        asked = flare.receive()
        if asked is None:
            return
        loss = local({name: torch.as_tensor(value) for name, value in asked.params.items()})
        state = {name: value.detach().clone() for name, value in local.model.state_dict().items()}
        flare.send(flare.FLModel(params=state, metrics={"loss": loss}))


if __name__ == "__main__":
    main()
