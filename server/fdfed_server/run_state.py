"""The state of a run after its last completed round, in memory and on disk.

On disk a run is one folder. `state.json` names the files that belong to it and is replaced
atomically as the last act of saving, so a reader sees either the round before or the whole new
one, whenever the process is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.exchange import ExchangeStats
from fdfed.files.atomic_file import replacing, write_text

FORMAT: Final = 1
"""Version of the folder. A newer one is refused: a run never goes backwards."""

UNKNOWN_SCORE: Final = -1.0
"""The score of a round that none was measured for; below every Dice."""

_STATE: Final = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalModel:
    """What the coordinator aggregates: shared weights, α, and the target of the dual update."""

    weights: Mapping[str, NDArray[Any]]
    alpha: NDArray[np.float64]
    """One weight a tap."""
    target: NDArray[np.float64] | None = None
    """c of the dual update; None until the first round of phase 2 has been measured."""
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What the strategy hands from round to round (`fdfed.strategies.Averaging`)."""
    cotangents: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """With differential privacy: by site, from the releases of the last round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best round of the phase so far (`fdfed_server.selection`); as phase 2 begins, the best of
    phase 1, without a score, so that every round takes its place."""

    server_round: int
    score: float
    """Unweighted mean over sites of validation Dice, or `UNKNOWN_SCORE`."""
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
    warm_start_round: int | None = None
    """The round of phase 1 whose weights phase 2 began with."""

    @property
    def finished(self) -> bool:
        """Whether every round of the plan is done."""
        return self.completed_rounds >= self.plan.rounds

    @property
    def best_record(self) -> RoundRecord | None:
        """The record of the best round; None while no round of the phase has a score."""
        if self.best.score <= UNKNOWN_SCORE:
            return None
        found = (r for r in self.history if r.round == self.best.server_round)
        return next(found, None)


def phase_2_of(state: RunState, alpha: NDArray[np.float64]) -> RunState:
    """The run as phase 2 begins: back to the best weights of phase 1, or where it is, with
    `phase_2_start = last`. The best is sought anew from here: a run that trains the feature losses
    ends with weights that were trained with them, even if a round of phase 1 scored higher."""
    if state.plan.phase_2_start == "last":
        start = state.completed_rounds
        model, best_model = replace(state.model, alpha=alpha), state.model
        site_best = dict.fromkeys(state.site_best, (start, UNKNOWN_SCORE))
    else:
        start, best_model = state.best.server_round, state.best.model
        # As the sites' optimisers: what was remembered belongs to another objective.
        model = replace(best_model, alpha=alpha, memory={})
        site_best = {site: (n, UNKNOWN_SCORE) for site, (n, _) in state.site_best.items()}
    return replace(
        state,
        model=model,
        best=Best(server_round=start, score=UNKNOWN_SCORE, model=best_model),
        site_best=site_best,
        warm_start_round=start,
    )


def save_state(folder: Path, state: RunState) -> None:
    """Writes the state into `folder`; the round before stays readable until this one is whole."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    model_file = f"round-{state.completed_rounds:06d}.safetensors"
    best_file = f"best-{state.best.server_round:06d}.safetensors"
    _save_model(folder / model_file, state.model)
    # The best of an earlier round was committed with that round; nothing of it has changed.
    if state.best.server_round == state.completed_rounds or not (folder / best_file).exists():
        _save_model(folder / best_file, state.best.model)
    document = _Document(
        format=FORMAT,
        plan=state.plan,
        run_id=state.run_id,
        completed_rounds=state.completed_rounds,
        model_file=model_file,
        best_file=best_file,
        best_round=state.best.server_round,
        best_score=state.best.score,
        site_best=dict(state.site_best),
        history=state.history,
        exchanges=state.exchanges,
        seconds=state.seconds,
        warm_start_round=state.warm_start_round,
    )
    write_text(folder / _STATE, _DOCUMENT.dump_json(document).decode())
    for path in folder.glob("*.safetensors"):
        if path.name not in (model_file, best_file):
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
        text = path.read_bytes()
        _check_format(path, json.loads(text))
        document = _DOCUMENT.validate_json(text)
        model = _load_model(folder / document.model_file)
        best = _load_model(folder / document.best_file)
    except InvalidInput:
        raise
    except (ValueError, RecursionError, KeyError, OSError, safetensors.SafetensorError) as err:
        raise InvalidInput(
            f"{folder} holds a damaged run state ({_finding(err)}). Restore it from a backup, or "
            "start a new run with another folder (--state of a coordinator, --out of a simulation)."
        ) from err
    return RunState(
        plan=document.plan,
        run_id=document.run_id,
        completed_rounds=document.completed_rounds,
        model=model,
        best=Best(server_round=document.best_round, score=document.best_score, model=best),
        site_best=document.site_best,
        history=document.history,
        exchanges=document.exchanges,
        seconds=document.seconds,
        warm_start_round=document.warm_start_round,
    )


def resume(folder: Path, plan: RunPlan) -> RunState | None:
    """The state in `folder` if it is one of `plan`; None if there is none.

    The sites alone may differ: hospitals join and leave while a run goes on, and it then goes on
    with those that the plan names now.

    Raises:
        InvalidInput: if the folder holds a run of another plan; names the settings that differ.
    """
    state = load_state(folder)
    if state is None or state.plan == plan:
        return state
    differing = [
        key for key in RunPlan.model_fields if getattr(state.plan, key) != getattr(plan, key)
    ]
    if differing == ["sites"]:
        return replace(state, plan=plan)
    raise InvalidInput(
        f"{folder} holds another run (it differs in {', '.join(differing)}). Give another folder "
        "(--out of a simulation, --state of a coordinator), or remove this one."
    )


def _tensors(model: GlobalModel) -> dict[str, NDArray[Any]]:
    # `require` keeps a scalar (the counters of batch norm) a scalar.
    tensors = {
        f"weights.{name}": np.require(w, requirements="C") for name, w in model.weights.items()
    }
    tensors |= {f"memory.{n}": np.require(v, requirements="C") for n, v in model.memory.items()}
    tensors["alpha"] = model.alpha
    if model.target is not None:
        tensors["target"] = model.target
    tensors |= {f"cotangents.{site}": vector for site, vector in model.cotangents.items()}
    return tensors


def _save_model(path: Path, model: GlobalModel) -> None:
    with replacing(path) as part:
        safetensors.numpy.save_file(_tensors(model), part)


def _load_model(path: Path) -> GlobalModel:
    tensors = safetensors.numpy.load(path.read_bytes())

    def below(start: str) -> dict[str, NDArray[Any]]:
        return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

    return GlobalModel(
        weights=below("weights."),
        alpha=tensors["alpha"],
        target=tensors.get("target"),
        memory=below("memory."),
        cotangents=below("cotangents."),
    )


def _finding(err: Exception) -> str:
    if not isinstance(err, ValidationError):
        return f"{type(err).__name__}: {err}"
    first = err.errors()[0]
    return f"{_STATE}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _check_format(path: Path, document: Any) -> None:
    written = document.get("format") if isinstance(document, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise InvalidInput(
            f"{path} has format {written}; this version reads up to {FORMAT}. Install the newer "
            "fdfed that wrote it; a run is never taken backwards."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """`state.json`: everything of a `RunState` but the tensors, and the names of their files."""

    format: int
    plan: RunPlan
    run_id: str
    completed_rounds: int
    model_file: str
    best_file: str
    best_round: int
    best_score: float
    site_best: dict[str, tuple[int, float]]
    history: tuple[RoundRecord, ...]
    exchanges: tuple[ExchangeStats, ...]
    seconds: float
    warm_start_round: int | None


_DOCUMENT: Final = TypeAdapter(_Document)
