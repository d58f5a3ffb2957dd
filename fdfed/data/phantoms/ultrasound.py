"""Breast-ultrasound phantoms: layered tissue, a dark lesion, its shadow, and speckle.

The picture is computed as a scanner forms one: log amplitude of the echo (tissue, lesion, shadow,
attenuation), times fully developed speckle (magnitude of complex Gaussian noise that is correlated
over the resolution cell: Burckhardt 1978, IEEE Trans. Sonics Ultrason. 25(1):1-6), then log
compression, blur and noise.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from fdfed.data.phantoms.fields import Field, blob, blur, grid, smooth_noise, soft_step
from fdfed.data.phantoms.specs import UltrasoundSpec

_PATIENT_GAIN_SD = 0.03
"""Spread of the gain between patients of one site, in levels."""
_FLOOR = 0.03
"""Amplitude below which log compression shows black, relative to a mean speckle."""


def ultrasound_phantom(
    spec: UltrasoundSpec,
    *,
    size: int,
    patient: np.random.Generator,
    picture: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "size size"], Bool[np.ndarray, "size size"]]:
    """(grey image, mask of the lesion).

    Args:
        spec: the site's scanner.
        size: side in pixels.
        patient: draws what all pictures of one patient share.
        picture: draws the rest.
    """
    gain = spec.gain + _PATIENT_GAIN_SD * patient.normal()
    fat_depth = patient.uniform(0.12, 0.26)
    echo = _tissue(picture, size, fat_depth)
    echo -= spec.attenuation * (grid(size)[0] - 0.5)
    echo -= _fat_lobules(picture, size, spec)
    mask = np.zeros((size, size), dtype=bool)
    if picture.uniform() >= spec.normals:
        depth = _lesion(picture, size, spec)
        mask = depth > 0
        echo -= _shadow(depth, spec)
        echo = _with_lesion(picture, echo, depth, spec)
    level = gain + spec.contrast * (echo + _log_speckle(picture, size, spec))
    level = blur(level, spec.blur * size)
    level += spec.noise * (0.5 + grid(size)[0]) * picture.standard_normal((size, size))
    return np.round(255 * np.clip(level, 0, 1)).astype(np.uint8), mask


def _tissue(rng: np.random.Generator, size: int, fat_depth: float) -> Field:
    """Log amplitude of skin, fat, gland and muscle, in layers with wavy borders."""
    y, _ = grid(size)
    wave = 0.03 * smooth_noise(rng, size, (float(size), size / 8))
    muscle_depth = rng.uniform(0.80, 0.92)
    skin = soft_step(0.045 - y, 0.012)
    gland = soft_step(y - fat_depth + wave, 0.02)
    muscle = soft_step(y - muscle_depth + wave, 0.02)
    fascia = np.exp(-(((y - muscle_depth + wave) / 0.012) ** 2))
    fibres = 0.35 * smooth_noise(rng, size, (size / 90, size / 10))
    texture = 0.25 * smooth_noise(rng, size, (size / 40, size / 14))
    fat = -0.9 + 0.2 * smooth_noise(rng, size, size / 20)
    layers = fat * (1 - gland) + texture * gland
    layers = layers * (1 - muscle) + (fibres - 0.8) * muscle
    echo: Field = layers * (1 - skin) + 1.2 * skin + 0.9 * fascia
    return echo


def _fat_lobules(rng: np.random.Generator, size: int, spec: UltrasoundSpec) -> Field:
    """Dark, flat, vaguely bordered islands that are *not* lesions: brightness alone misleads."""
    fall = np.zeros((size, size))
    for _ in range(rng.integers(2, 5)):
        depth = blob(
            rng,
            grid(size),
            centre=(rng.uniform(0.2, 0.85), rng.uniform(0.0, 1.0)),
            radii=(rng.uniform(0.025, 0.05), rng.uniform(0.10, 0.24)),
            tilt=rng.normal() * 0.15,
            roughness=0.25,
        )
        fall = np.maximum(fall, rng.uniform(0.5, 0.8) * spec.lesion_depth * soft_step(depth, 0.35))
    return fall


def _lesion(rng: np.random.Generator, size: int, spec: UltrasoundSpec) -> Field:
    """Signed depth of the lesion: compact, inside the gland, clear of the border."""
    low, high = spec.lesion_radius
    width = rng.uniform(low, high)
    height = max(width * rng.uniform(0.6, 0.95), 0.05)
    return blob(
        rng,
        grid(size),
        centre=(rng.uniform(0.36, 0.62), rng.uniform(0.05 + high, 0.95 - high)),
        radii=(height, width),
        tilt=rng.normal() * 0.3,
        roughness=rng.uniform(0.08, 0.35),
    )


def _with_lesion(
    rng: np.random.Generator, echo: Field, depth: Field, spec: UltrasoundSpec
) -> Field:
    """`echo` with the lesion's own interior and the bright halo that some lesions have."""
    size = len(echo)
    fall = spec.lesion_depth * rng.uniform(0.85, 1.15)
    inside = soft_step(depth, rng.uniform(0.04, 0.12))
    interior = 0.25 * smooth_noise(rng, size, size / 30) - fall
    halo = rng.uniform(0.0, 0.7) * np.exp(-(((depth + 0.15) / 0.12) ** 2))
    mixed: Field = echo * (1 - inside) + interior * inside + halo
    return mixed


def _shadow(depth: Field, spec: UltrasoundSpec) -> Field:
    """Fall of log amplitude below the lesion, in proportion to the path through it."""
    size = len(depth)
    path = np.cumsum(depth > 0, axis=0) / size
    longest = float(path.max())
    if longest == 0:
        return np.zeros_like(depth)
    behind = (path / longest) * (depth <= 0)
    return spec.shadow * blur(behind, (0.01 * size, 0.02 * size))


def _log_speckle(rng: np.random.Generator, size: int, spec: UltrasoundSpec) -> Field:
    """Log of Rayleigh-distributed amplitude, with grains of the size of the resolution cell."""
    axial, lateral = (grain * size for grain in spec.speckle)
    real = smooth_noise(rng, size, (axial, lateral))
    imaginary = smooth_noise(rng, size, (axial, lateral))
    log_amplitude: Field = np.log(np.hypot(real, imaginary) / np.sqrt(np.pi / 2) + _FLOOR)
    return log_amplitude
