"""A run as TensorBoard curves, for those who have it open already. An optional extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord, is_known
from fdfed.wire import EvaluateResult
from fdfed_server.observer import Observer


class TensorBoardWriter(Observer):
    """Writes each round's scores, losses and α below `folder`; use as a context manager.

    A run that goes on appends to the curves: steps are rounds, and a round is complete once.

    Raises:
        InvalidInput: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
        except ImportError as err:
            raise InvalidInput(
                "--tensorboard needs the package tensorboard, which is not installed; run "
                "`pip install 'fdfed[tensorboard]'`, or leave the option out"
            ) from err
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self._writer.add_text("plan", f"```\n{plan.to_json()}\n```", completed_rounds)

    def round_finished(self, record: RoundRecord) -> None:
        self._add("dice/mean", record.mean_val_dice, record.round)
        self._add("drift/all", record.drift, record.round)
        self._add("round/seconds", record.seconds, record.round)
        for site, entry in record.sites.items():
            self._add(f"dice/{site}", entry.val_dice, record.round)
            self._add(f"loss_seg/{site}", entry.loss_seg, record.round)
            self._add(f"loss_fd/{site}", entry.loss_fd, record.round)
            self._add(f"drift/{site}", entry.drift, record.round)
        for tap, alpha in record.alpha.items():
            self._add(f"alpha/{tap}", alpha, record.round)
        for tap, loss in record.losses.items():
            self._add(f"L_fd/{tap}", loss.fd, record.round)
            self._add(f"L_exch/{tap}", loss.exch, record.round)
        for pair, terms in record.pairs.items():
            for tap, term in terms.items():
                self._add(f"pair {tap}/{pair}", term, record.round)
        self._writer.flush()

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        for site, result in results.items():
            if result.dice is not None:
                self._add(f"test dice/{site}", result.dice.mean, result.server_round)

    def _add(self, name: str, value: float | None, server_round: int) -> None:
        if is_known(value):
            self._writer.add_scalar(name, value, server_round)


def tensorboard_observers(folder: Path | None) -> Sequence[TensorBoardWriter]:
    """The writer for `folder`, or none."""
    return () if folder is None else (TensorBoardWriter(folder),)
