"""What a site takes up from its earlier rounds, and what it keeps of this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
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
        """The record to start from; where phase 2 goes back to the best round, the local tensors of
        that."""
        record = self._store.load_before(message.run_id, message.server_round)
        if record is None or record.phase == message.phase:
            return record
        if message.plan.phase_2_start == "last":
            return replace(record, phase=message.phase)
        # A site that was absent in the best round has its tensors from the last one before it.
        best = self._store.load_before(message.run_id, message.best_round + 1)
        if best is None:
            return None
        # The optimiser starts afresh in phase 2: its moments belong to another objective. So does
        # the residual: it is of rounds that the best one may come before.
        tensors = {f"local.{name}": tensor for name, tensor in best.part("local").items()}
        return SiteRecord(server_round=best.server_round, phase=message.phase, tensors=tensors)

    def of_round(self, message: EvaluateInstruction) -> SiteRecord | None:
        """The record that belongs to the weights that are to be scored."""
        # A site that was absent in that round has its tensors from the last one before it.
        return self._store.load_before(message.run_id, message.server_round + 1)

    def keep(
        self,
        model: LocalModel,
        message: TrainInstruction,
        optimizer_state: Mapping[str, Tensor],
        *,
        residual: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Writes the record of the round that `model` has just trained.

        Args:
            residual: what rounding left out of the answer (`fdfed.wire.changes`).
        """
        state = model.network.state_dict()
        tensors = {f"optimizer.{n}": t for n, t in optimizer_state.items()}
        tensors |= {f"local.{name}": state[name].cpu().clone() for name in model.local}
        tensors |= {f"auxiliary.{name}": t for name, t in copies(model.auxiliary).items()}
        tensors |= {f"residual.{n}": torch.from_numpy(left) for n, left in residual.items()}
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
