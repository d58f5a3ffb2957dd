"""The curves that TensorBoard reads are those of the run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord, SiteRound, TapLoss
from fdfed_server.tensorboard import TensorBoardWriter, tensorboard_observers


def test_tensorboard_reads_what_the_rounds_said(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardWriter(tmp_path) as writer:
        writer.run_started(RunPlan(sites=("tnbc",), rounds=2), 0)
        for number, dice in ((1, 0.5), (2, None)):
            sites = {"tnbc": SiteRound(val_dice=dice, loss_seg=0.25)}
            losses = {"Bot": TapLoss(fd=-1.5, exch=float("nan"))}
            writer.round_finished(
                RoundRecord(round=number, phase=1, sites=sites, losses=losses, alpha={"Bot": 0.5})
            )
    curves = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in curves.Scalars("dice/tnbc")] == [(1, 0.5)]
    assert [(e.step, e.value) for e in curves.Scalars("L_fd/Bot")] == [(1, -1.5), (2, -1.5)]
    assert [e.value for e in curves.Scalars("alpha/Bot")] == [0.5, 0.5]
    assert "L_exch/Bot" not in curves.Tags()["scalars"], "a value that does not exist is no point"


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InvalidInput, match=r"pip install 'fdfed\[tensorboard\]'"):
        tensorboard_observers(tmp_path)
    assert tensorboard_observers(None) == ()
