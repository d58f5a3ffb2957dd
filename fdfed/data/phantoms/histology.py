"""Histology phantoms: stained nuclei (or plaques) on fibrous stroma, by the law of Beer-Lambert.

Each dye absorbs by its own optical density per colour channel, so the picture is
`white · exp(-Σ_dye amount · density)` (Ruifrok & Johnston 2001).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from fdfed.data.phantoms.fields import Field, blob, blur, grid, smooth_noise, soft_step
from fdfed.data.phantoms.specs import HistologySpec

_PATIENT_STAIN_SD = 0.06
"""Relative spread of the dyes' amounts between patients of one site."""
_TRIES_PER_NUCLEUS = 12
_DYE = (0.55, 1.15)
"""Dye of the palest and of the darkest nucleus, relative to the site's mean."""
_PALE_CENTRE = 0.5
"""Share of the dye that the centre of a vesicular nucleus may lack."""
_HAZE = 0.28
"""Dye in basophilic ground, relative to a nucleus."""
_TOUCH = -0.08
"""Nuclei may come this close (in signed depth), seldom closer, so that they stay separable."""


def histology_phantom(
    spec: HistologySpec,
    *,
    size: int,
    patient: np.random.Generator,
    picture: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "size size 3"], Bool[np.ndarray, "size size"]]:
    """(RGB image, mask of the nuclei).

    Args:
        spec: the site's stain and scanner.
        size: side in pixels.
        patient: draws what all pictures of one patient share.
        picture: draws the rest.
    """
    target_amount, ground_amount = 1 + _PATIENT_STAIN_SD * patient.normal(size=2)
    stroma, lumen = _stroma(picture, size)
    mask = np.zeros((size, size), dtype=bool)
    nuclei = np.zeros((size, size))
    if picture.uniform() >= spec.normals:
        mask, nuclei = _nuclei(picture, size, spec, avoid=lumen)
    texture = 1 + spec.chromatin * smooth_noise(picture, size, max(0.6, 0.006 * size))
    target = nuclei * np.clip(texture, 0.3, None)
    target = np.maximum(target, _streaks(picture, size))
    target = target_amount * spec.target_strength * (target + _haze(picture, size))
    ground = ground_amount * spec.ground_strength * stroma * (1 - 0.6 * np.clip(nuclei, 0, 1))
    ground += _blood_cells(picture, size, spec) * (1 - np.clip(nuclei, 0, 1))
    image = _develop(picture, spec, blur(target, spec.blur * size), blur(ground, 1.0))
    return image, mask


def _stroma(rng: np.random.Generator, size: int) -> tuple[Field, Field]:
    """(relative density of the ground, share of lumen or fat, which is empty slide)."""
    angle = rng.uniform(0, np.pi)
    long, short = size / 12, size / 90
    # Fibres run mostly along one axis of the picture; a mixture of both stands for the angle.
    fibres = np.cos(angle) * smooth_noise(rng, size, (short, long))
    fibres = fibres + np.sin(angle) * smooth_noise(rng, size, (long, short))
    cloud = smooth_noise(rng, size, size / 8)
    lumen = soft_step(smooth_noise(rng, size, size / 10) - rng.uniform(1.3, 2.2), 0.15)
    density = np.clip(1 + 0.22 * fibres + 0.25 * cloud, 0.15, None) * (1 - 0.9 * lumen)
    return density, lumen


def _nuclei(
    rng: np.random.Generator, size: int, spec: HistologySpec, *, avoid: Field
) -> tuple[Bool[np.ndarray, "size size"], Field]:
    """(mask, relative amount of dye) of nuclei that keep clear of lumen and mostly of each other.

    They differ from one another: dark ones, and pale ones whose dye lies at the rim.
    """
    covered = np.full((size, size), -1.0)
    amount = np.zeros((size, size))
    crowding = smooth_noise(rng, size, size / 6)
    mean_radius = sum(spec.radius) / 2
    wanted = max(1, round(spec.cover / (np.pi * mean_radius**2)))
    y, x = grid(size)
    for _ in range(wanted * _TRIES_PER_NUCLEUS):
        if wanted == 0:
            break
        centre = rng.uniform(0, 1, size=2)
        row, column = (int(part * size) for part in centre)
        crowded = rng.uniform() < 0.5 + 0.4 * np.tanh(crowding[row, column])
        if covered[row, column] > _TOUCH or avoid[row, column] > 0.3 or not crowded:
            continue
        radius, longer = rng.uniform(*spec.radius), rng.uniform(1.0, 1.6)
        reach = int(2 * radius * longer * size) + 2
        near = np.s_[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach]
        depth = blob(
            rng,
            (y[near], x[near]),
            centre=(centre[0], centre[1]),
            radii=(radius * np.sqrt(longer), radius / np.sqrt(longer)),
            tilt=rng.uniform(0, np.pi),
            roughness=0.15,
        )
        if ((depth > 0) & (covered[near] > _TOUCH)).sum() > 0.1 * (depth > 0).sum():
            continue
        dye = rng.uniform(*_DYE) * soft_step(depth, 0.12)
        dye *= 1 - rng.uniform(0, _PALE_CENTRE) * soft_step(depth - 0.45, 0.15)
        covered[near] = np.maximum(covered[near], depth)
        amount[near] = np.maximum(amount[near], dye)
        wanted -= 1
    return covered > 0, amount


def _blood_cells(rng: np.random.Generator, size: int, spec: HistologySpec) -> Field:
    """Amount of ground dye in a few round cells without a nucleus: dark, and *not* a target."""
    amount = np.zeros((size, size))
    radius = 0.7 * sum(spec.radius) / 2
    for _ in range(round(rng.uniform(0.01, 0.05) / (np.pi * radius**2))):
        cell = blob(
            rng,
            grid(size),
            centre=(rng.uniform(), rng.uniform()),
            radii=(radius, radius),
            tilt=0.0,
            roughness=0.05,
        )
        amount = np.maximum(amount, soft_step(cell, 0.15))
    return rng.uniform(0.7, 1.3) * spec.target_strength * amount


def _streaks(rng: np.random.Generator, size: int) -> Field:
    """Relative amount of the target's own dye in thin streaks (fibres, precipitate, cells cut at
    their edge) that are *not* targets, so that the dye's amount alone does not give the mask."""
    lying = smooth_noise(rng, size, (size / 110, size / 36))
    upright = smooth_noise(rng, size, (size / 36, size / 110))
    return 0.8 * soft_step(np.maximum(lying, upright) - 1.8, 0.3)


def _haze(rng: np.random.Generator, size: int) -> Field:
    """Relative amount of the target's dye that spreads over whole areas (basophilic ground)."""
    return _HAZE * soft_step(smooth_noise(rng, size, size / 9) - 0.3, 0.8)


def _develop(
    rng: np.random.Generator, spec: HistologySpec, target: Field, ground: Field
) -> UInt8[np.ndarray, "size size 3"]:
    density = target[..., np.newaxis] * np.array(spec.target_stain)
    density = density + ground[..., np.newaxis] * np.array(spec.ground_stain)
    level = np.array(spec.white) * np.exp(-density)
    level += spec.noise * rng.standard_normal(level.shape)
    pixels: UInt8[np.ndarray, "size size 3"] = np.round(255 * np.clip(level, 0, 1)).astype(np.uint8)
    return pixels
