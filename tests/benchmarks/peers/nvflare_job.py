"""NVFlare's FedAvg recipe in its proof-of-concept environment (mutual TLS, a process a party):
`nvflare_job.py SITES ROUNDS FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import tell
from work import Model


def main() -> None:
    sites, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ["NVFLARE_POC_WORKSPACE"] = folder
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe.poc_env import PocEnv

    recipe = FedAvgRecipe(
        name="peers",
        min_clients=sites,
        num_rounds=rounds,
        model=Model(),
        train_script=str(Path(__file__).with_name("nvflare_site.py")),
    )
    environment = PocEnv(num_clients=sites)
    run = recipe.execute(environment)
    print(run.get_status(), run.get_result())
    tell("ended")
    environment.stop(clean_up=True)


if __name__ == "__main__":
    main()
