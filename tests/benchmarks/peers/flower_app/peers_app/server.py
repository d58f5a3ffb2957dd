"""Flower's own federated averaging over the comparison's model."""

from common import tell
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from work import Model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    sites, rounds = int(context.run_config["sites"]), int(context.run_config["rounds"])
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_available_nodes=sites,
        weighted_by_key="num-examples",
    )
    first = ArrayRecord(Model().state_dict())
    strategy.start(grid=grid, initial_arrays=first, num_rounds=rounds)
    tell("ended")
