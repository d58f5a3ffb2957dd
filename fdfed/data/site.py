"""A site's images in memory, and the batches a training or evaluation step takes from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from monai.data.dataset import CacheDataset
from monai.transforms.compose import Compose
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from fdfed.data.cases import PARTS, Case, Part
from fdfed.data.folder import Progress, check_site_folder
from fdfed.data.folds import study_split, without_draw
from fdfed.data.loading import loading_chain
from fdfed.data.seeds import generator
from fdfed.errors import InvalidInput

VARIANTS: Final = 5
"""The paper's fivefold augmentation: identity, two flips, rotations by ±90°."""


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Images in each part, and those of all parts whose mask is empty at the run's size."""

    train: int
    validation: int
    test: int
    empty_masks: int


@dataclass(frozen=True, eq=False)
class SiteData:
    """Cached cases of one site (or of several, pooled), and their split.

    Holds no position and no generator: every batch is a function of its arguments, so a round
    that is repeated or resumed trains on the same batches.
    """

    name: str
    phantoms: bool
    """Whether the images are built-in phantoms."""
    seed: int
    batch_size: int
    augment: bool
    crop: int | None
    """Side of the random squares that training takes from images of their own size, in pixels;
    None where all images have the run's size."""
    samples: Dataset[dict[str, Tensor]]
    """Index → {"image": (c, h, w), "mask": (1, h, w)}, float32 on the CPU."""
    all_cases: tuple[Case, ...]
    """The case of each index."""
    parts: Mapping[Part, tuple[int, ...]]
    """Indices of each part, in a fixed order."""
    noise: float = 0.0
    """σ of the Gaussian noise on training images."""
    patients_known: bool = True
    """Whether `patients.csv` says whose the images are; else each counts as its own patient."""

    @property
    def training_patient_count(self) -> int:
        """Patients of the training part; its images, where nothing says whose they are."""
        return len({case.patient for case in self.cases("train")})

    @property
    def counts(self) -> SplitCounts:
        """Images in each part."""
        indices = [index for part in PARTS for index in self.parts[part]]
        empty = sum(not bool(self.samples[index]["mask"].any()) for index in indices)
        train, validation, test = (len(self.parts[part]) for part in PARTS)
        return SplitCounts(train, validation, test, empty)

    def cases(self, part: Part) -> tuple[Case, ...]:
        """The cases of one part, in the order of `evaluation_batches`."""
        return tuple(self.all_cases[index] for index in self.parts[part])

    def training_batch(
        self, global_step: int
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 1 h w"]]:
        """Images in [0, 1] and masks of {0, 1} for one step: a pure function of (seed, site,
        step).

        The training cases, shuffled anew for each epoch, form one endless stream; step k takes
        items k·n to (k+1)·n - 1 of it. So every batch is full, also when the site has fewer
        images than a batch, and within an epoch no image comes twice.

        Args:
            global_step: steps before this one, since the run began; from 0.
        """
        if global_step < 0:
            raise InvalidInput(
                f"training_batch got global_step = {global_step}; steps count from 0 over the "
                "whole run"
            )
        images, masks = [], []
        for item, index in enumerate(self._batch(global_step)):
            sample = self.samples[index]
            variant = self._variant(global_step, item)
            rng = generator("crop", self.seed, self.name, global_step, item)
            window = self.window(sample["mask"], rng)
            image = turned(sample["image"][window], variant)
            images.append(self._noisy(image, global_step, item))
            masks.append(turned(sample["mask"][window], variant))
        return torch.stack(images), torch.stack(masks)

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        """The patient of each image of `training_batch(global_step)`; its own name without
        `patients.csv`."""
        return tuple(self.all_cases[index].patient for index in self._batch(global_step))

    def patients_of(self, part: Part) -> dict[str, str]:
        """The patient of each image of a part, by the image's name."""
        return {case.name: case.patient for case in self.cases(part)}

    def _batch(self, global_step: int) -> Iterator[int]:
        start = global_step * self.batch_size
        return self._stream(start, start + self.batch_size)

    def _stream(self, start: int, stop: int) -> Iterator[int]:
        """Indices at positions `start` to `stop` of the concatenated epochs."""
        train = self.parts["train"]
        for epoch in range(start // len(train), math.ceil(stop / len(train))):
            order = generator("epoch", self.seed, self.name, epoch).permutation(len(train))
            first = epoch * len(train)
            for place in order[max(start - first, 0) : stop - first]:
                yield train[place]

    def _variant(self, global_step: int, item: int) -> int:
        if not self.augment:
            return 0
        return int(generator("augment", self.seed, self.name, global_step, item).integers(VARIANTS))

    def _noisy(
        self, image: Float[Tensor, "c h w"], global_step: int, item: int
    ) -> Float[Tensor, "c h w"]:
        """clip(x + N(0, σ²), 0, 1), the noise test of the paper's supplement I."""
        if self.noise == 0:
            return image
        rng = generator("noise", self.seed, self.name, global_step, item)
        drawn = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        return (image + self.noise * torch.from_numpy(drawn)).clamp(0, 1)

    def window(
        self, picture: Float[Tensor, "c h w"], rng: np.random.Generator
    ) -> tuple[slice, ...]:
        """What training takes of a picture: all of it, or a square anywhere in it, all positions
        alike."""
        if self.crop is None:
            return ()
        starts = [int(rng.integers(0, side - self.crop + 1)) for side in picture.shape[1:]]
        return (slice(None), *(slice(start, start + self.crop) for start in starts))

    def evaluation_batches(
        self, part: Part
    ) -> Iterator[tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 1 h w"], tuple[str, ...]]]:
        """(images, masks, case names) of one part in a fixed order, whole and never augmented; the
        last batch may be smaller. With `crop` each image is a batch, as their sizes differ."""
        indices = self.parts[part]
        count = self.batch_size if self.crop is None else 1
        for start in range(0, len(indices), count):
            chosen = indices[start : start + count]
            samples = [self.samples[index] for index in chosen]
            yield (
                torch.stack([sample["image"] for sample in samples]),
                torch.stack([sample["mask"] for sample in samples]),
                tuple(self.all_cases[index].name for index in chosen),
            )

    def subset(self, share: float) -> SiteData:
        """The same site with ⌈share · n⌉ of its n training cases; validation and test stay.

        Subsets are nested: a larger share keeps all cases of a smaller one.
        """
        if not 0 < share <= 1:
            raise InvalidInput(
                f"subset got share = {share}; it is the part of the training images to keep, "
                "above 0 and at most 1"
            )
        train = self.parts["train"]
        order = generator("subset", self.seed, self.name).permutation(len(train))
        kept = sorted(train[place] for place in order[: math.ceil(share * len(train))])
        return replace(self, parts={**self.parts, "train": tuple(kept)})

    def all_as_test(self) -> SiteData:
        """The same site with the images of all parts as test images: for a model that has seen none
        of them."""
        everything = tuple(sorted(index for part in PARTS for index in self.parts[part]))
        return replace(self, parts={"train": (), "validation": (), "test": everything})


def open_site(
    name: str,
    data_dir: Path,
    *,
    size: int,
    in_channels: int,
    seed: int,
    batch_size: int,
    augment: bool = True,
    crop: int | None = None,
    noise: float = 0.0,
    set_aside: str | None = None,
    held_out: str | None = None,
    fold: int | None = None,
    folds: int = 3,
    progress: Progress | None = None,
) -> SiteData:
    """The site in `data_dir/name`, checked, split, resized and held in memory.

    Takes 4·(in_channels + 1) bytes per pixel of the resized image, or of its own with `crop`.

    Args:
        name: the site; also part of every random draw's key.
        data_dir: the folder above the site's.
        size: side of the square that images and masks are resized to, in pixels.
        in_channels: 1 or 3.
        seed: of the split, the order of the epochs and the augmentation.
        batch_size: images per training or evaluation batch.
        augment: whether training batches are flipped and turned at random.
        crop: side of random squares to train on, in pixels; `size` is then unused, and only an
            image with a shorter side is resized.
        noise: σ of Gaussian noise on training images, in units of their range from 0 to 1.
        set_aside, held_out, fold, folds: the split, as in `fdfed.config.SplitPlan`.
        progress: called in this thread as files are read, with (done, all); each file is read
            twice, once to check and once to keep.

    Raises:
        DataError: with all findings, if the folder cannot be used.
    """
    if batch_size < 1:
        raise InvalidInput(f"open_site got batch_size = {batch_size}; it must be at least 1")

    def report_half(offset: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, files: progress(offset * files + done, 2 * files)

    report = check_site_folder(data_dir / name, progress=report_half(0))
    report.raise_findings()
    split = study_split(
        without_draw(report.cases, site=name, draw=set_aside),
        site=name,
        seed=seed,
        held_out=held_out,
        fold=fold,
        folds=folds,
    )
    # Cases in no part are not even read.
    kept = {case.name for part in PARTS for case in split[part]}
    used = tuple(case for case in report.cases if case.name in kept)
    index = {case.name: position for position, case in enumerate(used)}
    chain = loading_chain(("image", "mask"), size=size, in_channels=in_channels, crop=crop)
    return SiteData(
        name=name,
        phantoms=report.phantoms,
        seed=seed,
        batch_size=batch_size,
        augment=augment,
        crop=crop,
        noise=noise,
        samples=_cache(used, chain, report_half(1)),
        all_cases=used,
        parts={part: tuple(index[case.name] for case in split[part]) for part in PARTS},
        patients_known=report.patients_known,
    )


def pool_sites(sites: Sequence[SiteData], name: str = "pooled") -> SiteData:
    """One data set of all sites' images, for a centralised reference: every case stays in the part
    that its own site gave it, and is named `site/case`.

    Seed, batch size and augmentation are those of the first site.
    """
    if not sites:
        raise InvalidInput("pool_sites got no site; hand in at least one")
    if len({site.name for site in sites}) < len(sites):
        names = ", ".join(site.name for site in sites)
        raise InvalidInput(f"pool_sites got one site twice ({names}); name each once")
    shapes = {site.name: _batch_shape(site) for site in sites}
    if len(set(shapes.values())) > 1:
        raise InvalidInput(
            f"pool_sites got images of several shapes, {shapes}; open all sites with one size or "
            "crop, and one number of channels"
        )
    parts: dict[Part, tuple[int, ...]] = dict.fromkeys(PARTS, ())
    cases: list[Case] = []
    for site in sites:
        for part in PARTS:
            parts[part] += tuple(len(cases) + index for index in site.parts[part])
        cases += [
            replace(case, name=f"{site.name}/{case.name}", patient=f"{site.name}/{case.patient}")
            for case in site.all_cases
        ]
    return replace(
        sites[0],
        name=name,
        phantoms=any(site.phantoms for site in sites),
        patients_known=all(site.patients_known for site in sites),
        samples=ConcatDataset([site.samples for site in sites]),
        all_cases=tuple(cases),
        parts=parts,
    )


def turned(picture: Float[Tensor, "c h w"], variant: int) -> Float[Tensor, "c h w"]:
    """One of the paper's five variants of a square picture: 0 as it is, 1 mirrored left to right,
    2 mirrored top to bottom, 3 and 4 turned by 90° to the left and to the right.

    Plain torch on the cached tensor: MONAI's `RandFlipd` and `RandRotate90d` with a state set for
    each item took 0.5 to 1.1 ms an item at 128 px on one core, this 0.06 ms with its draw, and
    they carry a state, which would make a batch depend on the thread that asked before.
    """
    match variant:
        case 0:
            return picture
        case 1:
            return picture.flip(-1)
        case 2:
            return picture.flip(-2)
        case 3:
            return picture.rot90(1, (-2, -1))
        case 4:
            return picture.rot90(-1, (-2, -1))
    raise InvalidInput(f"turned got variant = {variant}; the five variants are 0 to {VARIANTS - 1}")


def _batch_shape(site: SiteData) -> tuple[int, int, int]:
    """(channels, height, width) of the images in the site's training batches."""
    channels, height, width = site.samples[0]["image"].shape
    return (channels, height, width) if site.crop is None else (channels, site.crop, site.crop)


def _cache(cases: Sequence[Case], chain: Compose, progress: Progress | None) -> CacheDataset:
    """MONAI's in-memory data set of the cases as `chain` loads them, filled."""
    dataset = CacheDataset(
        [{"image": case.load_image, "mask": case.load_mask} for case in cases],
        transform=chain,
        runtime_cache=True,  # filled just below, because only so can progress be reported
        copy_cache=False,
        progress=False,
    )
    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(dataset.__getitem__, range(len(cases))), start=1):
            if progress is not None:
                progress(done, len(cases))
    return dataset
