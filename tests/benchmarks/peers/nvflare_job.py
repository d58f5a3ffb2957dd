"""NVFlare's FedAvg recipe in its proof-of-concept environment (mutual TLS, a process a party):
`nvflare_job.py SITES ROUNDS FOLDER [tuned]`.

As it comes, a site waits two seconds before it asks for its next task, and the controller looks for
finished tasks every half second. `tuned` shortens both to 50 ms. What its site's script waits for a
result in the same process, half a second, has no setting.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common import tell
from work import Model

TUNED_SECONDS = 0.05


def main() -> None:
    sites, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ["NVFLARE_POC_WORKSPACE"] = folder
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe.poc_env import PocEnv

    tuned = sys.argv[4:] == ["tuned"]

    class Recipe(FedAvgRecipe):
        def _get_controller_kwargs(self) -> dict[str, object]:
            kept = super()._get_controller_kwargs()
            return kept | {"task_check_period": TUNED_SECONDS} if tuned else kept

    recipe = Recipe(
        name="peers",
        min_clients=sites,
        num_rounds=rounds,
        model=Model(),
        train_script=str(Path(__file__).with_name("nvflare_site.py")),
    )
    if tuned:
        recipe.add_server_config({"server": {"task_request_interval": TUNED_SECONDS}})
    environment = PocEnv(num_clients=sites)
    run = recipe.execute(environment)
    print(run.get_status(), run.get_result())
    tell("ended")
    environment.stop(clean_up=True)


if __name__ == "__main__":
    main()
