"""The state of a run after its last completed round, in memory and on disk.

On disk a run is one folder. `state.json` names the files that belong to it and is replaced
atomically as the last act of saving, so a reader sees either the round before or the whole new
one, whenever the process is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fdfed.atomic_file import replacing, write_text
from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord, SiteRound, TapLoss, Traffic
from fdfed.exchange import ExchangeStats

FORMAT: Final = 1
"""Version of the folder. A newer one is refused: a run never goes backwards."""

_STATE: Final = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalModel:
    """What the coordinator aggregates: shared weights, α, and the target of the dual update."""

    weights: Mapping[str, NDArray[Any]]
    alpha: NDArray[np.float64]
    """One weight a tap."""
    target: NDArray[np.float64] | None = None
    """c of the dual update; None until the first round of phase 2 has been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best round of the phase so far, by the unweighted mean over sites of validation Dice; as
    phase 2 begins, the best of phase 1 with a score that every round beats."""

    server_round: int
    score: float
    model: GlobalModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run after `completed_rounds` rounds; nothing in it belongs to an unfinished one."""

    plan: RunPlan
    run_id: str
    completed_rounds: int
    model: GlobalModel
    best: Best
    site_best: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Each site's own best round and its validation Dice, for strategies without a common model."""
    history: tuple[RoundRecord, ...] = ()
    exchanges: tuple[ExchangeStats, ...] = ()
    """What the exchange did, one entry a site and round."""
    seconds: float = 0.0
    """Wall-clock seconds of the completed rounds, over all sessions of the coordinator."""

    @property
    def finished(self) -> bool:
        """Whether every round of the plan is done."""
        return self.completed_rounds >= self.plan.rounds


def save_state(folder: Path, state: RunState) -> None:
    """Writes the state into `folder`; the round before stays readable until this one is whole."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    models = {
        f"round-{state.completed_rounds:06d}.safetensors": state.model,
        f"best-{state.best.server_round:06d}.safetensors": state.best.model,
    }
    for name, model in models.items():
        # The best of an earlier round was committed with that round; nothing of it has changed.
        if name.startswith("best-") and state.best.server_round < state.completed_rounds:
            continue
        with replacing(folder / name) as part:
            safetensors.numpy.save_file(_tensors(model), part)
    document = {
        "format": FORMAT,
        "plan": state.plan.model_dump(mode="json"),
        "run_id": state.run_id,
        "completed_rounds": state.completed_rounds,
        "files": list(models),
        "best": {"server_round": state.best.server_round, "score": state.best.score},
        "site_best": {site: list(entry) for site, entry in state.site_best.items()},
        "history": [asdict(record) for record in state.history],
        "exchanges": [asdict(stats) for stats in state.exchanges],
        "seconds": state.seconds,
    }
    write_text(folder / _STATE, json.dumps(document))
    for path in folder.glob("*.safetensors"):
        if path.name not in models:
            path.unlink()


def load_state(folder: Path) -> RunState | None:
    """The state in `folder`, or None if no round was ever completed there.

    Raises:
        InvalidInput: if the folder is damaged, or was written by a newer version.
    """
    path = folder / _STATE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        if document["format"] > FORMAT:
            raise InvalidInput(
                f"{path} has format {document['format']}; this version reads up to {FORMAT}. "
                "Install the newer fdfed that wrote it; a run is never taken backwards."
            )
        model, best = (_model(folder / name) for name in document["files"])
        return RunState(
            plan=RunPlan.model_validate(document["plan"]),
            run_id=document["run_id"],
            completed_rounds=document["completed_rounds"],
            model=model,
            best=Best(**document["best"], model=best),
            site_best={site: (int(r), float(s)) for site, (r, s) in document["site_best"].items()},
            history=tuple(_round(entry) for entry in document["history"]),
            exchanges=tuple(ExchangeStats(**entry) for entry in document["exchanges"]),
            seconds=document["seconds"],
        )
    except (KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as err:
        if isinstance(err, InvalidInput):
            raise
        raise InvalidInput(
            f"{folder} holds a damaged run state ({type(err).__name__}: {err}). Restore it from a "
            "backup, or start a new run with another --state folder."
        ) from err


def resume(folder: Path, plan: RunPlan) -> RunState | None:
    """The state in `folder` if it is one of `plan`; None if there is none.

    Raises:
        InvalidInput: if the folder holds a run of another plan; names the settings that differ.
    """
    state = load_state(folder)
    if state is None or state.plan == plan:
        return state
    differing = [
        key for key in RunPlan.model_fields if getattr(state.plan, key) != getattr(plan, key)
    ]
    raise InvalidInput(
        f"{folder} holds another run (it differs in {', '.join(differing)}). Give another folder "
        "(--out of a simulation, --state of a coordinator), or remove this one."
    )


def _tensors(model: GlobalModel) -> dict[str, NDArray[Any]]:
    # `require` keeps a scalar (the counters of batch norm) a scalar.
    tensors = {
        f"weights.{name}": np.require(w, requirements="C") for name, w in model.weights.items()
    }
    tensors["alpha"] = model.alpha
    if model.target is not None:
        tensors["target"] = model.target
    return tensors


def _model(path: Path) -> GlobalModel:
    tensors = safetensors.numpy.load(path.read_bytes())
    start = "weights."
    return GlobalModel(
        weights={n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)},
        alpha=tensors["alpha"],
        target=tensors.get("target"),
    )


def _round(entry: dict[str, Any]) -> RoundRecord:
    record = RoundRecord(**entry)
    sites: dict[str, Any] = entry["sites"]
    losses: dict[str, Any] = entry["losses"]
    return replace(
        record,
        sites={site: SiteRound(**values) for site, values in sites.items()},
        losses={tap: TapLoss(**values) for tap, values in losses.items()},
        bytes=Traffic(**entry["bytes"]),
    )
