"""What a site takes up from its earlier rounds, and what it keeps of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fdfed.errors import WireError
from fdfed.training.sharing import put_tensors_
from fdfed.training.site_state import SiteRecord, SiteStore
from fdfed.wire import EvaluateInstruction, TrainInstruction
from fdfed_client.local_model import LocalModel, copies


class RoundRecords:
    """The site's own tensors and optimiser state, from round to round."""

    def __init__(self, store: SiteStore) -> None:
        self._store = store

    def before(self, message: TrainInstruction) -> SiteRecord | None:
        """The record to start from; at the switch to phase 2, local tensors of the best round."""
        record = self._store.load_before(message.run_id, message.server_round)
        if record is None or record.phase == message.phase:
            return record
        # A site that was absent in the best round has its tensors from the last one before it.
        best = self._store.load_before(message.run_id, message.best_round + 1)
        if best is None:
            return None
        # The optimiser starts afresh in phase 2: its moments belong to another objective.
        tensors = {f"local.{name}": tensor for name, tensor in best.part("local").items()}
        return SiteRecord(server_round=best.server_round, phase=message.phase, tensors=tensors)

    def of_round(self, message: EvaluateInstruction) -> SiteRecord | None:
        """The record that belongs to the weights that are to be scored."""
        # A site that was absent in that round has its tensors from the last one before it.
        return self._store.load_before(message.run_id, message.server_round + 1)

    def keep(
        self, model: LocalModel, message: TrainInstruction, optimizer_state: Mapping[str, Tensor]
    ) -> None:
        """Writes the record of the round that `model` has just trained."""
        state = model.network.state_dict()
        tensors = {f"optimizer.{n}": t for n, t in optimizer_state.items()}
        tensors |= {f"local.{name}": state[name].cpu().clone() for name in model.local}
        tensors |= {f"auxiliary.{name}": t for name, t in copies(model.auxiliary).items()}
        record = SiteRecord(server_round=message.server_round, phase=message.phase, tensors=tensors)
        self._store.save(message.run_id, record)
        self._store.prune(message.run_id, keep=message.best_round)


def load_(
    model: LocalModel, weights: Mapping[str, NDArray[Any]], record: SiteRecord | None
) -> None:
    """Puts the weights that travelled, and the site's own tensors, into the model's network.

    Raises:
        WireError: if the weights are not those that the plan's strategy shares.
    """
    if set(weights) != set(model.shared):
        odd = sorted(set(weights).symmetric_difference(model.shared))
        raise WireError(f"the weights lack or add tensors: {', '.join(odd[:5])}")
    put_tensors_(model.network, weights)
    local = record.part("local") if record is not None else {}
    kept = {name: tensor.numpy() for name, tensor in local.items()}
    put_tensors_(model.network, kept or model.initial_local)
    if model.auxiliary is not None:
        heads = record.part("auxiliary") if record is not None else {}
        model.auxiliary.load_state_dict(heads or model.initial_heads)
