"""The batches of a round on their way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


def on_device(
    make: Callable[[int], Batch], steps: range, *, device: torch.device, dtype: torch.dtype
) -> Iterator[Batch]:
    """`make(step)` of every step in turn, as `dtype` on `device`.

    For a GPU the next batch is made, and copied to page-locked memory, while the GPU works on this
    one. On a CPU that would take from the step what it gives to the batch.

    Args:
        make: a step's batch on the CPU; called in the order of the steps, one at a time.
    """
    made: Iterator[Batch]
    if device.type == "cpu":
        made = map(make, steps)
    else:
        pins = device.type == "cuda"
        made = ahead(lambda step: _pinned(make(step)) if pins else make(step), steps)
    for image, mask in made:
        yield (
            image.to(device, dtype, non_blocking=True),
            mask.to(device, dtype, non_blocking=True),
        )


def ahead(make: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
    """`make(step)` of every step in turn, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as thread:
        made = (thread.submit(make, step) for step in steps)
        following = next(made, None)
        while following is not None:
            batch = following.result()
            # Asked for before this one is used.
            following = next(made, None)
            yield batch


def _pinned(batch: Batch) -> Batch:
    image, mask = batch
    return image.pin_memory(), mask.pin_memory()
