"""How large the study is, and whose images it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fdfed.config import MethodPlan, RunPlan
from fdfed.data import open_site
from fdfed.data.cases import Part
from fdfed.errors import DataError, InvalidInput
from fdfed.studies.held_out import DRAW


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Sizes of all parts. The study's are the defaults; smaller ones are for tests."""

    sites: tuple[str, ...] = ("busbra", "busuclm")
    """Members are of their training folds, others of their validation folds."""
    size: int = 32
    """Side of the images in pixels."""
    width: int = 8
    """Of the U-Net."""
    members: int = 48
    """Images that the attacked models are trained on; split over `shares` hospitals."""
    shares: int = 3
    others: int = 128
    """Images of other patients: non-members, and what an attacker has for proxies."""
    samples: int = 20_000
    """Blinded prototypes that the attack by principal axes has at most."""
    steps_seen: int = 5000
    """Steps that the regression on gradients has at most; a fifth for the comparison of lengths."""
    forgeries: int = 10
    """Steps in which each forgery is tried."""
    proxies: int = 192
    """Batches that the learned inverse is fitted on; half as many where one has several images."""
    rounds: int = 40
    steps: int = 10
    """Local steps a round."""
    watched: int = 8
    """Rounds that the coordinator evaluates its attack on, evenly spread."""
    matching_size: int = 16
    """Side of the pictures that are sought by optimisation, in pixels ..."""
    matching_width: int = 16
    """... and width of the network there: 1,472 numbers in a frame for 256 pixels."""
    matching_steps: int = 300
    matched_images: int = 3
    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.members < 2 * self.shares or self.rounds < self.watched:
            raise InvalidInput(
                f"a privacy study of {self.members} members at {self.shares} hospitals and "
                f"{self.watched} watched of {self.rounds} rounds; every hospital needs two images, "
                "and no more rounds can be watched than there are"
            )

    @property
    def plan(self) -> RunPlan:
        """How the attacked models are trained: without augmentation, so that they overfit."""
        return RunPlan(
            in_channels=1,
            width=self.width,
            norm="group",
            size=self.size,
            batch_size=8,
            steps_per_round=self.steps,
            rounds=self.rounds,
            weight_decay=0.0,
            learning_rate=2e-3,
            learning_rate_schedule="constant",
            method=MethodPlan(bound="none"),
            augment=False,
            strategy="fedavg",
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images (n, 1, h, w) in [0, 1], their masks, and whose they are."""

    image: Float[Tensor, "n 1 h w"]
    mask: Float[Tensor, "n 1 h w"]
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def sites(self) -> tuple[str, ...]:
        """Which site each is of."""
        return tuple(patient.split("/")[0] for patient in self.patients)

    def site_means(self) -> dict[str, Float[Tensor, "1 h w"]]:
        """The mean picture of each site: the best guess of whoever knows only whence an image is,
        which every onlooker does."""
        sites = self.sites
        return {
            name: self.image[[i for i, site in enumerate(sites) if site == name]].mean(0)
            for name in sorted(set(sites))
        }

    def take(self, chosen: Sequence[int]) -> Images:
        """Those at the indices `chosen`."""
        rows = list(chosen)
        return Images(self.image[rows], self.mask[rows], tuple(self.patients[i] for i in rows))


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Who is attacked and what the attacker has of his own; no patient is in both."""

    members: Images
    others: Images
    decoys: Images
    """Of other patients of the members' fold: released in the members' place, they show what an
    attack scores by the difference of the two folds alone."""


def open_population(setting: Setting, data: Path) -> Population:
    """Members from the training folds and others from the validation folds of the setting's sites.

    The held-out patients are in neither: with a fold, they are in no part of the split.

    Raises:
        DataError: if a site holds too few images, or test images.
    """
    members = _gather(setting, data, "train", setting.members)
    return Population(
        members=members,
        others=_gather(setting, data, "validation", setting.others),
        decoys=_gather(setting, data, "train", setting.members, without=members.patients),
    )


def _gather(
    setting: Setting, data: Path, part: Part, count: int, *, without: Sequence[str] = ()
) -> Images:
    per_site = []
    for name in setting.sites:
        site = open_site(
            name,
            data,
            size=setting.size,
            in_channels=1,
            seed=setting.seed,
            batch_size=1,
            augment=False,
            held_out=DRAW,
            fold=0,
            folds=2,
        )
        if site.parts["test"]:
            raise DataError(f"{name} holds test images; this study must be given a fold")
        samples = [(site.samples[index], site.all_cases[index]) for index in site.parts[part]]
        # Without foreground an image has no prototype, and without background none either.
        per_site.append(
            [
                (sample["image"], sample["mask"], f"{name}/{case.patient}")
                for sample, case in samples
                if 0 < float(sample["mask"].mean()) < 1 and f"{name}/{case.patient}" not in without
            ]
        )
    each = -(-count // len(per_site))
    rows = [row for found in per_site for row in found[:each]][:count]
    if len(rows) < count:
        raise DataError(
            f"{', '.join(setting.sites)} have {len(rows)} usable images in their {part} fold and "
            f"the study needs {count}; provide more images"
        )
    image, mask, patients = zip(*rows, strict=True)
    return Images(torch.stack(image), torch.stack(mask), tuple(patients))
