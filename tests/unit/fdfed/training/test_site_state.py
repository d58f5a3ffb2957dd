from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fdfed.errors import InvalidInput
from fdfed.training.site_state import SiteRecord, SiteStore

RUN = "a" * 16


def record(number: int, phase: int = 1) -> SiteRecord:
    tensors = {"optimizer.0.exp_avg": torch.full((2,), float(number)), "local.w": torch.ones(1)}
    return SiteRecord(server_round=number, phase=phase, tensors=tensors)


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    store.save(RUN, record(3, phase=2))
    got = store.load(RUN, 3)
    assert got is not None
    assert (got.server_round, got.phase) == (3, 2)
    assert list(got.part("optimizer")) == ["0.exp_avg"]
    torch.testing.assert_close(got.part("optimizer")["0.exp_avg"], torch.full((2,), 3.0))


def test_a_repeated_round_starts_from_the_record_before_it(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    for number in (1, 2, 3):
        store.save(RUN, record(number))
    assert store.load_before(RUN, 3).server_round == 2
    assert store.load_before(RUN, 4).server_round == 3
    assert store.load_before(RUN, 1) is None


def test_pruning_keeps_the_two_newest_and_the_best(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    for number in range(1, 7):
        store.save(RUN, record(number))
    store.prune(RUN, keep=2)
    assert store.rounds(RUN) == [2, 5, 6]


def test_pruning_keeps_the_newest_up_to_the_best_if_the_site_missed_the_best(
    tmp_path: Path,
) -> None:
    store = SiteStore(tmp_path)
    for number in (1, 2, 4, 5, 6):
        store.save(RUN, record(number))
    store.prune(RUN, keep=3)
    assert store.rounds(RUN) == [2, 5, 6]
    assert store.load_before(RUN, 3 + 1).server_round == 2


def test_a_run_that_went_back_leaves_the_rounds_it_abandoned_behind(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    for number in range(1, 7):
        store.save(RUN, record(number))
    store.save(RUN, record(3))
    store.prune(RUN, keep=0)
    assert store.rounds(RUN) == [2, 3]
    assert store.load_before(RUN, 4).server_round == 3


def test_a_new_run_removes_the_records_of_the_old_one(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    store.save(RUN, record(1))
    store.save("b" * 16, record(1))
    assert store.rounds(RUN) == []
    assert store.rounds("b" * 16) == [1]


def test_a_half_written_record_is_not_seen(tmp_path: Path) -> None:
    store = SiteStore(tmp_path)
    store.save(RUN, record(1))
    (tmp_path / RUN / ".round-000002.0000.part.safetensors").write_bytes(b"half")
    assert store.rounds(RUN) == [1]
    assert store.load(RUN, 2) is None


@pytest.mark.parametrize(
    "damage", [b"", b"half", b"\x02\0\0\0\0\0\0\0{}"], ids=["empty", "cut", "no phase"]
)
def test_a_damaged_record_is_named_and_never_taken_for_a_missing_one(
    tmp_path: Path, damage: bytes
) -> None:
    store = SiteStore(tmp_path)
    store.save(RUN, record(1))
    (tmp_path / RUN / "round-000001.safetensors").write_bytes(damage)
    with pytest.raises(InvalidInput, match=r"round-000001\.safetensors is damaged"):
        store.load(RUN, 1)
