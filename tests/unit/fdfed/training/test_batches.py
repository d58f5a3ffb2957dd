"""Batches come in their order, one ahead where that helps."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from fdfed.training.batches import ahead, on_device


def batch(step: int) -> tuple[Tensor, Tensor]:
    return torch.full((1, 3, 4, 4), float(step)), torch.full((1, 1, 4, 4), step % 2)


def test_each_step_has_its_batch_in_the_wanted_type() -> None:
    found = list(on_device(batch, range(3, 6), device=torch.device("cpu"), dtype=torch.float64))
    assert [int(image[0, 0, 0, 0]) for image, _ in found] == [3, 4, 5]
    assert {part.dtype for pair in found for part in pair} == {torch.float64}


@pytest.mark.parametrize("steps", [range(0), range(7, 8), range(2, 6)])
def test_made_ahead_they_are_the_same(steps: range) -> None:
    found, direct = list(ahead(batch, steps)), [batch(step) for step in steps]
    assert len(found) == len(direct)
    for made, expected in zip(found, direct, strict=True):
        assert all(map(torch.equal, made, expected))


def test_the_next_one_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def make(step: int) -> tuple[Tensor, Tensor]:
        made[step].set()
        return batch(step)

    coming = ahead(make, range(3))
    assert not made[0].is_set()
    next(coming)
    assert made[1].wait(10), "before anybody asks for it"
    assert not made[2].wait(0.2), "and no further: memory holds two"
    next(coming)
    assert made[2].wait(10)
    coming.close()


def test_what_goes_wrong_in_making_one_reaches_who_asks_for_it() -> None:
    def make(step: int) -> tuple[Tensor, Tensor]:
        if step == 1:
            raise OSError("the disk is gone")
        return batch(step)

    coming = ahead(make, range(3))
    next(coming)
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_a_round_that_is_cut_leaves_no_thread_behind() -> None:
    coming = ahead(batch, range(100))
    next(coming)
    coming.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("next-batch")]
