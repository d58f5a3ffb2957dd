"""Which sites a run's weights descend from, and the states before each site's first round.

What a site gave cannot be subtracted from trained weights: every later round was trained from them.
A run can only go back to a state that the site had no part in. So when a site first takes part in a
round, the state before that round is kept, under `lineage/round-NNNNNN/` of the run's folder: at
most one a site, each a run state as `run_state` writes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fdfed.evaluation.results import RoundRecord
from fdfed.files.atomic_file import sync_folder
from fdfed_server.run_state import RunState, load_state

_FOLDER: Final = "lineage"
_STATE: Final = "state.json"


def first_round(history: Sequence[RoundRecord], site: str) -> int | None:
    """The first round that `site` had any part in; None if it never had.

    A site whose update was refused counts: its prototypes may have moved the others' weights, and
    its scores may have chosen the best round.
    """
    return next((record.round for record in history if site in record.sites), None)


def keep_before_newcomers(folder: Path, state: RunState) -> None:
    """Keeps what `folder` holds, if `state` is one round on and a site took part in that round for
    the first time. Call it before `state` is saved there.

    Round 1 needs no copy: what is before it follows from the plan.
    """
    last = state.completed_rounds
    if last < 2 or not any(first_round(state.history, s) == last for s in _sites(state)):
        return
    before = load_state(folder)
    if before is None or before.completed_rounds != last - 1:
        return
    _copy(folder, _place(folder, last - 1))


def state_before(folder: Path, server_round: int) -> RunState | None:
    """The state that was kept before round `server_round`; None if none was.

    Raises:
        InvalidInput: if it is damaged.
    """
    place = _place(folder, server_round - 1)
    return load_state(place) if place.is_dir() else None


def forget_from(folder: Path, server_round: int) -> None:
    """Removes the states of round `server_round` and later."""
    for place in (folder / _FOLDER).glob("round-*"):
        if int(place.name.removeprefix("round-")) >= server_round:
            shutil.rmtree(place)


def _sites(state: RunState) -> Sequence[str]:
    return tuple(state.history[-1].sites) if state.history else ()


def _place(folder: Path, completed_rounds: int) -> Path:
    return folder / _FOLDER / f"round-{completed_rounds:06d}"


def _copy(folder: Path, place: Path) -> None:
    if place.exists():
        return  # the round after it is saved a second time, after a crash
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    for path in folder.glob("*.safetensors"):
        try:
            # Such a file is replaced or removed, never changed, so both names can share it.
            os.link(path, part / path.name)
        except OSError:
            shutil.copyfile(path, part / path.name)
    shutil.copyfile(folder / _STATE, part / _STATE)
    part.rename(place)
    sync_folder(place.parent)
