"""Phase 1 trained once for all trials that share it.

In phase 1 only L_seg is trained, operation by operation as without the method. So trials that
differ in α, in the form of prototypes and losses, or in the cross-site term make the same phase 1,
bit for bit, and the second of them can begin with phase 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdfed.config import RunPlan
from fdfed.layer_weights import starting_alpha
from fdfed_server.run_state import load_state, save_state

_OF_PHASE_2: Final = ("method", "alpha", "exchange", "loss", "strategy")
"""Parts of a plan that phase 1 does not depend on, for the strategies below."""

_AVERAGING: Final = ("fedavg", "fdfed")
"""Strategies whose phase 1 is plain federated averaging, all tensors shared."""


def phase_1_key(plan: RunPlan) -> str | None:
    """A name that plans with the same phase 1 share; None for a plan that has none to share."""
    if plan.strategy not in _AVERAGING or plan.phase_1_rounds >= plan.rounds:
        return None
    values = plan.model_dump(mode="json", exclude=set(_OF_PHASE_2))
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def put_phase_1(shelf: Path, run: Path, plan: RunPlan) -> None:
    """Puts the state of a run that has just ended phase 1 on the shelf, for later trials.

    Args:
        run: the folder of the run's state.
    """
    key, state = phase_1_key(plan), load_state(run)
    if key is None or state is None or (shelf / key).exists():
        return
    part = shelf / f".{key}.{os.getpid()}"
    save_state(part, state)
    try:
        part.rename(shelf / key)
    except OSError:  # another trial was first, with the same state
        shutil.rmtree(part)


def take_phase_1(shelf: Path, run: Path, plan: RunPlan) -> int:
    """Begins the run in the folder `run` behind the phase 1 on the shelf; the rounds it need not
    train, 0 if the shelf has none or the run has begun.

    Sites keep nothing of phase 1: every tensor is shared, and phase 2 starts a fresh optimiser.
    """
    key = phase_1_key(plan)
    if key is None or load_state(run) is not None:
        return 0
    state = load_state(shelf / key)
    if state is None:
        return 0
    alpha = starting_alpha(
        len(state.model.alpha),
        plan=plan.alpha,
        phase_2_rounds=plan.rounds - plan.phase_1_rounds,
    )
    own = replace(
        state,
        plan=plan,
        run_id=plan.digest[:32],
        model=replace(state.model, alpha=alpha, target=None),
    )
    save_state(run, own)
    return own.completed_rounds
