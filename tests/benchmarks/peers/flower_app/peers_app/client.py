"""A site of the comparison as a Flower app; Flower starts a process of it for each message."""

from common import IMAGES
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from work import LocalStep

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    local = LocalStep(int(context.node_config["partition-id"]))
    local.done = int(message.content["config"]["server-round"]) - 1
    loss = local(message.content["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"num-examples": IMAGES, "loss": loss})
    arrays = ArrayRecord(local.model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
