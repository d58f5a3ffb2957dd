"""What a site keeps between rounds: optimiser state and tensors that never travel.

A record belongs to the round after which it was taken. A round that is asked again (its answer
was lost, or the coordinator came back from a crash) starts from the record before it, so that the
repetition trains exactly as the first time did.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import replacing

_PHASES = {"1": 1, "2": 2}
_FILE = re.compile(r"round-(\d{6})\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """The state after `server_round`, in `phase`. Tensor names: `optimizer.*`, `local.*`,
    `auxiliary.*` for the heads of a loss that has some, and `residual.*` for what rounding left out
    of the answer (`fdfed.wire.changes`)."""

    server_round: int
    phase: int
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name begins with `prefix.`, without it."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}


class SiteStore:
    """The records of one run in one folder; every write is atomic, old ones are removed.

    Args:
        folder: holds one sub-folder a run. A new run removes the records of earlier ones.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, run_id: str, record: SiteRecord) -> None:
        """Writes the record; a reader sees the old file or the whole new one.

        Records of later rounds are removed: the coordinator went back behind them, and what they
        hold was trained from weights that are no longer the run's.
        """
        folder = self._run_folder(run_id)
        if not folder.exists():
            shutil.rmtree(self._folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
        path = folder / f"round-{record.server_round:06d}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in record.tensors.items()}
        with replacing(path) as part:
            safetensors.torch.save_file(tensors, part, metadata={"phase": str(record.phase)})
        self._remove(run_id, (n for n in self.rounds(run_id) if n > record.server_round))

    def rounds(self, run_id: str) -> list[int]:
        """The rounds that have a record, ascending."""
        folder = self._run_folder(run_id)
        if not folder.exists():
            return []
        matches = (_FILE.fullmatch(path.name) for path in folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def load(self, run_id: str, server_round: int) -> SiteRecord | None:
        """The record of exactly that round, if it is there.

        Raises:
            InvalidInput: if its file is damaged.
        """
        path = self._run_folder(run_id) / f"round-{server_round:06d}.safetensors"
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                phase = _PHASES[(file.metadata() or {})["phase"]]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, KeyError) as err:
            raise InvalidInput(
                f"{path} is damaged ({err}). Restore it from a backup; without it, the next round "
                "cannot go on as it would have"
            ) from err
        return SiteRecord(server_round=server_round, phase=phase, tensors=tensors)

    def load_before(self, run_id: str, server_round: int) -> SiteRecord | None:
        """The newest record of a round before `server_round`."""
        earlier = [number for number in self.rounds(run_id) if number < server_round]
        return self.load(run_id, earlier[-1]) if earlier else None

    def prune(self, run_id: str, *, keep: int) -> None:
        """Removes all records but the two newest and the one that `load_before(keep + 1)` gives:
        that of round `keep`, or of the last round before it that the site took part in."""
        rounds = self.rounds(run_id)
        best = [number for number in rounds if number <= keep][-1:]
        self._remove(run_id, set(rounds[:-2]).difference(best))

    def _remove(self, run_id: str, rounds: Iterable[int]) -> None:
        for number in rounds:
            (self._run_folder(run_id) / f"round-{number:06d}.safetensors").unlink(missing_ok=True)

    def _run_folder(self, run_id: str) -> Path:
        return self._folder / run_id
