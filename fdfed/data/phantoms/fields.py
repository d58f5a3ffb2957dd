"""Random smooth fields and outlines, of which both kinds of phantom are made."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "h w"]


def grid(size: int) -> tuple[Field, Field]:
    """(y, x) of the pixel centres as fractions of the side; y grows downwards."""
    centres = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return y, x


def blur(field: Field, sigma: float | tuple[float, float]) -> Field:
    """Gaussian blur with standard deviation `sigma` (y, x) in pixels; edges are mirrored.

    Done in the frequency domain: the blur is exact and its cost does not grow with sigma.
    """
    sigma_y, sigma_x = (sigma, sigma) if isinstance(sigma, int | float) else sigma
    height, width = field.shape
    pad_y = min(height, int(4 * sigma_y) + 1)
    pad_x = min(width, int(4 * sigma_x) + 1)
    padded = np.pad(field, ((pad_y, pad_y), (pad_x, pad_x)), mode="symmetric")
    v = np.fft.fftfreq(padded.shape[0])[:, np.newaxis]
    u = np.fft.rfftfreq(padded.shape[1])[np.newaxis, :]
    gain = np.exp(-2 * np.pi**2 * ((sigma_y * v) ** 2 + (sigma_x * u) ** 2))
    smooth = np.fft.irfft2(np.fft.rfft2(padded) * gain, s=padded.shape)
    inner: Field = smooth[pad_y : pad_y + height, pad_x : pad_x + width]
    return inner


def smooth_noise(rng: np.random.Generator, size: int, sigma: float | tuple[float, float]) -> Field:
    """Gaussian noise blurred by `sigma` pixels, with mean 0 and standard deviation 1."""
    field = blur(rng.standard_normal((size, size)), sigma)
    spread = float(field.std())
    standard: Field = (field - field.mean()) / (spread if spread > 0 else 1.0)
    return standard


def blob(
    rng: np.random.Generator,
    at: tuple[Field, Field],
    *,
    centre: tuple[float, float],
    radii: tuple[float, float],
    tilt: float,
    roughness: float,
) -> Field:
    """Signed depth inside an irregular ellipse: 1 at its centre, 0 on its outline, below outside.

    The outline is an ellipse whose radius is modulated by five random harmonics.

    Args:
        rng: draws the harmonics.
        at: (y, x) of the pixels, as from `grid`.
        centre: (y, x) as fractions of the side.
        radii: half axes (y, x) as fractions of the side, before the tilt.
        tilt: turn in radians.
        roughness: size of the modulation, as a share of the radius.
    """
    dy, dx = at[0] - centre[0], at[1] - centre[1]
    along_y = (np.cos(tilt) * dy - np.sin(tilt) * dx) / radii[0]
    along_x = (np.sin(tilt) * dy + np.cos(tilt) * dx) / radii[1]
    angle = np.arctan2(along_y, along_x)
    outline = np.ones_like(angle)
    for harmonic in range(2, 7):
        weight, phase = rng.normal() * roughness / harmonic, rng.uniform(0, 2 * np.pi)
        outline += weight * np.cos(harmonic * angle + phase)
    field: Field = 1 - np.hypot(along_y, along_x) / np.clip(outline, 0.4, None)
    return field


def soft_step(field: Field, width: float) -> Field:
    """0 far below zero, 1 far above, over about `width`."""
    step: Field = 0.5 * (1 + np.tanh(field / width))
    return step
