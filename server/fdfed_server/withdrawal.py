"""A site leaves, and so does what it gave: a stopped run goes back to before it, or starts anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch

from fdfed.audit import AuditLog
from fdfed.config import RunPlan, parse
from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import write_text
from fdfed.training.initialise import initial_network
from fdfed.training.sharing import local_names
from fdfed_server.lineage import first_round, forget_from, state_before
from fdfed_server.run_state import RunState, load_state, save_state
from fdfed_server.status import FILE, read_status

CANNOT_UNDO: Final = (
    "copies of the model, of results and of reports that were handed out, and backups",
    "what other sites and this coordinator learnt while the site took part",
    "the audit logs: they go on naming the site, and that it left",
    "privacy budgets: what was spent stays spent at every site",
)
"""What no command can take back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """What is to be done for one site, decided before anything is touched."""

    site: str
    first_round: int
    """The first round that it had a part in."""
    completed_rounds: int
    """Rounds of the run before the withdrawal."""
    back_to: RunState | None
    """The state to go on from; None starts anew."""

    @property
    def lost_rounds(self) -> int:
        """Rounds that will have to be trained again."""
        kept = 0 if self.back_to is None else self.back_to.completed_rounds
        return self.completed_rounds - kept


def plan_withdrawal(run: Path, site: str, *, restart: bool) -> Withdrawal:
    """How `site` can leave the run whose state is in the folder `run`.

    Args:
        restart: start anew, whether the run could go back or not.

    Raises:
        InvalidInput: if there is no run, the site had no part in it, or the run can only start
            anew and `restart` is not given.
    """
    state = load_state(run)
    if state is None:
        raise InvalidInput(f"{run} holds no run; there is nothing to withdraw {site} from")
    first = first_round(state.history, site)
    if first is None:
        raise InvalidInput(
            f"{site} had no part in any of the run's {state.completed_rounds} round(s), so nothing "
            "of it is in the weights; removing it from the roster is enough"
        )
    back_to = None if restart else _before(run, state, site, first)
    return Withdrawal(
        site=site, first_round=first, completed_rounds=state.completed_rounds, back_to=back_to
    )


def withdraw(state: Path, withdrawal: Withdrawal, audit: AuditLog) -> None:
    """Does it. Interrupted at any point it can be repeated: the run's own state changes last.

    Args:
        state: the coordinator's state folder, whose lock the caller holds.
    """
    back_to = withdrawal.back_to
    kept = 0 if back_to is None else back_to.completed_rounds
    audit.append("here", "withdrawal", site=withdrawal.site, round=kept)
    # Model, report and scores of a finished run are the site's too.
    shutil.rmtree(state / "results", ignore_errors=True)
    _drop_status(state, withdrawal.site)
    run = state / "run"
    if back_to is None:
        # Without it the folder holds no run any more, however far the removal comes.
        (run / "state.json").unlink(missing_ok=True)
        shutil.rmtree(run)
    else:
        forget_from(run, withdrawal.first_round)
        save_state(run, _without(back_to, withdrawal.site))
        forget_from(run, withdrawal.first_round - 1)
    audit.append("here", "withdrawn", site=withdrawal.site, round=kept)


def _before(run: Path, state: RunState, site: str, first: int) -> RunState:
    if why := _why_not_back(state.plan):
        raise InvalidInput(f"{why}, so the run cannot go back; give --restart to start anew")
    if first == 1:
        raise InvalidInput(
            f"{site} took part from round 1 on: every weight descends from it. Give --restart to "
            f"start anew without it; {state.completed_rounds} round(s) are then trained again"
        )
    found = state_before(run, first)
    if found is None:
        raise InvalidInput(
            f"{site} took part from round {first} on, and no state before it was kept (an earlier "
            "version trained it). Give --restart to start anew without it"
        )
    # The sites are those of now: others may have left since that state was kept.
    return replace(found, plan=state.plan)


def _why_not_back(plan: RunPlan) -> str:
    """Why sites would not follow a run that goes back; empty if they do."""
    if plan.aggregation == "masked":
        return "a site answers each round of masked aggregation once"
    if plan.privacy is not None:
        return "the privacy ledgers of the sites count rounds forward only"
    with torch.device("meta"):
        if local_names(initial_network(plan), plan.strategy):
            return f"with strategy = {plan.strategy} sites keep tensors of their newest rounds only"
    return ""


def _without(state: RunState, site: str) -> RunState:
    """The state with no trace of the site, in its plan either."""
    sites = tuple(name for name in state.plan.sites if name != site)
    plan = parse(
        RunPlan, state.plan.model_dump() | {"sites": sites}, source=f"a run without {site}"
    )
    best = {name: entry for name, entry in state.site_best.items() if name != site}
    return replace(state, plan=plan, site_best=best)


def _drop_status(state: Path, site: str) -> None:
    try:
        status = read_status(state)
    except InvalidInput:
        return  # a status that cannot be read is written anew at the next start
    sites = {name: entry for name, entry in status.sites.items() if name != site}
    write_text(state / FILE, json.dumps(asdict(replace(status, sites=sites))))
