"""Phase 1 trained once for all trials that share it.

In phase 1 only L_seg is trained, operation by operation as without the method. So trials that
differ in α, in the form of prototypes and losses, or in the cross-site term make the same phase 1,
bit for bit, and the second of them can begin with phase 2. Federated averaging of L_seg alone
passes through the same rounds on its way to the end, and leaves them to the others; it takes none.
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
from fdfed.training.site_state import SiteStore
from fdfed_server.run_state import load_state, phase_2_of, save_state

_OF_PHASE_2: Final = ("method", "alpha", "exchange", "loss", "strategy", "phase_2_start")
"""Parts of a plan that phase 1 does not depend on, for the strategies below."""

_AVERAGING: Final = ("fedavg", "fdfed")
"""Strategies whose phase 1 is plain federated averaging, all tensors shared."""

_PHASE_1_AND_ON: Final = {"strategy": "fedavg", "loss": "seg"}
_SITES: Final = "sites"
"""Folder of what the sites keep, beside that of the run's state."""


def phase_1_key(plan: RunPlan) -> str | None:
    """A name that plans with the same phase 1 share; None for a plan that has none to share."""
    if plan.strategy not in _AVERAGING or plan.phase_1_rounds >= plan.rounds:
        return None
    values = plan.model_dump(mode="json", exclude=set(_OF_PHASE_2))
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return key if plan.phase_2_start == "best" else f"{key}-{plan.phase_2_start}"


def left_by(plan: RunPlan) -> tuple[tuple[str, ...], int] | None:
    """The names of the phases 1 that a run of the plan leaves to others, and the round after which
    it does; None if it leaves none."""
    leaving = _leaving(plan)
    return None if not leaving else (tuple(leaving), next(iter(leaving.values())).phase_1_rounds)


def put_phase_1(shelf: Path, run: Path, plan: RunPlan) -> None:
    """Puts the state of a run that has just ended the phase 1 that it leaves on the shelf.

    Args:
        run: the folder of the run's state.
    """
    for key, phased in _leaving(plan).items():
        state = load_state(run)
        if state is None or (shelf / key).exists():
            continue
        if plan.phase_1_rounds == plan.rounds:
            state = phase_2_of(replace(state, plan=phased), state.model.alpha)
        part = shelf / f".{key}.{os.getpid()}"
        save_state(part, state)
        if phased.phase_2_start == "last":
            shutil.copytree(run.parent / _SITES, part / _SITES)
        try:
            part.rename(shelf / key)
        except OSError:  # another trial was first, with the same state
            shutil.rmtree(part)


def take_phase_1(shelf: Path, run: Path, plan: RunPlan) -> int:
    """Begins the run in the folder `run` behind the phase 1 on the shelf; the rounds it need not
    train, 0 if the shelf has none or the run has begun.

    What the sites keep of phase 1 is their optimisers, as every tensor is shared; a phase 2 that
    starts fresh ones needs nothing of it.
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
    if plan.phase_2_start == "last":
        for site in plan.sites:
            record = SiteStore(shelf / key / _SITES / site).load(
                state.run_id, state.completed_rounds
            )
            if record is None:
                return 0
            SiteStore(run.parent / _SITES / site).save(own.run_id, record)
    save_state(run, own)
    return own.completed_rounds


def _leaving(plan: RunPlan) -> dict[str, RunPlan]:
    """The plans whose phase 1 a run of `plan` leaves, by its name."""
    phased = [plan]
    if all(getattr(plan, part) == value for part, value in _PHASE_1_AND_ON.items()):
        # Whatever comes after it; and it ends with a validation, which may make its last round the
        # best.
        phased = [
            plan.model_copy(update={"loss": "fd", "phase_2_start": start})
            for start in ("best", "last")
        ]
        if not plan.is_evaluated(phased[0].phase_1_rounds):
            return {}
    return {key: other for other in phased if (key := phase_1_key(other)) is not None}
