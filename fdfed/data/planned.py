"""A site's images as a run plan wants them; the agent and the simulation open them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fdfed.config import RunPlan
from fdfed.data.folder import Progress
from fdfed.data.phantoms import write_phantoms
from fdfed.data.site import SiteData, open_site

PHANTOM_IMAGES: Final = 60
"""Enough that every part of the split has more images than the smallest aggregate needs."""


def open_planned(
    plan: RunPlan, site: str, folder: Path, *, progress: Progress | None = None
) -> SiteData:
    """The images in `folder / site`, checked, split and resized or cropped as the plan says.

    Raises:
        DataError: with all findings.
    """
    return open_site(
        site,
        folder,
        size=plan.size,
        in_channels=plan.in_channels,
        seed=plan.seed,
        batch_size=plan.batch_size,
        augment=plan.augment,
        crop=plan.crop,
        noise=plan.noise,
        set_aside=plan.split.set_aside,
        held_out=plan.split.held_out,
        fold=plan.split.fold,
        folds=plan.split.folds,
        progress=progress,
    )


def write_planned_phantoms(plan: RunPlan, site: str, folder: Path) -> None:
    """The site's phantoms below `folder`; nothing where they are those of this plan already."""
    write_phantoms(folder, site, images=PHANTOM_IMAGES, size=plan.size, seed=plan.seed)
