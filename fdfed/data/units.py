"""A site's training images by what differential privacy protects: patients, or images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fdfed.config import Unit
from fdfed.data.site import VARIANTS, SiteData, turned


@dataclass(frozen=True, slots=True, eq=False)
class TrainingUnits:
    """The units of a site's training part. Their number counts as public."""

    data: SiteData
    unit: Unit
    """`image` also where patients were asked for and none are known."""
    members: tuple[tuple[int, ...], ...]
    """Indices of each unit's images."""

    def __len__(self) -> int:
        return len(self.members)

    @property
    def images(self) -> int:
        """Training images of all units."""
        return sum(map(len, self.members))

    def batches(
        self, units: Sequence[int], rng: np.random.Generator, *, images: int, most: int | None
    ) -> list[tuple[Sequence[int], list[int]]]:
        """Whole units together in batches of about `images` images: (units, all their images).

        Args:
            images: a batch is closed before it would have more; one unit is never divided.
            most: a unit with more images than this gives that many, drawn anew; None gives all.
        """
        made: list[tuple[list[int], list[int]]] = []
        for unit in units:
            chosen = list(self.members[unit])
            if most is not None and len(chosen) > most:
                chosen = [int(i) for i in rng.choice(chosen, size=most, replace=False)]
            if not made or len(made[-1][1]) + len(chosen) > images:
                made.append(([], []))
            made[-1][0].append(unit)
            made[-1][1].extend(chosen)
        return [(units, images) for units, images in made]

    def owners(self, units: Sequence[int], images: Sequence[int]) -> Int64[Tensor, " images"]:
        """For each image, the place in `units` of the unit that it belongs to."""
        place = {index: k for k, unit in enumerate(units) for index in self.members[unit]}
        return torch.tensor([place[index] for index in images], dtype=torch.int64)

    def load(
        self, images: Sequence[int], rng: np.random.Generator, *, augment: bool
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 1 h w"]]:
        """Images in [0, 1] and masks of {0, 1}, each turned once at most; with `crop` a random
        square of each."""
        pictures, masks = [], []
        for index in images:
            sample = self.data.samples[index]
            variant = int(rng.integers(VARIANTS)) if augment else 0
            window = self.data.window(sample["mask"], rng)
            pictures.append(turned(sample["image"][window], variant))
            masks.append(turned(sample["mask"][window], variant))
        return torch.stack(pictures), torch.stack(masks)


def training_units(data: SiteData, unit: Unit) -> TrainingUnits:
    """The training part of `data` by patient where `patients.csv` names them, else by image."""
    train = data.parts["train"]
    known = any(case.patient != case.name for case in data.all_cases)
    if unit == "image" or not known:
        return TrainingUnits(data, "image", tuple((index,) for index in train))
    by_patient: dict[str, list[int]] = {}
    for index in train:
        by_patient.setdefault(data.all_cases[index].patient, []).append(index)
    return TrainingUnits(data, "patient", tuple(tuple(found) for found in by_patient.values()))
